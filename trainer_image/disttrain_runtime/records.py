"""What a run writes down beside its checkpoints, and what follows from it: the best evaluation, the early end.

Rank 0 writes, in a thread and under the fence of the checkpoints, so a leftover of an older incarnation cannot. A volume that fails or
hangs costs lines and never training; evaluations are kept in memory, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from disttrain_contract.env import EvaluationConfig
from disttrain_contract.messages import Best, Ending
from disttrain_runtime import early_stop
from disttrain_runtime.checkpoint.fence import Fence
from disttrain_runtime.history import History, Line
from disttrain_runtime.scribe import Scribe

POINTS = 50
"""Training losses written in a run, besides evaluations: enough for a curve, too few to be felt."""


def _wall() -> float:
    return time.time()  # noqa: TID251 - for people who read the lines; nothing is decided by it


class Records:
    """Rank 0's. `say` tells a person."""

    def __init__(
        self, evaluation: EvaluationConfig, say: Callable[[str], None], wall: Callable[[], float] = _wall
    ) -> None:
        self._evaluation, self._say, self._wall = evaluation, say, wall
        self._history, self._scribe = History(), Scribe()
        self._fence: Fence | None = None
        self._silent = False
        """The volume does not answer, and that has been said."""

    def take_up(self, job_dir: Path | None, fence: Fence | None, step: int) -> None:
        """Go on from this step. Without a volume what this rank remembers counts."""
        answers, self._fence = self.sync(), fence
        if job_dir is None or fence is None or not answers:
            self._history.rewind(step)
        else:
            self._try(lambda: self._history.open(job_dir, step))

    def training(self, step: int, epoch: int, loss: float) -> None:
        """The training loss of a step."""
        self._add(Line(step=step, time=self._wall(), epoch=epoch, loss=loss))

    def evaluated(self, step: int, metrics: dict[str, float]) -> bool:
        """An evaluation. True when it is the best so far."""
        self._add(Line(step=step, time=self._wall(), evaluation=metrics))
        found = self.best
        return found is not None and found.step == step

    def sync(self) -> bool:
        """Before a checkpoint says that it has all happened, and before the end. Gives whether the volume has what it was given: one that
        does not answer is not waited for."""
        if self._scribe.wait():
            self._silent = False
            return True
        self._lost()
        return False

    def evaluated_at(self, step: int) -> bool:
        """Whether that was done and written down."""
        return self._history.has(step, "evaluation")

    @property
    def best(self) -> Best | None:
        """The best evaluation so far."""
        return early_stop.best(self._history.lines, self._evaluation)

    @property
    def best_steps(self) -> Sequence[int]:
        """The best first."""
        found = early_stop.ranking(self._history.lines, self._evaluation)
        return tuple(b.step for b in found[: early_stop.CANDIDATES])

    @property
    def verdict(self) -> Ending | None:
        """Why training should stop now, if it should."""
        return early_stop.verdict(self._history.lines, self._evaluation)

    def _add(self, line: Line) -> None:
        if not self._history.add(line) or self._fence is None:
            return
        if not self._scribe.do(partial(self._try, partial(self._history.write, line))):
            self._lost()

    def _lost(self) -> None:
        if not self._silent:
            self._silent = True
            self._say("the volume does not answer: lines of the metrics' history may be lost; training goes on")

    def _try(self, write: Callable[[], None]) -> None:
        """Raises FencedError when a newer incarnation owns the directory."""
        try:
            with self._fence.held() if self._fence is not None else nullcontext():
                write()
        except OSError as error:
            self._say(f"a line of the metrics' history was not written: {error.strerror or error}; training goes on")
