"""How much faster than bare code, when the machine is not always equally fast. Pure."""

from __future__ import annotations

import statistics


def ratio(bare: list[float], ours: list[float]) -> dict[str, float]:
    """Bare time / our time, pair by pair: what slows the machine down slows both. Median and quartiles."""
    quarters = statistics.quantiles([b / o for b, o in zip(bare, ours, strict=True)], n=4, method="inclusive")
    return dict(zip(("low", "median", "high"), quarters, strict=True))
