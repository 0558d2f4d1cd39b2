"""The loop: restore, step, agree, save, evaluate, report, end. How each is done is somebody else's business."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from disttrain_contract.messages import PROGRESS_SECONDS, Progress
from disttrain_runtime.cadence import Cadence, Mark
from disttrain_runtime.checkpointing import Checkpointing
from disttrain_runtime.config import WorkerConfig
from disttrain_runtime.data import Batch, training_batches
from disttrain_runtime.errors import PeerStoppedError
from disttrain_runtime.evaluate import evaluate
from disttrain_runtime.generators import reseed
from disttrain_runtime.groups import Group
from disttrain_runtime.progress import Meter
from disttrain_runtime.randomness import Stream
from disttrain_runtime.reporting import Reporter
from disttrain_runtime.sampler import SampleOrder
from disttrain_runtime.stopping import StopRequest
from disttrain_runtime.strategies.strategy import Strategy
from disttrain_runtime.task import Task


class Training:
    """One rank's part in one incarnation."""

    def __init__(
        self,
        config: WorkerConfig,
        task: Task,
        group: Group,
        strategy: Strategy,
        reporter: Reporter,
        clock: Callable[[], float],
    ) -> None:
        self.task, self.group, self.strategy, self.reporter, self.clock = task, group, strategy, reporter, clock
        self.order = SampleOrder(seed=config.run.seed, samples=len(task.train_data), batch_size=task.batch_size)
        self.checkpoints = Checkpointing(config, self.order, strategy, group, reporter)
        self.stop = StopRequest()
        self.meter = Meter(group, clock())
        self.report_cadence, self.reported = Cadence(every_seconds=PROGRESS_SECONDS), Mark(0, -math.inf)
        self.evaluate_every = config.run.evaluation.every_steps
        self.metrics: dict[str, float] = {}
        self.step = 0
        """Finished steps."""

    def run(self) -> bool:
        """Train to the end (True), or until this rank was told to stop (False)."""
        self.step = self.checkpoints.restore(self.clock())
        self.stop.arm()
        for number, batch in enumerate(self._batches()):
            if number == 0:
                self.strategy.rehearse(batch)
                self.meter = Meter(self.group, self.clock())
            reseed(self.order.seed, Stream.MODEL, batch.share.step, self.group.rank)
            self.meter.add(self.strategy.step(batch), batch)
            self.step += 1
            if number == 0:
                self.checkpoints.prepare()
            if stopper := self._after_step():
                self._halt(stopper - 1)
                return False
        self._finish()
        return True

    def _batches(self) -> Iterator[Batch]:
        steps = range(self.step, self.task.total_steps)
        return training_batches(self.task, self.order, steps, self.group.rank, self.group.world_size, self.group.device)

    def _after_step(self) -> int:
        """What all ranks do now is agreed in one small exchange; the clock that counts is rank 0's.

        Gives 0, or one more than the highest rank that was told to stop.
        """
        now = self.clock()
        save = report = False
        if self.group.leads:
            save = self.checkpoints.due(self.step, now)
            report = self.report_cadence.due(self.reported, self.step, now)
        told = self.group.rank + 1 if self.stop.asked else 0
        stopper, save_now, report_now = self.group.agree([told, save, report])
        if save_now:
            self.checkpoints.save(self.step, now)
        if self.step == self.task.total_steps:
            return 0  # done anyway: ending well beats stopping
        if stopper:
            return stopper
        if self.evaluate_every and self.step % self.evaluate_every == 0:
            self._evaluate()
            report_now = True
        if report_now:
            self._report(now)
        return 0

    def _evaluate(self) -> None:
        if self.task.eval_data is not None:
            self.metrics = evaluate(self.task, self.strategy.evaluation_model(), self.group)

    def _report(self, now: float, *, last: bool = False) -> None:
        """Loss and speed are of the whole group, so every rank takes part."""
        loss, speed = self.meter.read(now)
        self.reported = Mark(self.step, now)
        progress = Progress(
            step=self.step,
            total_steps=self.task.total_steps,
            epoch=self.order.epoch(max(0, self.step - 1)),
            loss=loss,
            samples_per_second=round(speed, 1) if speed else None,
            metrics=self.metrics,
        )
        if self.group.leads:
            self.reporter.progress(progress, last=last)

    def _halt(self, told: int) -> None:
        """Told to stop: save this very step, so that nothing is lost. A rank that was not told says whose stop it was."""
        self._report(self.clock(), last=True)
        self.checkpoints.settle(self.step, self.clock())
        if not self.stop.asked:
            raise PeerStoppedError(f"rank {told} was told to stop; the group ended with it at step {self.step}")

    def _finish(self) -> None:
        """The result is saved before anything else can go wrong; nobody leaves before everybody is done."""
        now = self.clock()
        self.checkpoints.conclude(self.step, now)
        self._evaluate()
        self._report(now, last=True)
        self.group.barrier()
