"""Bytes on a grid of ranks, D replicas × S stages × T shards: those of the three axes, each over its own ranks. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.strategies.formulas import WORD, Formula, Sizes


@dataclass(frozen=True, slots=True)
class Grid:
    """Degrees of the axes."""

    replicas: int
    stages: int
    shards: int

    @property
    def ranks(self) -> int:
        """In all."""
        return self.replicas * self.stages * self.shards


def mesh(grid: Grid, pairs: Sequence[int], boundaries: Sequence[int]) -> Formula:
    """The mean over the ranks.

    `pairs`: see `formulas.tensor`; each stage has its own of them. `boundaries`: see `formulas.pipeline`; every shard sends all of it,
    as activations between pairs are whole. Parameters that are not cut, the biases of `row` layers, count as if they were.
    """

    def sent(s: Sizes) -> float:
        batch = s.batch / grid.replicas
        layers = 2 * (grid.shards - 1) / grid.shards * WORD * batch * sum(pairs) / grid.stages
        cuts = 2 * WORD * batch * sum(boundaries) / grid.stages
        replicas = 2 * (grid.replicas - 1) / grid.replicas * s.n / (grid.stages * grid.shards)
        return layers + cuts + replicas

    return sent
