"""Saves beside training: a memory copy now, the disk in a thread. One save at a time.

A save that is due while another is still being written is put off until that one has ended, so a slow disk
stretches the distance between checkpoints and never the training step. The thread only calls `write`, which takes
plain values: another process could do it as well.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from disttrain_contract.messages import Checkpoint, CheckpointProblem
from disttrain_runtime.checkpoint.buffers import Buffers
from disttrain_runtime.checkpoint.fence import Fence, Holder
from disttrain_runtime.checkpoint.snapshot import Snapshot
from disttrain_runtime.checkpoint.volume import Volume
from disttrain_runtime.checkpoint.writer import Facts, explain, reason, retire, write

Event = Checkpoint | CheckpointProblem


class Saver:
    """The checkpoints of one incarnation. Lives on rank 0."""

    def __init__(
        self,
        volume: Volume,
        fence: Fence,
        *,
        keep: int,
        asynchronous: bool,
        committed: int | None,
        rejected: Collection[int],
    ) -> None:
        self._volume, self._fence, self._keep, self._rejected = volume, fence, keep, rejected
        self._asynchronous = asynchronous
        self._buffers = Buffers()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._flight: Future[Event] | None = None
        self.committed = committed
        """The step of the newest checkpoint known to be good."""

    def claim(self, holder: Holder) -> None:
        """Go on in a newer incarnation. A save under way belongs to it: same process, same trajectory."""
        self._fence.advance(holder)

    @property
    def busy(self) -> bool:
        """A save is under way."""
        return self._flight is not None and not self._flight.done()

    def prepare(self, state: Mapping[str, Any]) -> None:
        """Make the buffers before they are needed, so that the first save stalls no longer than the others."""
        self._buffers.capture(state)

    def save(self, state: Mapping[str, Any], facts: Facts) -> list[Event]:
        """Take a copy of the state and begin to write it. Gives what has ended since: see `poll`."""
        events = self.finish()
        began = time.monotonic()
        snapshot = self._buffers.capture(state)
        self._flight = self._thread.submit(self._write, snapshot, facts, began)
        return events if self._asynchronous else events + self.finish()

    def poll(self) -> list[Event]:
        """The outcome of a save that has ended, once. Raises FencedError when a newer incarnation owns the job."""
        return [] if self.busy else self.finish()

    def finish(self) -> list[Event]:
        """Wait for the save under way, and give its outcome."""
        flight, self._flight = self._flight, None
        if flight is None:
            return []
        event = flight.result()
        if isinstance(event, Checkpoint):
            self.committed = event.step
        return [event]

    def _write(self, snapshot: Snapshot, facts: Facts, began: float) -> Event:
        try:
            committed = write(self._volume, self._fence, snapshot, facts)
        except OSError as error:
            return CheckpointProblem(step=facts.step, reason=reason(error), message=explain(error, self._volume))
        retire(self._volume, committed.step, self._rejected, self._keep)
        return Checkpoint(
            step=committed.step,
            digest=committed.digest,
            path=str(committed.path),
            incarnation=self._fence.holder.incarnation,
            time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            bytes=committed.bytes,
            seconds=round(time.monotonic() - began, 3),
        )
