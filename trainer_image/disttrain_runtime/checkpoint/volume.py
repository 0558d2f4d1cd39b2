"""A job's directory on the volume: where checkpoints are, how they are read without trust, and how they go away."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from disttrain_contract.paths import CHECKPOINTS, step_dir_name
from disttrain_runtime.checkpoint.durable import sync_directory
from disttrain_runtime.checkpoint.manifest import RejectedError

WRITING, REMOVING = ".writing-", ".removing-"
"""Prefixes of folders that are no checkpoints, yet or any more."""
_STEP = re.compile(r"step-(\d{8,18})")


class Volume:
    """The checkpoints of one job."""

    def __init__(self, job_dir: Path) -> None:
        self.job_dir, self.checkpoints = job_dir, job_dir / CHECKPOINTS

    def create(self) -> None:
        """Make the directories. Raises OSError."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self.checkpoints / step_dir_name(step)

    def draft(self, step: int) -> Path:
        """A new folder to write a checkpoint in."""
        path = self.checkpoints / f"{WRITING}{step:08d}-{uuid.uuid4().hex[:8]}"
        path.mkdir()
        return path

    def steps(self) -> tuple[int, ...]:
        """Steps that have a folder of that name, newest first. Nothing is said about what is in it."""
        found = (_STEP.fullmatch(path.name) for path in self.checkpoints.iterdir())
        steps = (int(match[1]) for match in found if match and match[0] == step_dir_name(int(match[1])))
        return tuple(sorted(steps, reverse=True))

    def put(self, draft: Path, step: int) -> None:
        """The commit: one rename, made durable. What stood there before did not verify, and is set aside first."""
        target = self.path(step)
        if os.path.lexists(target):
            self.discard(target)
        draft.rename(target)
        try:
            sync_directory(self.checkpoints)
        except OSError:
            self.discard(target)  # perhaps not on the disk: counts as lost
            raise

    def set_aside(self, path: Path) -> Path:
        """Take a folder its name, and give the new one: it is no checkpoint any more."""
        return path.rename(path.with_name(f"{REMOVING}{uuid.uuid4().hex[:8]}"))

    def discard(self, path: Path) -> None:
        """Remove a folder: first its name, so that a half-removed one is never taken for a checkpoint."""
        try:
            trash = path if path.name.startswith(REMOVING) else self.set_aside(path)
            if stat.S_ISDIR(os.lstat(trash).st_mode):
                shutil.rmtree(trash)
            else:
                trash.unlink()
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def try_discard(self, path: Path) -> None:
        """Remove it if possible. What stays is not taken for a checkpoint; the next owner tries again."""
        with suppress(OSError):
            self.discard(path)

    def sweep(self) -> None:
        """Remove what earlier incarnations left half-done. Only for the holder of the fence."""
        for path in list(self.checkpoints.iterdir()):
            if path.name.startswith((WRITING, REMOVING)):
                self.try_discard(path)


class Folder:
    """One checkpoint, opened for reading. No link is followed, so nothing outside of it can be reached."""

    def __init__(self, path: Path) -> None:
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise RejectedError(f"its folder cannot be opened ({error.strerror})") from error

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    @contextmanager
    def opened(self, names: Iterable[str]) -> Iterator[list[BinaryIO]]:
        """Several files at once. They can be read to their end even when the folder is deleted meanwhile."""
        with ExitStack() as stack:
            yield [stack.enter_context(self._open(name)) for name in names]

    def _open(self, name: str) -> BinaryIO:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._fd)
        except FileNotFoundError as error:
            raise RejectedError(f"{name} is missing") from error
        except OSError as error:
            raise RejectedError(f"{name} cannot be opened ({error.strerror}); only plain files are read") from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise RejectedError(f"{name} is not a plain file")
        return os.fdopen(fd, "rb")

    def read(self, name: str, *, size: int | None = None, at_most: int | None = None) -> bytes:
        """A regular file's whole contents; `size` is what it must have."""
        with self._open(name) as file:
            status = os.fstat(file.fileno())
            if size is not None and status.st_size != size:
                raise RejectedError(f"{name} has {status.st_size} bytes instead of {size}")
            if at_most is not None and status.st_size > at_most:
                raise RejectedError(f"{name} has {status.st_size} bytes; ours have at most {at_most}")
            try:
                return file.read(status.st_size)
            except (OSError, MemoryError, OverflowError) as error:
                raise RejectedError(f"{name} cannot be read ({type(error).__name__}: {error})") from error
