"""One run of layers on one rank, as torch's schedules want it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage
from typing_extensions import override

from disttrain_contract.stall import Phase
from disttrain_runtime.generators import reseed_torch
from disttrain_runtime.precision import Precision
from disttrain_runtime.randomness import key
from disttrain_runtime.task import call

Values = tuple[Any, ...]


def run_layers(layers: Sequence[nn.Module], value: Any, before: Callable[[int], None] = lambda number: None) -> Any:
    """One after the other; a mapping becomes keyword arguments of the first."""
    for number, layer in enumerate(layers):
        before(number)
        value = call(layer, value)
    return value


def as_tuple(value: Any) -> Values:
    """What travels: one tensor or several."""
    return value if isinstance(value, tuple) else (value,)


class Chunk(nn.Module):
    """The layers. The first run of a model gets the microbatch's number and takes its inputs, of whatever make, from `feed`."""

    def __init__(self, layers: Sequence[nn.Module], first_layer: int, precision: Precision) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.first_layer, self.precision = first_layer, precision
        self.luck = self.microbatch = 0
        self.feed: Sequence[Any] = ()
        self.dtypes: Sequence[torch.dtype] = ()
        """Of what comes out, as its reader expects it."""

    @override
    def forward(self, *values: Tensor) -> Any:
        value: Any = self.feed[int(values[0])] if not self.first_layer else values[0] if len(values) == 1 else values
        with self.precision.forward():
            value = run_layers(list(self.layers), value, self._reseed)
        outputs = tuple(t.to(d) for t, d in zip(as_tuple(value), self.dtypes, strict=True))
        return outputs if isinstance(value, tuple) else outputs[0]

    def _reseed(self, number: int) -> None:
        """Each layer draws its own numbers for each microbatch: the same ones wherever the model is cut, in whatever order."""
        if self.training:
            reseed_torch(key(self.luck, self.microbatch, self.first_layer + number))


class Stage(PipelineStage):
    """Says in which part of the step the rank is: what is not forward or backward is waiting for a neighbour."""

    def __init__(
        self, chunk: Chunk, number: int, of: int, before: Sequence[Tensor], after: Sequence[Tensor],
        device: torch.device, group: dist.ProcessGroup, enter: Callable[[Phase], None],
    ) -> None:  # fmt: skip
        super().__init__(
            chunk, number, of, device, input_args=tuple(before), output_args=tuple(after), group=group
        )  # fmt: skip
        self._chunk, self._enter = chunk, enter

    @override
    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        self._chunk.microbatch = fwd_chunk_id
        return self._within(Phase.FORWARD, super().forward_one_chunk, (fwd_chunk_id, *args), kwargs)

    @override
    def backward_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        return self._within(Phase.BACKWARD, super().backward_one_chunk, args, kwargs)

    @override
    def backward_weight_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        return self._within(Phase.BACKWARD, super().backward_weight_one_chunk, args, kwargs)

    def _within(self, phase: Phase, work: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        self._enter(phase)
        try:
            done = work(*args, **kwargs)
        except RuntimeError as error:  # torch wraps what a layer raises: it is the layer's error that people must read
            raise error.__cause__ or error from None
        self._enter(Phase.SYNCHRONISING)
        return done
