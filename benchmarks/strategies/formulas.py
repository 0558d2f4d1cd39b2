"""What the docs pages say, as functions: bytes that a rank sends in a step, and the share of time in which a pipeline idles. Pure.

W ranks, n bytes of parameters in fp32, H steps between exchanges. Bytes are the mean over the ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WORD = 4
"""Bytes of a number in fp32."""
MOMENTS = 2
"""Of AdamW, for each parameter."""
SCALE_BYTES = 4
"""`sign` sends one scale a message."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What travels, and among how many."""

    shapes: tuple[tuple[int, ...], ...]
    """Of the parameters."""
    ranks: int
    batch: int
    """Samples of a step, over all ranks."""

    @property
    def count(self) -> int:
        """Of parameters."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def n(self) -> int:
        """Bytes of all parameters."""
        return WORD * self.count

    @property
    def ring(self) -> float:
        """How many times its message a rank sends in an all-reduce."""
        return 2 * (self.ranks - 1) / self.ranks


Formula = Callable[[Sizes], float]


def all_reduce(s: Sizes) -> float:
    """A ring."""
    return s.ring * s.n


def half(s: Sizes) -> float:
    """fp16 and bf16."""
    return s.ring * s.n / 2


def top_k(ratio: float) -> Formula:
    """Values and their places, to everybody."""
    return lambda s: (s.ranks - 1) * 2 * WORD * math.ceil(ratio * s.count)


def sign(s: Sizes) -> float:
    """A bit for each value, to everybody."""
    return (s.ranks - 1) * (math.ceil(s.count / 8) + SCALE_BYTES)


def power_sgd(rank: int, min_rate: int = 2) -> Formula:
    """P and Q of matrices that get smaller by it, and the rest as it is."""

    def sent(shape: Sequence[int]) -> int:
        rows, columns = shape[0], math.prod(shape[1:])
        r = min(rank, rows, columns)
        return min_rate_pays(rows, columns, r, min_rate)

    return lambda s: s.ring * WORD * sum(sent(shape) for shape in s.shapes)


def min_rate_pays(rows: int, columns: int, rank: int, min_rate: int) -> int:
    """Values that travel for one matrix."""
    low = rank * (rows + columns)
    return low if low * min_rate < rows * columns else rows * columns


def parameter_server(meeting: int) -> Formula:
    """Gradients there, parameters back, and the optimizer's state to all at each meeting."""
    return lambda s: (s.ranks - 1) * s.n * (2 + MOMENTS / meeting) / s.ranks


def averaging(every: int, moments: int = MOMENTS) -> Formula:
    """Parameters and moments, now and then. `moments` 0: DiLoCo, the asynchronous ring."""
    return lambda s: s.ring * s.n * (1 + moments) / every


def round_robin(every: int) -> Formula:
    """One rank's parameters go to all others."""
    return lambda s: s.n * (s.ranks - 1) / s.ranks / every


def gossip(every: int, meet_every: int) -> Formula:
    """To one other, and a mean at each meeting."""
    return lambda s: s.n / every + s.ring * s.n / meet_every


GATHERS, SCATTERS = 2, 1
"""Of FSDP, each (N - 1) / N of the parameters: gathered forward and backward; gradients are scattered once."""


def fsdp(s: Sizes) -> float:
    """On NCCL, and on gloo with our reduce-scatter; gloo's own would count twice."""
    return (GATHERS + SCATTERS) * (s.ranks - 1) / s.ranks * s.n


def hybrid(inside: int) -> Formula:
    """Sharded over the ranks of a worker, and the parts averaged over the workers."""

    def sent(s: Sizes) -> float:
        workers = s.ranks // inside
        return (GATHERS + SCATTERS) * (inside - 1) / inside * s.n + 2 * (workers - 1) / workers * s.n / inside

    return sent


def tensor(pairs: Sequence[int]) -> Formula:
    """For each pair of layers the outputs are summed over the ranks, and so are the gradients of the inputs, where any are wanted.

    `pairs`: values for each sample that are summed: outputs of a pair, and inputs of all but the first.
    """
    return lambda s: s.ring * WORD * s.batch * sum(pairs)


GLOO_SCATTER = 2
"""What gloo makes of a reduce-scatter is an all-reduce: twice the bytes."""


def sequence(blocks: Sequence[int], norms: int) -> Formula:
    """Places are gathered before each pair of layers and its outputs scattered behind it; backward the other way round. At the end they are
    put together once, and the gradients of norms are summed.

    `blocks`: values for each sample that enter each pair; the last one's are what is put together. `norms`: parameters of each block's.
    """

    def sent(s: Sizes) -> float:
        gathered = (1 + GLOO_SCATTER) * 2 * sum(blocks) + blocks[-1]
        return (s.ranks - 1) / s.ranks * WORD * s.batch * gathered + s.ring * WORD * norms * len(blocks)

    return sent


def pipeline(boundaries: Sequence[int]) -> Formula:
    """Activations forward and their gradients back. `boundaries`: values for each sample between runs on different ranks."""
    return lambda s: 2 * WORD * s.batch * sum(boundaries) / s.ranks


def bubble(stages: int, microbatches: int, chunks: int = 1) -> float:
    """The share of time in which a rank idles: GPipe and 1F1B; with several runs of layers a rank: interleaved 1F1B."""
    return (stages - 1) / (chunks * microbatches + stages - 1)


def bubble_v(stages: int, microbatches: int) -> float:
    """ZB-V, two runs of layers a rank and three equal passes through each: nobody waits once begun, but the last rank begins late.

    The schedule itself has no bubble: a rank that begins late could end late. A step that all ranks begin and end together has this one.
    """
    return (stages - 1) / (6 * microbatches + stages - 1)


def off(measured: float, formula: float) -> float:
    """By which share the measurement differs from the formula."""
    return measured / formula - 1
