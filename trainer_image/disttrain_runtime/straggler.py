"""Which rank holds the others up? Pure, and never a reason to end anybody.

All ranks take equally long for a step, because all wait for the slowest one. So what is compared is the time that each
needs for its own part of it: loading, forward, optimizer, without the waiting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from disttrain_contract.messages import Straggler

MIN_RANKS = 3
"""Of two, either may be the odd one."""
SCORE = 3.5
"""Robust z-score, (x - median) / (1.4826 * MAD), from which on a value is an outlier (Iglewicz and Hoaglin)."""
_MAD_TO_SIGMA = 1.4826
LEAST_SPREAD = 0.05
"""Of the median: when all ranks are alike to the microsecond, a per cent more is still nothing."""
SLOW, WELL = 1.5, 1.25
"""Times the median: worth a word above the one, worth no more words below the other."""
PATIENCE = 5
"""Readings in a row, about a second apart, before anything is said or taken back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """What is thought after some readings."""

    named: Straggler | None = None
    rank: int = -1
    """Who was the slowest lately, if by much."""
    readings: int = 0
    """In a row that speak for a change."""


def slowest(seconds: Sequence[float]) -> Straggler | None:
    """An outlier among the ranks' own times per step, if there is one."""
    if len(seconds) < MIN_RANKS or (middle := median(seconds)) <= 0:
        return None
    sigma = max(_MAD_TO_SIGMA * median(abs(x - middle) for x in seconds), LEAST_SPREAD * middle)
    rank = max(range(len(seconds)), key=seconds.__getitem__)
    factor = seconds[rank] / middle
    slow = factor >= SLOW and (seconds[rank] - middle) / sigma >= SCORE
    return Straggler(rank=rank, factor=round(factor, 1)) if slow else None


def reading(before: Suspicion, seconds: Sequence[float]) -> Suspicion:
    """One more reading: the times of all ranks, in their order."""
    if before.named is not None:
        return _still(before, before.named, seconds)
    found = slowest(seconds)
    if found is None:
        return Suspicion()
    readings = before.readings + 1 if found.rank == before.rank else 1
    return Suspicion(named=found) if readings >= PATIENCE else Suspicion(rank=found.rank, readings=readings)


def _still(before: Suspicion, named: Straggler, seconds: Sequence[float]) -> Suspicion:
    well = named.rank >= len(seconds) or seconds[named.rank] < WELL * median(seconds)
    readings = before.readings + 1 if well else 0
    return Suspicion() if readings >= PATIENCE else Suspicion(named=named, readings=readings)
