"""Checkpoints as the training loop sees them: restore at the start, save when due, know how it went."""

from __future__ import annotations

from collections.abc import Sequence

from disttrain_contract.messages import Checkpoint, RemoteCopy, Restore
from disttrain_runtime.cadence import Cadence, Mark
from disttrain_runtime.checkpoint.fence import Fence, Holder
from disttrain_runtime.checkpoint.manifest import Expectation, Sampling
from disttrain_runtime.checkpoint.mirror import Mirror
from disttrain_runtime.checkpoint.opening import Restored, open_volume, restore
from disttrain_runtime.checkpoint.saver import Event, Saver
from disttrain_runtime.checkpoint.volume import Volume
from disttrain_runtime.checkpoint.writer import Facts
from disttrain_runtime.config import Identity, WorkerConfig
from disttrain_runtime.errors import StorageError
from disttrain_runtime.groups import Group
from disttrain_runtime.randomness import SCHEME
from disttrain_runtime.reporting import Reporter
from disttrain_runtime.sampler import SampleOrder
from disttrain_runtime.strategies.strategy import Strategy
from disttrain_runtime.survivors import NOTHING


class Checkpointing:
    """Rank 0 has the saver; the other ranks take part in the restore, and bring rank 0 what only they have."""

    def __init__(self, config: WorkerConfig, order: SampleOrder, strategy: Strategy, reporter: Reporter) -> None:
        self._config, self._order, self._strategy, self._reporter = config, order, strategy, reporter
        checkpoint = config.run.checkpoint
        self._cadence = Cadence(every_steps=checkpoint.every_steps, every_seconds=checkpoint.every_seconds)
        self._mark = Mark(0, 0.0)
        self._sampling = Sampling(
            seed=order.seed, randomness=SCHEME, samples=order.samples, batch_size=order.batch_size
        )
        self._fingerprint = strategy.fingerprint()
        self._saver: Saver | None = None
        self._mirror: Mirror | None = None
        """To the second tier; lives and dies with the saver."""
        self._prepared = False

    def join(self, group: Group, identity: Identity) -> None:
        """Belong to this group from now on: either `restore` or `resume` follows."""
        self.settle_copy()  # what is copied now may be overwritten soon
        self._group, self._identity = group, identity
        if not group.leads:
            self._drop_saver()

    @property
    def saved(self) -> int:
        """The step of the last save that was begun, or of what was restored; known on all ranks that were there."""
        return self._mark.step

    def resume(self, step: int, now: float, source: str) -> None:
        """The state is there, from ranks that lived on. Rank 0 takes the volume over, and older incarnations lose it."""
        if not self._group.leads:
            return
        if self._saver is not None:
            self._saver.claim(self._holder)
            self._offer(self._saver.committed)
        elif self._config.job_dir is not None:
            self._make_saver(*open_volume(self._config.job_dir, self._holder), committed=None, rejected=frozenset())
            self._mark = Mark(step, now)
        self._reporter.restored(Restore(step=step, source=source))

    def restore(self, now: float) -> int:
        """A collective. Load the newest good checkpoint, if any, and give its step."""
        self.abandon()  # a rank that lived on may still be writing the very one that is looked for
        restored = self._open()
        if restored.state is not None:
            self._strategy.load_whole(restored.state)
        else:
            self._strategy.equalise()
        self._mark = Mark(restored.message.step, now)
        if self._group.leads:
            self._reporter.restored(restored.message)
        return restored.message.step

    @property
    def fence(self) -> Fence | None:
        """Rank 0's hold of the job's directory; None elsewhere, and without a volume."""
        return self._saver.fence if self._saver is not None else None

    def keep_best(self, steps: Sequence[int], step: int, now: float, *, save: bool) -> None:
        """From now on the first of these steps that is on the volume stays there; `save`: the present one is the best.

        Where `save` is true, a collective.
        """
        if self._saver is not None:
            self._saver.best = tuple(steps)
        missing = self._saver is not None and self._saver.newest != step
        if save and self._strategy.saves_together:
            missing = bool(self._group.agree([missing])[0])
        if save and missing:
            self.save(step, now)

    def prepare(self) -> None:
        """After the first step, when the optimizer has its state: make the memory for the copies."""
        if self._saver is not None and not self._prepared and not self._strategy.saves_together:
            self._prepared = True
            self._saver.prepare(self._strategy.state())

    def due(self, step: int, now: float) -> bool:
        """Rank 0's wish. Also tells what has become of the last save, and ends the run if this incarnation is fenced."""
        if self._saver is None:
            return False
        self._announce(self._saver.poll())
        if self._mirror is not None:
            self._tell_copies(self._mirror.poll())
        return not self._saver.busy and self._cadence.due(self._mark, step, now)

    def save(self, step: int, now: float) -> None:
        """Begin to save; training waits for a memory copy only. A collective where rank 0 has not all there is."""
        self._mark = Mark(step, now)
        whole = self._strategy.whole() if self._strategy.saves_together or self._saver is not None else {}
        if self._saver is not None:
            self._announce(self._saver.save(whole, self._facts(step)))

    def settle_copy(self) -> None:
        """The state is about to change."""
        if self._saver is not None:
            self._announce(self._saver.settle_copy())

    def settle(self, step: int, now: float) -> bool:
        """The state of this step is on the disk when this returns True. What is already committed is not saved again.

        A collective where rank 0 has not all there is.
        """
        self.abandon()
        missing = self._saver is not None and self._saver.committed != step
        if self._strategy.saves_together:
            missing = bool(self._group.agree([missing])[0])
        if missing:
            self.save(step, now)
            self.abandon()
        return self._saver is None or self._saver.committed == step

    def conclude(self, step: int, now: float) -> None:
        """The end of training: without its last checkpoint the result would be lost, and the job must not say it succeeded."""
        if not self.settle(step, now):
            raise StorageError(
                f"training finished, but its result (step {step}) could not be saved: make room on the volume and apply the job again; "
                f"it goes on from {'step ' + str(self._saver.committed) if self._saver and self._saver.committed else 'the start'}"
            )
        if self._mirror is not None:
            self._tell_copies(self._mirror.settle())

    def leave(self, step: int, now: float) -> None:
        """Told to stop while the group was broken: what this rank holds need not be lost."""
        if step != NOTHING and not self._strategy.saves_together:
            self.settle(step, now)

    def abandon(self) -> None:
        """The run has failed; let a save under way come to its end, whatever it is."""
        if self._saver is not None:
            self._announce(self._saver.finish())

    @property
    def _holder(self) -> Holder:
        return Holder(self._identity.job_uid, self._identity.incarnation)

    def _open(self) -> Restored:
        if self._config.job_dir is None:
            return Restored(Restore(step=0, source="none"))
        expected = Expectation(job=self._identity.job, sampling=self._sampling, fingerprint=self._fingerprint)
        if not self._group.leads:
            return restore(None, expected, self._group)
        volume, fence = open_volume(self._config.job_dir, self._holder)
        mirror = self._make_mirror()
        fetch = (lambda useless: mirror.fetch(fence, expected, useless)) if mirror is not None else None
        restored = restore(volume, expected, self._group, fetch)
        committed = restored.message.step if restored.state is not None else None
        self._make_saver(volume, fence, committed, restored.rejected)
        self._offer(committed)
        return restored

    def _make_mirror(self) -> Mirror | None:
        remote, job_dir = self._config.run.checkpoint.remote, self._config.job_dir
        if self._mirror is None and remote is not None and job_dir is not None:
            self._mirror = Mirror(remote, job_dir, self._config.run.checkpoint.keep)
        return self._mirror

    def _offer(self, step: int | None) -> None:
        """What is on the volume and perhaps not in the store yet. A copy that was broken off is made anew this way, too."""
        if self._mirror is not None and self._saver is not None and step is not None:
            self._tell_copies(self._mirror.offer(self._saver.fence, step))

    def _tell_copies(self, events: list[RemoteCopy]) -> None:
        for event in events:
            self._reporter.copied(event)

    def _make_saver(self, volume: Volume, fence: Fence, committed: int | None, rejected: frozenset[int]) -> None:
        self._drop_saver()
        self._make_mirror()
        self._prepared = False
        checkpoint = self._config.run.checkpoint
        self._saver = Saver(
            volume,
            fence,
            keep=checkpoint.keep,
            asynchronous=checkpoint.asynchronous,
            committed=committed,
            rejected=rejected,
            quiet=self._strategy.quiet_until_update,
        )

    def _drop_saver(self) -> None:
        """This rank leads no more, or begins again from the volume: what was under way is of no use."""
        if self._saver is not None:
            self._saver.close()
            if self._mirror is not None:
                self._mirror.close()
                self._mirror = None
        self._saver = None

    def _facts(self, step: int) -> Facts:
        return Facts(
            job=self._identity.job,
            step=step,
            world_size=self._group.world_size,
            epoch=self._order.epoch(step),
            position=self._order.position(step),
            sampling=self._sampling,
            fingerprint=self._fingerprint,
        )

    def _announce(self, events: list[Event]) -> None:
        for event in events:
            self._reporter.checkpoint(event)
            if isinstance(event, Checkpoint):
                self._offer(event.step)
