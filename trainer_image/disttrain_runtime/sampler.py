"""Which samples a step sees, and which of them are this rank's. A pure function of (seed, step, rank, world size).

The *global* batch of a step does not depend on the number of ranks, so a job that goes on with another world size
still sees each sample exactly once an epoch, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from disttrain_runtime.randomness import permutation

_order_of = lru_cache(maxsize=2)(permutation)
"""Two epochs: the present one, and the next while loader processes run ahead."""


@dataclass(frozen=True, slots=True)
class Share:
    """One rank's part of one step."""

    step: int
    rank: int
    indices: tuple[int, ...]
    """What to fetch. Never empty: a rank without samples of its own fetches a stand-in, so that collectives match."""
    own: int
    """How many of the indices count. 0 for a stand-in, whose gradient has weight zero."""
    total: int
    """Size of the global batch."""

    def weight(self, world_size: int) -> float:
        """The factor on this rank's mean loss that makes the *mean over ranks* of the gradients exact."""
        return self.own * world_size / self.total


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleOrder:
    """The order in which a run sees its training data."""

    seed: int
    samples: int
    batch_size: int

    @property
    def steps_per_epoch(self) -> int:
        """The last batch of an epoch may be smaller; no sample is dropped."""
        return -(-self.samples // self.batch_size)

    def epoch(self, step: int) -> int:
        """The epoch that step (counted from 0) belongs to."""
        return step // self.steps_per_epoch

    def position(self, step: int) -> int:
        """How many samples of its epoch were seen before step."""
        return (step % self.steps_per_epoch) * self.batch_size

    def global_batch(self, step: int) -> tuple[int, ...]:
        """The sample indices of a step, over all ranks."""
        order = _order_of(self.seed, self.epoch(step), self.samples)
        first = self.position(step)
        return tuple(order[first : first + self.batch_size].tolist())

    def share(self, step: int, rank: int, world_size: int) -> Share:
        """This rank's contiguous part: sizes differ by one at most, and rank 0 never goes without."""
        return share_of(self.global_batch(step), step, rank, world_size)


def share_of(batch: tuple[int, ...], step: int, rank: int, world_size: int) -> Share:
    """A rank's contiguous part of a global batch, which may be empty where it is drawn by chance."""
    first, end = split(len(batch), rank, world_size)
    return Share(step, rank, batch[first:end] or batch[:1] or (0,), end - first, len(batch))


def split(count: int, part: int, parts: int) -> tuple[int, int]:
    """Bounds of one of `parts` nearly equal runs of 0..count; the first ones are the longer ones."""
    size, longer = divmod(count, parts)
    first = part * size + min(part, longer)
    return first, first + size + (part < longer)


def evaluation_shares(samples: int, batch_size: int, rank: int, world_size: int) -> Iterator[Share]:
    """Each sample of an evaluation on exactly one rank, in order; a rank may get none."""
    first, end = split(samples, rank, world_size)
    for number, start in enumerate(range(first, end, batch_size)):
        indices = tuple(range(start, min(start + batch_size, end)))
        yield Share(number, rank, indices, len(indices), len(indices))
