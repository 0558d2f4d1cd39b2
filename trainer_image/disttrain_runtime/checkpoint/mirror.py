"""The second tier as the leading rank sees it: offer what was committed, hear what became of it, never wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path

from typing_extensions import override

from disttrain_contract.messages import RemoteCopy
from disttrain_runtime.checkpoint.fence import Fence
from disttrain_runtime.checkpoint.helper_process import HelperDiedError, HelperProcess
from disttrain_runtime.checkpoint.manifest import Expectation
from disttrain_runtime.checkpoint.mirror_request import MirrorAnswer, MirrorRequest, decode_answer

PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from disttrain_runtime.checkpoint.mirror_main import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)
"""Run isolated (-I), but with site packages: fsspec and the store's library are there."""
RETRY_SECONDS = 30.0
"""After a failure, when no newer checkpoint asks sooner."""
LAST_SECONDS = 300.0
"""What the end of training waits for its last copy: well below the 600 s after which a rank that saves has hung."""


class MirrorProcess(HelperProcess):
    """Takes requests to copy."""

    task = "copies checkpoints to the second tier"

    @override
    def command(self) -> list[str]:
        return ["-I", "-c", PROGRAM]


class Mirror:
    """One process, one copy at a time; of what is committed meanwhile only the newest is copied next."""

    def __init__(self, url: str, job_dir: Path, keep: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._url, self._job_dir, self._keep, self._clock = url, job_dir, keep, clock
        self._process = MirrorProcess()
        self._fence: Fence | None = None
        self._flight: int | None = None
        self._wanted: int | None = None
        """The step that is to be copied; stays until it is there."""
        self._not_before = 0.0

    @property
    def pid(self) -> int | None:
        """Of the process; None before it is needed."""
        return self._process.pid

    def fetch(self, fence: Fence, expected: Expectation, avoid: Collection[str]) -> MirrorAnswer:
        """Bring the newest copy that fits to the volume, and wait for it: there is nothing to train from."""
        request = MirrorRequest(
            url=self._url, job_dir=str(self._job_dir), holder=fence.holder, claimant=fence.claimant,
            expected=expected, avoid=tuple(avoid),
        )  # fmt: skip
        try:
            self._process.tell(request.send)
            return decode_answer(self._process.line())
        except (HelperDiedError, OSError) as error:
            return _lost(0, error)

    def offer(self, fence: Fence, step: int) -> list[RemoteCopy]:
        """This step was committed. Gives what has become of the last copy."""
        self._fence, self._wanted, self._not_before = fence, step, 0.0
        return self.poll()

    def poll(self) -> list[RemoteCopy]:
        """What has ended since; begins what is to be done. Never waits."""
        events = self._heard() if self._flight is not None and self._process.answered() else []
        if self._flight is None and self._wanted is not None and self._clock() >= self._not_before:
            events += self._begin(self._wanted)
        return events

    def settle(self, timeout: float = LAST_SECONDS) -> list[RemoteCopy]:
        """The end of training: wait until the last one is copied, has failed, or takes too long."""
        self._not_before = 0.0
        events = self.poll()
        end = self._clock() + timeout
        while self._flight is not None and (left := end - self._clock()) > 0:
            if self._process.answered(left):
                events += self.poll()
        if self._flight is not None:
            late = f"it was not done {timeout:.0f} s after the end of training; the volume has it"
            events.append(self._event(MirrorAnswer(step=self._flight, reason="RemoteSlow", message=late)))
        return events

    def close(self) -> None:
        """End the process, in the middle of a copy if need be: without its manifest it does not count."""
        self._flight = self._wanted = None
        self._process.close()

    def _begin(self, step: int) -> list[RemoteCopy]:
        assert self._fence is not None
        request = MirrorRequest(
            url=self._url, job_dir=str(self._job_dir), holder=self._fence.holder, claimant=self._fence.claimant,
            keep=self._keep, step=step,
        )  # fmt: skip
        try:
            self._process.tell(request.send)
        except (HelperDiedError, OSError) as error:
            return [self._ended(_lost(step, error))]
        self._flight = step
        return []

    def _heard(self) -> list[RemoteCopy]:
        assert self._flight is not None
        try:
            answer = decode_answer(self._process.line())
        except HelperDiedError as error:
            answer = _lost(self._flight, error)
        self._flight = None
        return [self._ended(answer)]

    def _ended(self, answer: MirrorAnswer) -> RemoteCopy:
        if answer.reason:
            self._not_before = self._clock() + RETRY_SECONDS
        elif self._wanted == answer.step:
            self._wanted = None
        return self._event(answer)

    def _event(self, answer: MirrorAnswer) -> RemoteCopy:
        return RemoteCopy(
            step=answer.step, url=self._url, digest=answer.digest, reason=answer.reason, message=answer.message
        )


def _lost(step: int, error: Exception) -> MirrorAnswer:
    return MirrorAnswer(step=step, reason="MirrorDied", message=str(error))
