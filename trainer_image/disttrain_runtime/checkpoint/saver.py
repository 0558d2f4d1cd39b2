"""Saves beside training: a memory copy now, the disk in another process. One save at a time.

A save that is due while another is still being written is put off until that one has ended, so a slow disk
stretches the distance between checkpoints and never the training step.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from disttrain_contract.messages import Checkpoint, CheckpointProblem
from disttrain_runtime.checkpoint.buffers import Buffers, Capture, ChangedError
from disttrain_runtime.checkpoint.fence import Fence, Holder
from disttrain_runtime.checkpoint.save_request import SaveRequest
from disttrain_runtime.checkpoint.snapshot import Snapshot
from disttrain_runtime.checkpoint.volume import Volume
from disttrain_runtime.checkpoint.writer import Facts
from disttrain_runtime.checkpoint.writer_main import FENCED
from disttrain_runtime.checkpoint.writer_process import WriterDiedError, WriterProcess
from disttrain_runtime.errors import FencedError

Event = Checkpoint | CheckpointProblem
_AT_ONCE = "the task changes the optimizer's state outside of its step; from now on saves copy everything before training goes on"


@dataclass(frozen=True, slots=True)
class _Begun:
    """A save as it was when it was due."""

    capture: Capture
    facts: Facts
    holder: Holder
    began: float


class Saver:
    """The checkpoints of the rank that leads. It lives as long as that rank leads, through all incarnations."""

    def __init__(
        self,
        volume: Volume,
        fence: Fence,
        *,
        keep: int,
        asynchronous: bool,
        committed: int | None,
        rejected: Collection[int],
        quiet: Collection[str] = (),
    ) -> None:
        self._volume, self._fence, self._keep, self._rejected = volume, fence, keep, tuple(rejected)
        self._asynchronous = asynchronous
        self._quiet = quiet if asynchronous else ()
        """Top-level keys that may be copied beside training; who names some calls `settle_copy` before they change."""
        self._begun: _Begun | None = None
        """A save whose copy may not be complete yet."""
        self._buffers, self._writer = Buffers(), WriterProcess()
        self._flight: int | None = None
        """The step that is being written."""
        self.best: tuple[int, ...] = ()
        """Steps with the best evaluations: retention keeps the first of them that is there."""
        self.committed = committed
        """The step of the newest checkpoint known to be good."""
        self.stalled_seconds = 0.0
        """What training has waited for checkpoints in this incarnation."""

    @property
    def busy(self) -> bool:
        """A save is under way."""
        return self._begun is not None or (self._flight is not None and not self._writer.answered())

    @property
    def writer_pid(self) -> int | None:
        """The process that writes; None before it is needed."""
        return self._writer.pid

    @property
    def fence(self) -> Fence:
        """Under whose number it saves."""
        return self._fence

    @property
    def newest(self) -> int | None:
        """The step that was saved last, written already or not yet."""
        if self._begun is not None:
            return self._begun.facts.step
        return self._flight if self._flight is not None else self.committed

    def claim(self, holder: Holder) -> None:
        """The group was formed anew around this rank: go on under its number. A save under way stays good, because
        it is still this process that holds the fence.

        Raises FencedError when an even newer incarnation holds it.
        """
        self._fence = self._fence.renewed(holder)
        self.stalled_seconds = 0.0
        with suppress(OSError):  # the older claim still keeps everybody else out; the next save says what is wrong
            self._fence.claim()

    def prepare(self, state: Mapping[str, Any]) -> None:
        """Make the buffers and the process before they are needed: the first save stalls no longer than the others."""
        with self._stall():
            with suppress(OSError):  # no room for a process: the first save tries again, and says so
                self._writer.start()
            self._buffers.capture(state).finish()

    def save(self, state: Mapping[str, Any], facts: Facts) -> list[Event]:
        """Take a copy of the state and begin to write it. Gives what has ended since: see `poll`."""
        events = self.finish()
        with self._stall():
            began = time.monotonic()
            self._begun = _Begun(self._buffers.capture(state, self._quiet), facts, self._fence.holder, began)
        if not self._quiet:
            events += self.settle_copy()
        return events if self._asynchronous else events + self.finish()

    def settle_copy(self) -> list[Event]:
        """The state is about to change: wait until its copy is complete, and hand it to the writer."""
        if self._begun is None:
            return []
        begun, self._begun = self._begun, None
        with self._stall():
            try:
                snapshot = begun.capture.finish()
                self._writer.ask(self._request(begun, snapshot))
            except ChangedError as error:
                self._quiet = ()  # once is enough: from now on everything is copied at once
                return [CheckpointProblem(step=begun.facts.step, reason="StateChanged", message=f"{error}; {_AT_ONCE}")]
            except (WriterDiedError, OSError) as error:
                return [_lost(begun.facts.step, error)]
        self._flight = begun.facts.step
        return []

    def _request(self, begun: _Begun, snapshot: Snapshot) -> SaveRequest:
        return SaveRequest(
            job_dir=self._volume.job_dir,
            holder=begun.holder,
            claimant=self._fence.claimant,
            keep=self._keep,
            rejected=self._rejected,
            best=self.best,
            began=begun.began,
            facts=begun.facts,
            snapshot=snapshot,
        )

    def poll(self) -> list[Event]:
        """The outcome of a save that has ended, once. Raises FencedError when a newer incarnation owns the job."""
        return [] if self.busy else self.finish()

    def finish(self) -> list[Event]:
        """Wait for the save under way, and give its outcome."""
        if events := self.settle_copy():
            return events
        if self._flight is None:
            return []
        with self._stall():
            event = self._outcome(self._flight)
        self._flight = None
        if isinstance(event, Checkpoint):
            self.committed = event.step
            return [replace(event, stalled_seconds=round(self.stalled_seconds, 3))]
        if event.reason == FENCED:
            raise FencedError(event.message)
        return [event]

    def close(self) -> None:
        """This rank leads no more: drop the save under way, end the process, give the memory back."""
        if self._begun is not None:
            with suppress(Exception):  # its memory goes below
                self._begun.capture.finish()
        self._flight = self._begun = None
        self._writer.close()
        self._buffers.release()

    def _outcome(self, step: int) -> Event:
        try:
            answer = self._writer.answer()
        except WriterDiedError as error:
            with suppress(OSError):
                self._writer.start()  # now, so that the next save need not wait for it
            return _lost(step, error)
        assert isinstance(answer, Checkpoint | CheckpointProblem)
        return answer

    @contextmanager
    def _stall(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.stalled_seconds += time.monotonic() - began


def _lost(step: int, error: Exception) -> CheckpointProblem:
    if isinstance(error, WriterDiedError):
        return CheckpointProblem(step=step, reason="WriterDied", message=f"{error}; another is started")
    return CheckpointProblem(
        step=step,
        reason="WriterDied",
        message=f"the process that writes checkpoints could not be started ({error}): the pod's limit of processes or memory is too low",
    )
