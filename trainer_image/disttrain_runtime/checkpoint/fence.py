"""Who may commit. A new incarnation claims the job's directory; from then on no older one can commit there.

The claim and every commit hold the same lock, so there is no moment between the check and the rename.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from disttrain_contract.paths import FENCE
from disttrain_runtime.checkpoint.durable import replace_file
from disttrain_runtime.errors import FencedError

LOCK = "fence.lock"
"""A file of its own: the fence is replaced as a whole, and a lock does not follow a replaced file."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A group in its time."""

    job_uid: str
    incarnation: int


def may_claim(present: Holder | None, claimant: Holder) -> bool:
    """A job deleted and made again has another uid and takes over; within one job the number decides."""
    return present is None or present.job_uid != claimant.job_uid or present.incarnation <= claimant.incarnation


class Fence:
    """The fence of one job directory, from the point of view of one holder."""

    def __init__(self, job_dir: Path, holder: Holder) -> None:
        self._path, self._lock, self.holder = job_dir / FENCE, job_dir / LOCK, holder

    def claim(self) -> None:
        """Become the holder. Always writes, so it also proves that the volume can be written.

        Raises FencedError when a newer incarnation holds it, OSError when the volume cannot be used.
        """
        self.advance(self.holder)

    def advance(self, holder: Holder) -> None:
        """Claim for a newer incarnation of the same process, which may be inside a commit on another thread."""
        with self._locked():
            present = self._read()
            if not may_claim(present, holder):
                raise self._overtaken(present)
            replace_file(self._path, json.dumps(asdict(holder)).encode())
            self.holder = holder

    @contextmanager
    def held(self) -> Iterator[None]:
        """While inside, nobody can claim. Raises FencedError when somebody has."""
        with self._locked():
            present = self._read()
            if present != self.holder:
                raise self._overtaken(present)
            yield

    def _read(self) -> Holder | None:
        """None when there is none, or none that can be read: a claim then writes it anew, a commit is refused."""
        try:
            raw = json.loads(self._path.read_bytes())
            return Holder(str(raw["job_uid"]), int(raw["incarnation"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)  # gives the lock back, as does the end of the process

    def _overtaken(self, present: Holder | None) -> FencedError:
        owner = f"incarnation {present.incarnation} of job uid {present.job_uid}" if present else "nobody"
        return FencedError(
            f"incarnation {self.holder.incarnation} of job uid {self.holder.job_uid} was overtaken: "
            f"the checkpoint directory now belongs to {owner}"
        )
