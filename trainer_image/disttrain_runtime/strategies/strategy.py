"""The interface of a strategy: what the training loop needs from any way to train together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from disttrain_contract.stall import Phase
from disttrain_runtime.checkpoint.manifest import Fingerprint
from disttrain_runtime.data import Batch


class Strategy(ABC):
    """Owns the model and the optimizer of one rank."""

    enter: Callable[[Phase], None] = staticmethod(lambda phase: None)
    """Hears in which part of a step the rank is: that tells who hangs from who waits for it. The loop sets it."""

    def rehearse(self, batch: Batch) -> None:  # noqa: B027 - most strategies have nothing to rehearse
        """Called once before the first step of an incarnation, with that step's batch. Must not change any state."""

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
