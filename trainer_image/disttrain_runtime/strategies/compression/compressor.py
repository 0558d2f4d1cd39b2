"""What all ways to compress gradients share: what is lost in one step is added to the next one's gradient.

Error feedback, as in Karimireddy et al. 2019, "Error Feedback Fixes SignSGD and other Gradient Compression Schemes". With
the rank's gradient g, its residual e and the compressor C, in every step

    v = g + e        sent: C(v)        e ← v - C(v)        all ranks: mean of C(v)

so that nothing is lost for ever, only late. A residual belongs to one rank. It changes only when the step is taken:
a step that is broken off, or left out because it overflowed, has used up nothing.

Residuals are kept by the name of their parameter: they fit whatever buckets DDP lays out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.futures import Future
from typing_extensions import override

from disttrain_contract import strategy as contract

RESIDUAL = "residual"


@dataclass(frozen=True, slots=True)
class Piece:
    """One parameter's values in a bucket."""

    name: str
    first: int
    end: int
    shape: torch.Size


class Compressor(ABC):
    """A communication hook of DDP, and what it remembers from step to step."""

    one_bucket = False
    """Its messages are so many that all gradients should wait for each other: DDP is told to make one bucket."""

    def __init__(self, config: contract.Compression, model: nn.Module) -> None:
        self.config, self.feedback = config, config.error_feedback
        self.scale = 1.0
        """The present loss scale: gradients come multiplied by it, residuals are kept without it."""
        self._names: dict[Tensor, str] = {
            parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        self._kept: dict[str, Tensor] = {}
        """The residual of the steps taken; what is not there is zero."""
        self._pending: dict[str, Tensor] = {}
        """What it will be if the step under way is taken."""
        self._rows: dict[int, tuple[Tensor, Tensor]] = {}
        """Of each bucket: memory for the residual of the step under way, and that in which the kept one lies."""

    def hook(self, bucket: GradBucket) -> Future[Tensor]:
        """What DDP calls for each bucket as soon as its gradients are there."""
        values, pieces = bucket.buffer(), self._pieces(bucket)
        if self.feedback:
            for piece in pieces:
                if piece.name in self._kept:
                    kept = self._kept[piece.name]
                    values[piece.first : piece.end].add_(kept.to(values.device), alpha=self.scale)
        return self.exchange(bucket, values, pieces)

    @abstractmethod
    def exchange(self, bucket: GradBucket, values: Tensor, pieces: Sequence[Piece]) -> Future[Tensor]:
        """Begin to send these values compressed, `remember` what that loses, put the mean over all ranks in their place."""

    def row(self, bucket: GradBucket) -> Tensor:
        """Memory for what this step loses of a bucket; nothing of it is in use. For the kernel to find 4 MB of new memory
        takes longer than to compute what goes there.
        """
        number, values = bucket.index(), bucket.buffer()
        free, _ = self._rows.get(number, (None, None))
        if free is None or (free.shape, free.dtype, free.device) != (values.shape, values.dtype, values.device):
            self._rows[number] = torch.empty_like(values), torch.empty_like(values)
        return self._rows[number][0]

    def remember(self, pieces: Sequence[Piece], lost: Tensor) -> None:
        """The residual after this step, of one bucket, in its `row`."""
        if self.scale != 1.0:
            lost.div_(self.scale)
        self._pending |= {piece.name: lost[piece.first : piece.end] for piece in pieces}

    def taken(self) -> None:
        """The step under way was taken."""
        self._kept |= self._pending
        self._pending = {}
        self._rows = {number: (old, new) for number, (new, old) in self._rows.items()}

    def undo(self) -> None:
        """It was not: broken off, or left out."""
        self._pending = {}

    def state(self) -> Mapping[str, Any]:
        """What all ranks have alike at a meeting, beside the model."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """This rank is given the state behind a step that it had begun but not finished, or it is new.

        A peer can finish a step only with what this rank has sent in it: then the residual behind that step is
        complete here, too. A new rank has none: its predecessor's died with it, which costs what one step's compression
        loses, once.
        """
        if self._pending.keys() >= set(self._names.values()):
            self.taken()
        self.undo()

    def own(self) -> Mapping[str, Any]:
        """The residual."""
        return {RESIDUAL: self._kept}

    def load_own(self, parts: Sequence[Mapping[str, Any]], rank: int, world_size: int) -> None:
        """Back from a checkpoint. Another number of ranks: each takes the mean of all residuals.

        A step adds the mean of all residuals to the gradient. That stays what it was.
        """
        self.undo()
        residuals = [part.get(RESIDUAL, {}) for part in parts]
        if not self.feedback or not residuals:
            self._kept = {}
        elif len(residuals) == world_size:
            self._kept = dict(residuals[rank])
        else:
            self._kept = {name: _mean(name, residuals) for name in sorted({n for r in residuals for n in r})}

    def _pieces(self, bucket: GradBucket) -> list[Piece]:
        pieces: list[Piece] = []
        end = 0
        for parameter in bucket.parameters():
            first, end = end, end + parameter.numel()
            pieces.append(Piece(self._names[parameter], first, end, parameter.shape))
        return pieces


class Gathered(Compressor):
    """Messages that cannot be added up on their way: each rank gets those of all, and adds up what they mean."""

    @override
    def exchange(self, bucket: GradBucket, values: Tensor, pieces: Sequence[Piece]) -> Future[Tensor]:
        message = self.encode(values)
        if self.feedback:
            lost = self.row(bucket).copy_(values)
            self.add(lost, message, -1.0)
            self.remember(pieces, lost)
        ranks = dist.get_world_size()
        messages = message.new_empty(ranks * message.numel())
        gathering = dist.all_gather_into_tensor(messages, message, async_op=True)
        assert gathering is not None

        def decode(future: Future[list[Tensor]]) -> Tensor:
            future.value()  # raises what went wrong
            values.zero_()
            for each in messages.chunk(ranks):  # in the order of ranks: the same bits everywhere
                self.add(values, each, 1.0 / ranks)
            return values

        return gathering.get_future().then(decode)

    @abstractmethod
    def encode(self, values: Tensor) -> Tensor:
        """A message of bytes, as long on all ranks."""

    @abstractmethod
    def add(self, values: Tensor, message: Tensor, factor: float) -> None:
        """Add what a message means, times a factor."""


def _mean(name: str, residuals: Sequence[Mapping[str, Tensor]]) -> Tensor:
    there = [residual[name] for residual in residuals if name in residual]
    return torch.stack(there).sum(0) / len(residuals)
