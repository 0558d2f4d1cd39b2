"""The interface of a strategy: what the training loop needs from any way to train together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from disttrain_contract.messages import Ending
from disttrain_contract.stall import Phase
from disttrain_runtime.checkpoint.manifest import Fingerprint
from disttrain_runtime.config import WorkerConfig
from disttrain_runtime.data import Batch
from disttrain_runtime.groups import Group
from disttrain_runtime.sampler import SampleOrder, Share
from disttrain_runtime.survivors import collect


@dataclass(frozen=True, slots=True)
class Limit:
    """Where training has to end before its last step, and why."""

    step: int
    ending: Ending


@dataclass(frozen=True, slots=True)
class Seat:
    """What a rank trains on: ranks that share one replica of the model share its samples."""

    replica: int
    replicas: int
    luck: int
    """Ranks with the same number draw the same random numbers in the model."""
    speaks: bool = True
    """It has the outputs, and counts losses and metrics for its replica; exactly one rank of a replica does."""


class Strategy(ABC):
    """Owns the model and the optimizer of one rank, from group to group.

    Steps are local or common, but at a *meeting* all ranks have finished the same step and agree on what comes next:
    only there is training saved, evaluated, reported, stopped. A strategy that keeps replicas in step meets after every
    one; one that lets them drift meets when they have come together again.
    """

    device: torch.device
    enter: Callable[[Phase], None] = staticmethod(lambda phase: None)
    """Hears in which part of a step the rank is: that tells who hangs from who waits for it. The loop sets it."""
    has_own = False
    """Whether `own` gives anything; alike on all ranks."""
    tells_loss = True
    """False: the training loss says more about the data than may be known, and stays here."""
    sharded = False
    """Each rank holds a part of the state, and no rank all of it."""

    before_update: Callable[[], None] = staticmethod(lambda: None)
    """Called once in a step, when the gradients are there and nothing of the state has been changed by them yet; with a
    `sharded` strategy it returns when all ranks have come so far. The loop sets it."""
    quiet_until_update: frozenset[str] = frozenset()
    """Top-level keys of the state that only an update changes. Who names some calls `before_update` in each step: until
    then a copy of them can be made beside the next step instead of before it."""

    @abstractmethod
    def rehearse(self, batch: Batch) -> None:
        """Once in a process's life, before it joins its first group: do what the first step would do besides training.

        Called inside `rendezvous.alone()`. Must not change any state.
        """

    @abstractmethod
    def join(self, group: Group) -> None:
        """Belong to this group from now on. Either `undo` or `load` follows: a step may have been broken off."""

    def begin(self, config: WorkerConfig, step: int) -> Limit | None:
        """The state of this step is there, and the next one follows. A collective. `config` is of the present group.

        Gives where training must end if that is before its last step.
        """
        return None

    def share(self, order: SampleOrder, step: int) -> Share:
        """Which samples of a step are this rank's."""
        seat = self.seat
        return order.share(step, seat.replica, seat.replicas)

    @abstractmethod
    def undo(self) -> None:
        """Be as at the last meeting: what was done since is as if it had never begun."""

    @abstractmethod
    def equalise(self) -> None:
        """Make all ranks start from rank 0's state: there is no other. A collective."""

    @abstractmethod
    def step(self, batch: Batch) -> Tensor:
        """Train one step. Gives this rank's mean loss, detached."""

    def meets(self, finished: int) -> bool:
        """Whether all ranks are together after so many finished steps. Pure, and always true at the last step."""
        return True

    @abstractmethod
    def state(self) -> Mapping[str, Any]:
        """What all ranks have alike at a meeting: nested dicts, lists and scalars, with the live tensors in them.

        Every top-level key becomes a file of its own in the checkpoint. `[a-z][a-z0-9_]*`, and not `rank_…`.
        """

    @abstractmethod
    def load(self, state: Mapping[str, Any]) -> None:
        """Become what `state` said, on a rank that is behind it or new. What is a rank's own stays what it is."""

    def own(self) -> Mapping[str, Any]:
        """What only this rank has, at a meeting: of the same make as `state`. It is part of the checkpoint."""
        return {}

    def load_own(self, parts: Sequence[Mapping[str, Any]]) -> None:  # noqa: B027 - most have nothing of their own
        """Take this rank's from those of all ranks of the group that saved them, which may have had another size."""

    def whole(self) -> Mapping[str, Any]:
        """What a checkpoint holds, complete on rank 0. A collective, called at a meeting."""
        return with_parts(self.state(), collect(self.own(), self.group)) if self.has_own else self.state()

    def load_whole(self, whole: Mapping[str, Any]) -> None:
        """Become what `whole` said. Every rank gets all of it."""
        state, parts = without_parts(whole)
        self.load(state)
        self.load_own(parts)

    @property
    def saves_together(self) -> bool:
        """Rank 0 cannot save alone."""
        return self.has_own or self.sharded

    @property
    @abstractmethod
    def group(self) -> Group:
        """The present one."""

    @property
    def seat(self) -> Seat:
        """In the present group. Each rank its own replica, unless the model is split."""
        return Seat(self.group.rank, self.group.world_size, self.group.rank)

    def replicated(self) -> Sequence[Tensor]:
        """Tensors that must have the same bits on all ranks at a meeting."""
        return ()

    def held(self) -> Sequence[Tensor]:
        """Tensors that are not replicated, but must be finite at a meeting."""
        return ()

    @abstractmethod
    def fingerprint(self) -> Fingerprint:
        """What a checkpoint must agree with to be loaded here."""

    @abstractmethod
    def evaluation_model(self) -> nn.Module:
        """The model to evaluate, alike on all ranks. A collective."""

    def metrics(self) -> Mapping[str, float]:
        """What this strategy measures of itself, alike on all ranks, for the report. A collective, called at a meeting."""
        return {}


PART = "rank_"


def with_parts(state: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One file for each rank's own."""
    return {**state, **{f"{PART}{rank}": part for rank, part in enumerate(parts)}}


def without_parts(whole: Mapping[str, Any]) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    """The inverse."""
    ranks = sorted(int(key.removeprefix(PART)) for key in whole if key.startswith(PART))
    state = {key: value for key, value in whole.items() if not key.startswith(PART)}
    return state, [whole[f"{PART}{rank}"] for rank in ranks]
