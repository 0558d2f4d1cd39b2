"""The loop: take up, step, agree, save, evaluate, report, end. How each is done is somebody else's business."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from disttrain_contract.messages import PROGRESS_SECONDS, Progress
from disttrain_contract.stall import Phase
from disttrain_runtime.cadence import Cadence, Mark
from disttrain_runtime.checkpointing import Checkpointing
from disttrain_runtime.config import Identity, WorkerConfig
from disttrain_runtime.data import Batch, training_batches
from disttrain_runtime.errors import PeerGoneError, PeerStoppedError
from disttrain_runtime.evaluate import evaluate
from disttrain_runtime.generators import reseed
from disttrain_runtime.groups import Group
from disttrain_runtime.guard import Guard
from disttrain_runtime.progress import Meter
from disttrain_runtime.pulse import Pulse
from disttrain_runtime.randomness import Stream
from disttrain_runtime.rendezvous import alone
from disttrain_runtime.reporting import Reporter
from disttrain_runtime.sampler import SampleOrder
from disttrain_runtime.stopping import StopRequest
from disttrain_runtime.straggler import Suspicion, reading
from disttrain_runtime.strategies.strategy import Strategy
from disttrain_runtime.survivors import NOTHING, give, share, take
from disttrain_runtime.task import Task


class Training:
    """One rank's part, through all the groups that it lives to see."""

    def __init__(
        self,
        config: WorkerConfig,
        task: Task,
        strategy: Strategy,
        reporter: Reporter,
        clock: Callable[[], float],
        pulse: Pulse,
    ) -> None:
        self.task, self.strategy, self.reporter, self.clock = task, strategy, reporter, clock
        self.order = SampleOrder(seed=config.run.seed, samples=len(task.train_data), batch_size=task.batch_size)
        self.checkpoints = Checkpointing(config, self.order, strategy, reporter)
        self.stop = StopRequest()
        self.is_over: Callable[[], bool] = lambda: False
        """Whether a newer group is called for. Between meetings nothing else tells: no peer is waited for. The worker sets it."""
        self.pulse = pulse
        self.report_cadence, self.reported = Cadence(every_seconds=PROGRESS_SECONDS), Mark(0, -math.inf)
        self.evaluate_every = config.run.evaluation.every_steps
        self.metrics: dict[str, float] = {}
        self.suspicion = Suspicion()
        self.step = NOTHING
        """Finished steps; NOTHING as long as there is no state."""
        self.met = NOTHING
        """Those of them at the last meeting (see Strategy): where a group that breaks goes on from."""
        self.settled = NOTHING
        """The last step behind which all was done that belongs to it: saved, evaluated, reported as was due."""

    def rehearse(self) -> None:
        """What need not wait for a group."""
        first = training_batches(self.task, self.order, [self.order.share(0, 0, 1)], self.strategy.device)
        with alone():
            self.strategy.rehearse(next(first))

    def run(self, group: Group, identity: Identity) -> bool:
        """Train in this group to the end (True), or until this rank was told to stop (False).

        Raises what breaks the group. Then this may be called again with the next one: nothing is lost but the step
        that was under way.
        """
        self.group = group
        self.guard = Guard(group, self.strategy.replicated, self.clock)
        self.strategy.enter = self.pulse.enter
        self.strategy.before_update = self.checkpoints.settle_copy
        self.strategy.join(group)
        self.checkpoints.join(group, identity)
        unsettled = self._take_up()
        self.meter = Meter(group, self.clock())  # what it took to get here is not training
        if unsettled and (stopper := self._after_step()):
            return self._halt(stopper - 1)
        self.reported = Mark(self.step, -math.inf)  # the first new step is news
        self.pulse.enter(Phase.LOADING, self.step)
        for batch in self._batches():
            reseed(self.order.seed, Stream.MODEL, batch.share.step, group.rank)
            self.meter.add(self.strategy.step(batch), batch)
            self.step += 1
            if not self.strategy.meets(self.step):
                self.pulse.enter(Phase.LOADING, self.step)
                if self.is_over():
                    raise PeerGoneError("the group is over")
                continue
            self.met = self.step
            self.pulse.enter(Phase.AGREEING, self.step)
            self.checkpoints.prepare()
            if stopper := self._after_step():
                return self._halt(stopper - 1)
            self.pulse.enter(Phase.LOADING)
        self._finish()
        return True

    def _take_up(self) -> bool:
        """State from those who have it, else from the volume. Gives whether its last step is still to be settled."""
        self.stop.arm()
        sharing = share(self.group.gather(self.met))
        if sharing is None or (sharing.givers and self.strategy.sharded):
            self.step = self.met = self.settled = self.checkpoints.restore(self.clock())
            return False
        own, giver = self.group.rank, sharing.givers.get(self.group.rank)
        if giver is None:
            self.strategy.undo()
        for needy, holder in sharing.givers.items():
            if holder == own:
                give(self.strategy.state(), self.group, needy)
        if giver is not None:
            self.strategy.load(take(self.group, giver))
            self.settled = NOTHING
        self.step = self.met = sharing.step
        self.checkpoints.resume(self.step, self.clock())
        return max(self.group.gather(self.settled)) < self.step

    def _batches(self) -> Iterator[Batch]:
        group, steps = self.group, range(self.step, self.task.total_steps)
        shares = (self.order.share(step, group.rank, group.world_size) for step in steps)
        return training_batches(self.task, self.order, shares, group.device)

    def _after_step(self) -> int:
        """What all ranks do now is agreed in one small exchange; the clock that counts is rank 0's.

        Gives 0, or one more than the highest rank that was told to stop.
        """
        now = self.clock()
        save = report = check = False
        if self.group.leads:
            save = self.checkpoints.due(self.step, now)
            report = self.report_cadence.due(self.reported, self.step, now)
            check = self.guard.due(now)
        told = self.group.rank + 1 if self.stop.asked else 0
        stopper, save_now, report_now, check_now = self.group.agree([told, save, report, check])
        if check_now or save_now or stopper or self.step == self.task.total_steps:  # nothing is saved unseen
            self.guard.check(self.step)
        if save_now:
            self.pulse.enter(Phase.SAVING)
            self.checkpoints.save(self.step, now)
        if self.step == self.task.total_steps:
            return 0  # done anyway: ending well beats stopping
        if stopper:
            return stopper
        if self.evaluate_every and self.step // self.evaluate_every > self._meeting_before() // self.evaluate_every:
            self._evaluate()
            report_now = True
        if report_now:
            self._report(now)
        self.settled = self.step
        return 0

    def _meeting_before(self) -> int:
        return next((step for step in range(self.step - 1, 0, -1) if self.strategy.meets(step)), 0)

    def leave(self) -> None:
        """Told to stop while there is no group: what this rank holds need not be lost."""
        self.strategy.undo()
        self.checkpoints.leave(self.met, self.clock())

    def _evaluate(self) -> None:
        if self.task.eval_data is not None:
            self.pulse.enter(Phase.REPORTING)
            self.metrics = evaluate(self.task, self.strategy.evaluation_model(), self.group, self.pulse.enter)

    def _report(self, now: float, *, last: bool = False) -> None:
        """Loss and speed are of the whole group, so every rank takes part."""
        self.pulse.enter(Phase.REPORTING)
        loss, speed = self.meter.read(now)
        self.reported = Mark(self.step, now)
        own = self.pulse.own_seconds()
        times = self.group.total([own if rank == self.group.rank else 0.0 for rank in range(self.group.world_size)])
        self.suspicion = reading(self.suspicion, times)
        progress = Progress(
            step=self.step,
            total_steps=self.task.total_steps,
            epoch=self.order.epoch(max(0, self.step - 1)),
            loss=loss,
            samples_per_second=round(speed, 1) if speed else None,
            metrics={**self.metrics, **self.strategy.metrics()},
            straggler=self.suspicion.named,
        )
        if self.group.leads:
            self.reporter.progress(progress, last=last)

    def _halt(self, told: int) -> bool:
        """Told to stop: save this very step, so that nothing is lost. A rank that was not told says whose stop it was."""
        self._report(self.clock(), last=True)
        self.pulse.enter(Phase.SAVING)
        self.checkpoints.settle(self.step, self.clock())
        if not self.stop.asked:
            raise PeerStoppedError(f"rank {told} was told to stop; the group ended with it at step {self.step}")
        return False

    def _finish(self) -> None:
        """The result is saved before anything else can go wrong; nobody leaves before everybody is done."""
        now = self.clock()
        self.pulse.enter(Phase.SAVING)
        self.checkpoints.conclude(self.step, now)
        self._evaluate()
        self._report(now, last=True)
        self.pulse.enter(Phase.REPORTING)
        self.group.barrier()
