"""Who may commit. A new incarnation claims the job's directory; from then on no older one can commit there.

The claim and every commit hold the same lock, so there is no moment between the check and the rename. The number
decides who may claim. Who may commit is decided by a mark of the claimant, new for every process that leads: a rank
that survives a re-forming claims the next incarnation while a save of the last one is still being written, and that
save stays good, while nobody else can ever pass for it.
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
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

    def __init__(self, job_dir: Path, holder: Holder, claimant: str | None = None) -> None:
        self._path, self._lock, self.holder = job_dir / FENCE, job_dir / LOCK, holder
        self.claimant = claimant or uuid.uuid4().hex

    def renewed(self, holder: Holder) -> Fence:
        """The same claimant's fence for a later incarnation."""
        return Fence(self._path.parent, holder, self.claimant)

    def claim(self) -> None:
        """Become the holder. Always writes, so it also proves that the volume can be written.

        Raises FencedError when a newer incarnation holds it, OSError when the volume cannot be used.
        """
        with self._locked():
            present, _ = self._read()
            if not may_claim(present, self.holder):
                raise self._overtaken(present)
            replace_file(self._path, json.dumps(asdict(self.holder) | {"claimant": self.claimant}).encode())

    @contextmanager
    def held(self) -> Iterator[None]:
        """While inside, nobody can claim. Raises FencedError when somebody has."""
        with self._locked():
            present, claimant = self._read()
            if claimant != self.claimant:
                raise self._overtaken(present)
            yield

    def _read(self) -> tuple[Holder | None, str | None]:
        """Nobody when there is none, or none that can be read: a claim then writes it anew, a commit is refused."""
        try:
            raw = json.loads(self._path.read_bytes())
            return Holder(str(raw["job_uid"]), int(raw["incarnation"])), raw.get("claimant")
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None, None

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
