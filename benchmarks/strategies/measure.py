"""The parts of the benchmark: each gives plain values for the JSON."""

from __future__ import annotations

import os
import statistics
from typing import Any

from benchmarks.strategies import stories, workload
from benchmarks.strategies.crew import together
from benchmarks.strategies.ratio import ratio
from benchmarks.strategies.rows import Row


def counts(row: Row) -> dict[str, Any]:
    """Bytes beside the formula, memory beside the bare loop's."""
    formula = row.bytes(workload.sizes(row))
    ours, bare = (
        together(row.ranks, stories.counted, row.name, mine, per_worker=row.per_worker) for mine in (True, False)
    )
    return {
        "ranks": row.ranks, "formula_bytes": formula,
        **{f"{arm}_{what}": fold([one[what] for one in found])
           for arm, found in (("ours", ours), ("bare", bare)) for what, fold in (("bytes", statistics.fmean), ("megabytes", max))},
    }  # fmt: skip


def race(row: Row, blocks: int) -> dict[str, Any]:
    """Seconds a step, by medians; the ratio is that of two blocks that came one after the other."""
    found = together(row.race_ranks, stories.raced, row.name, blocks, per_worker=row.per_worker)[0]
    return {
        "ranks": row.race_ranks, "blocks": blocks, "load": os.getloadavg()[0],
        **{f"{arm}_seconds": statistics.median(times) for arm, times in found.items()},
        "ratio": ratio(found["bare"], found["ours"]), "cpu_ratio": ratio(found["bare_cpu"], found["ours_cpu"]),
        "samples": found,
    }  # fmt: skip


def accuracy(row: Row, steps: int, seeds: list[int]) -> list[float]:
    """On test images, by seed."""
    return [
        together(row.race_ranks, stories.learnt, row.name, steps, seed, per_worker=row.per_worker)[0] for seed in seeds
    ]
