"""What a rank says: NDJSON to its agent if there is one, lines for people either way."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace

from disttrain_contract.messages import (
    MAX_METRICS,
    Checkpoint,
    CheckpointProblem,
    Failure,
    Holding,
    Progress,
    RankEvent,
    RemoteCopy,
    Restore,
    encode_rank_message,
)  # fmt: skip

Body = Progress | Checkpoint | CheckpointProblem | RemoteCopy | Failure | Restore | Holding

PRINT_SECONDS = 10.0
"""Inside a job the agent hears every second; the log, kept for days, gets a line this often."""


class Reporter:
    """Sends messages and prints lines. Never stops training: a listener that is gone is no reason."""

    def __init__(self, fd: int | None, say: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._fd, self._say, self._clock = fd, say, clock
        self._printed_at = -math.inf

    def progress(self, progress: Progress, *, last: bool = False) -> None:
        """Where training is."""
        self._send(RankEvent.PROGRESS, _finite(progress))
        if last or self._fd is None or self._clock() - self._printed_at >= PRINT_SECONDS:
            self._printed_at = self._clock()
            self._say(progress_line(progress))
        if last and progress.ended is not None:
            self._say(f"training ends here: {progress.ended.message}")

    def restored(self, restore: Restore) -> None:
        """What this incarnation starts from."""
        self._send(RankEvent.RESTORE, restore)
        for reason in restore.skipped:
            self._say(f"checkpoint skipped: {reason}")
        if restore.source == "survivor":
            self._say(f"going on from step {restore.step}, held by a rank that lived on")
        elif restore.source == "buddy":
            self._say(f"going on from step {restore.step}, of which ranks that lived on have a copy")
        elif restore.step:
            where = " of the second tier" if restore.source == "remote" else ""
            self._say(f"restored from step {restore.step}{where}, {restore.digest[:19]}, verified")

    def checkpoint(self, event: Checkpoint | CheckpointProblem) -> None:
        """A checkpoint was committed, or could not be."""
        if isinstance(event, Checkpoint):
            self._send(RankEvent.CHECKPOINT, event)
            if self._fd is None:
                self._say(
                    f"checkpoint of step {event.step}: {event.bytes / 1e6:.1f} MB in {event.seconds:.2f} s, {event.path}"
                )
        else:
            self._send(RankEvent.CHECKPOINT_PROBLEM, event)
            self._say(f"checkpoint of step {event.step} was not saved: {event.message}; training goes on")

    def copied(self, event: RemoteCopy) -> None:
        """A checkpoint was copied to the second tier, or could not be."""
        self._send(RankEvent.REMOTE_COPY, event)
        if event.reason:
            self._say(f"checkpoint of step {event.step} was not copied: {event.message}; training goes on")
        elif self._fd is None:
            self._say(f"checkpoint of step {event.step} copied to {event.url}, verified")

    def note(self, sentence: str) -> None:
        """For the log only."""
        self._say(sentence)

    def failure(self, failure: Failure) -> None:
        """The last words of a rank."""
        self._send(RankEvent.FAILURE, failure)

    def holding(self, incarnation: int, failure: Failure) -> None:
        """The group is broken; this rank lives on."""
        self._send(RankEvent.HOLDING, Holding(incarnation=incarnation, failure=failure))
        self._say(f"the group is broken ({failure.message}); holding the state of step {failure.step}")

    def _send(self, event: RankEvent, body: Body) -> None:
        if self._fd is None:
            return
        line = memoryview(encode_rank_message(event, body))
        try:
            while line:
                line = line[os.write(self._fd, line) :]
        except OSError:  # the agent is gone; whoever ended it ends this rank, too
            self._fd = None


def print_line(text: str) -> None:
    """One line on stdout, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def progress_line(progress: Progress) -> str:
    """`step 40/300  epoch 2  loss 0.532  1240 samples/s  accuracy 0.971`."""
    parts = [f"step {progress.step}" + (f"/{progress.total_steps}" if progress.total_steps else "")]
    if progress.epoch is not None:
        parts.append(f"epoch {progress.epoch}")
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4g}")
    if progress.samples_per_second is not None:
        parts.append(f"{progress.samples_per_second:.0f} samples/s")
    return "  ".join(parts + [f"{name} {value:.4g}" for name, value in progress.metrics.items()])


def _finite(progress: Progress) -> Progress:
    """JSON, and so the job's status, has no NaN: such a value is left out."""
    metrics = {name: value for name, value in list(progress.metrics.items())[:MAX_METRICS] if math.isfinite(value)}
    loss = progress.loss if progress.loss is not None and math.isfinite(progress.loss) else None
    best = progress.best if progress.best is not None and math.isfinite(progress.best.value) else None
    return replace(progress, loss=loss, metrics=metrics, best=best)
