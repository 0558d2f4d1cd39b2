"""Randomness as a pure function of (seed, step, rank): nothing to save, nothing to restore.

Every step starts all generators anew from a key (see `generators`), so a step that is run again, here or on a
replacement, draws the same numbers. The key is a splitmix64 chain: fixed by its definition, not by a library's version.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

SCHEME = "splitmix64-1"
"""Written into checkpoints: an image with another scheme must not continue this one's order."""

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


class Stream(IntEnum):
    """Independent sources, so that fetching data in another process does not shift the model's dropout."""

    BUILD = 1
    DATA = 2
    MODEL = 3
    ORDER = 4


def key(seed: int, *parts: int) -> int:
    """64 well-mixed bits from a seed and any integers."""
    state = _mix(seed & _MASK)
    for part in parts:
        state = _mix(state ^ (part & _MASK))  # the part unmixed: mixed, it would cancel a seed of the same value
    return state


def permutation(seed: int, epoch: int, samples: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The order of an epoch: indices sorted by the hash of their place, the same for ever and everywhere."""
    with np.errstate(over="ignore"):
        hashes = np.arange(1, samples + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(
            key(seed, Stream.ORDER, epoch)
        )
        hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(_FIRST)
        hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(_SECOND)
        hashes ^= hashes >> np.uint64(31)
    return np.argsort(hashes, kind="stable").astype(np.int64)


def _mix(value: int) -> int:
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * _FIRST) & _MASK
    value = ((value ^ (value >> 27)) * _SECOND) & _MASK
    return value ^ (value >> 31)
