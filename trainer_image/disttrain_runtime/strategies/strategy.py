"""The interface of a strategy: what the training loop needs from any way to train together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from disttrain_contract.stall import Phase
from disttrain_runtime.checkpoint.manifest import Fingerprint
from disttrain_runtime.data import Batch
from disttrain_runtime.groups import Group


class Strategy(ABC):
    """Owns the model and the optimizer of one rank, from group to group."""

    device: torch.device
    enter: Callable[[Phase], None] = staticmethod(lambda phase: None)
    """Hears in which part of a step the rank is: that tells who hangs from who waits for it. The loop sets it."""

    @abstractmethod
    def rehearse(self, batch: Batch) -> None:
        """Once in a process's life, before it joins its first group: do what the first step would do besides training.

        Called inside `groups.alone()`. Must not change any state.
        """

    @abstractmethod
    def join(self, group: Group) -> None:
        """Belong to this group from now on. A step that the last group broke off is as if it had never begun."""

    @abstractmethod
    def equalise(self) -> None:
        """Make all ranks start from rank 0's state: there is no other. A collective."""

    @abstractmethod
    def step(self, batch: Batch) -> Tensor:
        """Train one step, together with the other ranks. Gives this rank's mean loss, detached."""

    @abstractmethod
    def state(self) -> Mapping[str, Any]:
        """All that the next step depends on: nested dicts, lists and scalars, with the live tensors in them.

        Every top-level key becomes a file of its own in the checkpoint. State is replicated: rank 0's is everybody's.
        """

    @abstractmethod
    def load(self, state: Mapping[str, Any]) -> None:
        """Become what `state` said."""

    def replicated(self) -> Sequence[Tensor]:
        """Tensors that must have the same bits on all ranks between two steps."""
        return ()

    @abstractmethod
    def fingerprint(self) -> Fingerprint:
        """What a checkpoint must agree with to be loaded here."""

    @abstractmethod
    def evaluation_model(self) -> nn.Module:
        """The model to evaluate, alike on all ranks. A collective."""
