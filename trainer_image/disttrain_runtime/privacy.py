"""What a private run has spent, as numbers: which steps were ever run, and the epsilon they add up to. Pure.

Where whole workers hide, what is counted is exchanges in place of steps (see `strategies/private_averaging`).

A step's release is fixed by (run, world size, step): sample, noise and every other random number follow from them. A
step that is broken off and run again is therefore the same release and counts once. Anything that could change
what a step computes (another job, other arguments, another number of ranks) draws a sample and noise of its own,
and counts beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
from opacus.accountants import RDPAccountant
from opacus.accountants.analysis import rdp

from disttrain_contract.strategy import SAMPLE

ORDERS = tuple(RDPAccountant.DEFAULT_ALPHAS)
"""opacus's own, so that its accountant and ours say the same."""
SECRET_BYTES = 32
_WORD = 2.0**64


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Steps `first` ≤ step < `end` were run, or may have been."""

    run: str
    """Job and configuration: all that decides what a step computes."""
    world_size: int
    noise_multiplier: float
    sample_rate: float
    first: int = 0
    end: int = 0
    unit: str = SAMPLE
    """Whose contribution is bounded."""


def merged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The same steps, each once."""
    found: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.run, s.unit, s.world_size, s.noise_multiplier, s.sample_rate, s.first)):
        last = found[-1] if found else None
        if last is not None and replace(span, first=last.first, end=last.end) == last and span.first <= last.end:
            found[-1] = replace(last, end=max(last.end, span.end))
        elif span.end > span.first:
            found.append(span)
    return tuple(found)


def epsilon(spans: Iterable[Span], delta: float) -> float:
    """Renyi differential privacy of the subsampled Gaussian mechanism (Mironov, Talwar, Zhang 2019), composed over all
    steps, in the form of (epsilon, delta). 0 before the first step."""
    counted = merged(spans)
    if not counted:
        return 0.0
    total = sum(_per_step(s.sample_rate, s.noise_multiplier) * (s.end - s.first) for s in counted)
    spent, _ = rdp.get_privacy_spent(orders=ORDERS, rdp=total, delta=delta)
    return float(spent)


def affordable(past: Sequence[Span], own: Span, total_steps: int, delta: float, target: float) -> int:
    """The largest number of finished steps, counted from own.first on, that keeps within the target."""
    low, high = own.first, total_steps
    while low < high:
        middle = (low + high + 1) // 2
        if epsilon([*past, replace(own, end=middle)], delta) <= target:
            low = middle
        else:
            high = middle - 1
    return low


def reserve(step: int, limit: int) -> int:
    """Up to which step the ledger is written when this one begins: a 64th ahead, so that it is written seldom, and
    says too much by at most that after a crash."""
    return min(max(limit, step + 1), step + 1 + step // 64)


def poisson(secret: bytes, span: Span, step: int, samples: int) -> tuple[int, ...]:
    """Each sample of the data set with probability `sample_rate`, independently of all others and of all other steps.

    Philox's raw words are fixed by its definition, not by numpy's version.
    """
    words = np.random.Philox(key=_draw(secret, "sample", span, step, 16)).random_raw(samples)
    if span.sample_rate >= 1:
        return tuple(range(samples))
    return tuple(np.flatnonzero(words < np.uint64(span.sample_rate * _WORD)).tolist())


def noise_seed(secret: bytes, span: Span, step: int, rank: int | None = None) -> int:
    """Where the noise of a step starts, or one rank's share of it. Alike for every run of the step; unknown to whoever
    does not have the secret."""
    return _draw(secret, "noise" if rank is None else f"noise of rank {rank}", span, step, 8)


def spans_to_json(spans: Iterable[Span]) -> list[dict[str, Any]]:
    """Plain values."""
    return [asdict(span) for span in spans]


def spans_from_json(raw: Iterable[Mapping[str, Any]]) -> tuple[Span, ...]:
    """The inverse. Raises TypeError when something is missing."""
    return tuple(Span(**span) for span in raw)


def _draw(secret: bytes, purpose: str, span: Span, step: int, size: int) -> int:
    text = f"{purpose}/{span.run}/{span.world_size}/{span.noise_multiplier!r}/{span.sample_rate!r}/{step}"
    return int.from_bytes(blake2b(text.encode(), key=secret, digest_size=size).digest(), "little")


@lru_cache(maxsize=16)
def _per_step(sample_rate: float, noise_multiplier: float) -> Any:
    """A tenth of a second; every further step is a multiplication."""
    return np.asarray(rdp.compute_rdp(q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=ORDERS))
