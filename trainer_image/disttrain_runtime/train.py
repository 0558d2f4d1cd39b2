"""The loop: take up, step, agree, save, evaluate, report, end. How each is done is somebody else's business."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import Tensor

from disttrain_contract.messages import PROGRESS_SECONDS, Ending, Progress
from disttrain_contract.stall import Phase
from disttrain_runtime.agreement import EARLY_SECONDS, Wishes
from disttrain_runtime.buddies import Buddies
from disttrain_runtime.cadence import Cadence, Mark
from disttrain_runtime.checkpointing import Checkpointing
from disttrain_runtime.config import Identity, WorkerConfig
from disttrain_runtime.data import Batch, training_batches
from disttrain_runtime.errors import PeerGoneError, PeerStoppedError
from disttrain_runtime.evaluate import check_metric, evaluate
from disttrain_runtime.generators import reseed
from disttrain_runtime.groups import Group
from disttrain_runtime.guard import Guard
from disttrain_runtime.progress import Meter
from disttrain_runtime.pulse import Pulse
from disttrain_runtime.randomness import Stream
from disttrain_runtime.records import POINTS, Records
from disttrain_runtime.rendezvous import alone
from disttrain_runtime.reporting import Reporter
from disttrain_runtime.sampler import SampleOrder
from disttrain_runtime.stopping import StopRequest
from disttrain_runtime.straggler import Suspicion, reading
from disttrain_runtime.strategies.parted import Parted
from disttrain_runtime.strategies.strategy import Strategy
from disttrain_runtime.survivors import NOTHING, give, share, take
from disttrain_runtime.task import Task

MAX_REPORT_SHARE = 0.02
"""Of the time, that reports may take: on a link with a long round trip they come less often."""


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
        check_metric(task, config.run.evaluation.metric)
        self.config = config
        self.task, self.strategy, self.reporter, self.clock = task, strategy, reporter, clock
        self.order = SampleOrder(seed=config.run.seed, samples=len(task.train_data), batch_size=task.batch_size)
        self.checkpoints = Checkpointing(config, self.order, strategy, reporter)
        every = config.run.buddy_every_steps
        self.buddies = Buddies(strategy, every, clock) if isinstance(strategy, Parted) else None
        self.stop = StopRequest()
        self.is_over: Callable[[], bool] = lambda: False
        """Whether a newer group is called for. Between meetings nothing else tells: no peer is waited for. The worker sets it."""
        self.pulse = pulse
        self.report_cadence, self.reported = Cadence(every_seconds=PROGRESS_SECONDS), Mark(0, -math.inf)
        self.report_seconds = 0.0
        """What the last report took."""
        self.early, self.step_seconds = False, 0.0
        """Whether what is done behind the next step is agreed on before it (see agreement); what the last one took."""
        self.asked: Callable[[], list[int]] | None = None
        """Waits for what is agreed on, if that was begun before the step was finished."""
        self.evaluate_every = config.run.evaluation.every_steps
        self.metrics: dict[str, float] = {}
        self.records = Records(config.run.evaluation, reporter.note)
        self.record_every = max(1, task.total_steps // POINTS) if config.job_dir is not None else 0
        self.last_loss: tuple[Tensor, int] | None = None
        """Of the last step: this rank's mean, and over how many samples. None when another rank made that step."""
        self.evaluated = NOTHING
        """The last step that was evaluated in this group."""
        self.total_steps = task.total_steps
        self.ending: Ending | None = None
        """Where training ends; before the task's own end there is a reason."""
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
        self.guard = Guard(group, self.strategy.replicated, self.clock, self.strategy.held)
        self.strategy.enter = self.pulse.enter
        self.strategy.before_update = self._before_update
        self.strategy.join(group)
        seat = self.strategy.seat
        if self.buddies is not None:
            self.buddies.join(group)
        self.checkpoints.join(group, identity)
        unsettled = self._take_up()
        lacking = self._go_on_from_here(replace(self.config, identity=identity))
        self.meter = Meter(group.device, self.clock())  # what it took to get here is not training
        self.early = False
        if unsettled and (stopper := self._after_step(None)):
            return self._halt(stopper - 1)
        if lacking and not unsettled:
            self._evaluate()
        self.reported = Mark(self.step, -math.inf)  # the first new step is news
        self.pulse.enter(Phase.LOADING, self.step)
        for batch in self._batches():
            if self.step >= self.total_steps:
                break  # an evaluation has said so
            if self.is_over():
                raise PeerGoneError("the group is over")
            early = self.early and not self.strategy.sharded and self.strategy.meets(self.step + 1)
            self.asked = self._ask(self.step + 1) if early else None
            began = self.clock()
            reseed(self.order.seed, Stream.MODEL, batch.share.step, seat.luck)
            loss = self.strategy.step(batch)
            self.meter.add(loss, batch, counts=seat.speaks)
            self.last_loss = loss, batch.share.own if seat.speaks else 0
            self.step += 1
            if not self.strategy.meets(self.step):
                self.pulse.enter(Phase.LOADING, self.step)
                continue
            self.met = self.step
            self.pulse.enter(Phase.AGREEING, self.step)
            self.checkpoints.prepare()
            self.step_seconds = self.clock() - began
            if stopper := self._after_step(self.asked):
                return self._halt(stopper - 1)
            self.pulse.enter(Phase.LOADING)
        self._finish()
        return True

    def _go_on_from_here(self, config: WorkerConfig) -> bool:
        """What else goes on from the step that was taken up. Gives whether its evaluation is not written down yet."""
        limit = self.strategy.begin(config, self.step)
        self.total_steps, self.ending = (limit.step, limit.ending) if limit else (self.task.total_steps, None)
        lacking = verdict = False
        if self.group.leads:
            self.pulse.enter(Phase.SAVING)
            self.records.take_up(config.job_dir, self.checkpoints.fence, self.step)
            self.checkpoints.keep_best(self.records.best_steps, self.step, self.clock(), save=False)
            volume = config.job_dir is not None
            lacking = volume and self._evaluates(self.step) and not self.records.evaluated_at(self.step)
            verdict = self.records.verdict is not None
        self._moved()
        missing, stop = self.group.agree([lacking, verdict])
        if stop and self.step < self.total_steps:
            self._stop_early()
        self.evaluated = NOTHING
        return bool(missing)

    def _take_up(self) -> bool:
        """State from those who have it, else from the volume. Gives whether its last step is still to be settled."""
        self.stop.arm()
        self._moved()
        if self.buddies is not None:
            return self._take_up_part(self.buddies)
        told = self.group.gather_rows([self.met, self.settled])
        sharing = share([met for met, _ in told])
        if sharing is None:
            return self._restore()
        own, giver = self.group.rank, sharing.givers.get(self.group.rank)
        if giver is None:
            self.strategy.undo()
        for needy, holder in sharing.givers.items():
            if holder == own:
                give(self.strategy.state(), self.group, needy, self._moved)
        if giver is not None:
            self.strategy.load(take(self.group, giver, self._moved))
            self.last_loss = None
            self.settled = NOTHING
        self.step = self.met = sharing.step
        self._resume("survivor")
        return max(settled for rank, (_, settled) in enumerate(told) if rank not in sharing.givers) < self.step

    def _take_up_part(self, buddies: Buddies) -> bool:
        """The same where each rank has a part."""
        found = buddies.recall(self.met, self.checkpoints.saved, self._moved)
        if found is None:
            return self._restore()
        step, source = found
        if self.met != step:
            self.last_loss = None
        self.settled = min(self.settled, step)
        self.step = self.met = step
        self._resume(source)
        return max(self.group.gather(self.settled)) < step

    def _moved(self) -> None:
        """A sign of life while state travels."""
        self.pulse.enter(Phase.TAKING_UP)

    def _resume(self, source: str) -> None:
        self.pulse.enter(Phase.SAVING)  # rank 0 takes the volume over, which may be slow
        self.checkpoints.resume(self.step, self.clock(), source)
        self._moved()

    def _restore(self) -> bool:
        self.pulse.enter(Phase.STARTING)  # from the volume: as long as it takes
        self.step = self.met = self.settled = self.checkpoints.restore(self.clock())
        return False

    def _batches(self) -> Iterator[Batch]:
        group, steps = self.group, range(self.step, self.total_steps)
        shares = (self.strategy.share(self.order, step) for step in steps)
        return training_batches(self.task, self.order, shares, group.device)

    def _before_update(self) -> None:
        self.checkpoints.settle_copy()
        if self.strategy.sharded:  # nobody may change its part before all can
            agreed = self._ask(self.step + 1)()
            self.asked = lambda: agreed

    def _ask(self, step: int) -> Callable[[], list[int]]:
        """Begin to agree on what is done behind this step."""
        now, told = self.clock(), self.group.rank + 1 if self.stop.asked else 0
        if not self.group.leads:
            return self.group.start_agree(Wishes(told).row())
        wishes = Wishes(
            stop=told,
            save=self.checkpoints.due(step, now),
            report=self._report_is_due(step, now),
            check=self.guard.due(now),
            copy=self.buddies is not None and self.buddies.due(step, now),
            early=self.step_seconds <= EARLY_SECONDS,
        )
        return self.group.start_agree(wishes.row())

    def _report_is_due(self, step: int, now: float) -> bool:
        pause = self.report_seconds / MAX_REPORT_SHARE
        return self.report_cadence.due(self.reported, step, now) and now - self.reported.at >= pause

    def _after_step(self, asked: Callable[[], list[int]] | None) -> int:
        """What belongs to a meeting. Gives 0, or one more than the highest rank that was told to stop."""
        agreed = Wishes.read((asked or self._ask(self.step))())
        now, self.early = self.clock(), agreed.early
        # Nothing is saved unseen.
        if agreed.check or agreed.save or agreed.copy or agreed.stop or self.step == self.total_steps:
            self.guard.check(self.step)
        self._record()
        if agreed.save:
            self.pulse.enter(Phase.SAVING)
            self._keep_lines()
            self.checkpoints.save(self.step, now)
        if self.step == self.total_steps:
            return 0  # done anyway: ending well beats stopping
        if agreed.stop:
            return agreed.stop
        evaluates = self._evaluates(self.step)
        if evaluates:
            self._evaluate()
        if evaluates or agreed.report:
            self._report(now)
        self.settled = self.step
        if self.buddies is not None and (agreed.copy or agreed.save):  # no copy may be older than a checkpoint
            self.pulse.enter(Phase.REPORTING)
            self.buddies.keep(self.step)
        return 0

    def _evaluates(self, step: int) -> bool:
        """Whether an evaluation belongs to this meeting. The end has one of its own."""
        return (
            self.task.eval_data is not None
            and bool(self.evaluate_every)
            and self._passes(step, self.evaluate_every or 1)
        )

    def _passes(self, step: int, every: int) -> bool:
        """Whether a multiple of `every` lies between the meeting before and this one."""
        before = next((s for s in range(step - 1, 0, -1) if self.strategy.meets(s)), 0)
        return step // every > before // every

    def _record(self) -> None:
        """The training loss of this step, over all ranks, if it is one of those that are written down."""
        if not self.record_every or not self.strategy.tells_loss or not self._passes(self.step, self.record_every):
            return
        mean, own = self.last_loss or (0.0, 0)
        loss, samples = self.group.total([float(mean) * own, own])
        if self.group.leads and samples:
            self.records.training(self.step, self.order.epoch(self.step - 1), loss / samples)

    def _keep_lines(self) -> None:
        """Before a checkpoint says that it has all happened. Who led once and does not lead now has no hold of the files."""
        if self.group.leads:
            self.records.sync()

    def abandon(self) -> None:
        """This rank fails. What was handed over is not lost."""
        self.checkpoints.abandon()
        self._keep_lines()

    def leave(self) -> None:
        """Told to stop while there is no group: what this rank holds need not be lost."""
        self.strategy.undo()
        self.checkpoints.leave(self.met, self.clock())

    def _evaluate(self) -> None:
        """Measure, write it down, keep the best, and see whether it is enough."""
        if self.task.eval_data is None or self.evaluated == self.step:
            return
        self.evaluated = self.step
        self.pulse.enter(Phase.REPORTING)
        model = self.strategy.evaluation_model()
        self.metrics = evaluate(self.task, model, self.group, self.strategy.seat, self.pulse.enter)
        improved = enough = False
        if self.group.leads:
            improved = self.records.evaluated(self.step, self.metrics)
            enough = self.records.verdict is not None
        save, stop = self.group.agree([improved, enough])
        if save:
            self.guard.check(self.step)
            self.pulse.enter(Phase.SAVING)
        self.checkpoints.keep_best(self.records.best_steps, self.step, self.clock(), save=bool(save))
        if stop and self.step < self.total_steps:
            self._stop_early()

    def _stop_early(self) -> None:
        """Only rank 0 reports, so only it needs to know why."""
        self.total_steps = self.step
        self.ending = self.records.verdict if self.group.leads else None

    def _report(self, now: float, *, last: bool = False) -> None:
        """Loss and speed are of the whole group, so every rank takes part."""
        self.pulse.enter(Phase.REPORTING)
        began, own = self.clock(), self.pulse.own_seconds()
        own_times = [own if rank == self.group.rank else 0.0 for rank in range(self.group.world_size)]
        loss_sum, samples, *times = self.group.total([*self.meter.sums, *own_times])
        loss, speed = self.meter.read(loss_sum, samples, now)
        loss = loss if self.strategy.tells_loss else None
        self.reported = Mark(self.step, now)
        self.suspicion = reading(self.suspicion, times)
        progress = Progress(
            step=self.step,
            total_steps=self.total_steps,
            epoch=self.order.epoch(max(0, self.step - 1)),
            loss=loss,
            samples_per_second=round(speed, 1) if speed else None,
            metrics={**self.metrics, **self.strategy.metrics()},
            straggler=self.suspicion.named,
            best=self.records.best if self.group.leads else None,
            ended=self.ending if last and self.step == self.total_steps else None,
        )
        self.report_seconds = self.clock() - began
        if self.group.leads:
            self.reporter.progress(progress, last=last)

    def _halt(self, told: int) -> bool:
        """Told to stop: save this very step, so that nothing is lost. A rank that was not told says whose stop it was."""
        self._report(self.clock(), last=True)
        self.pulse.enter(Phase.SAVING)
        self._keep_lines()
        self.checkpoints.settle(self.step, self.clock())
        if not self.stop.asked:
            raise PeerStoppedError(f"rank {told} was told to stop; the group ended with it at step {self.step}")
        return False

    def _finish(self) -> None:
        """The result is saved before anything else can go wrong; nobody leaves before everybody is done."""
        now = self.clock()
        self.pulse.enter(Phase.SAVING)
        self._keep_lines()
        self.checkpoints.conclude(self.step, now)
        self._evaluate()
        self._report(now, last=True)
        self._keep_lines()
        self.pulse.enter(Phase.REPORTING)
        self.group.barrier()
