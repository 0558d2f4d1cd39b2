"""From samples to JSON, a table and a plot."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Sample = dict[str, Any]
Key = tuple[int, str, str]
"""(megabytes, fault, arm)"""


def summary(samples: Sequence[Sample]) -> dict[Key, dict[str, float]]:
    """By size, fault and arm, in the order in which they came."""
    groups: dict[Key, list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample["megabytes"], sample["fault"], sample["arm"]), []).append(sample)
    return {key: _figures(found) for key, found in sorted(groups.items(), key=lambda g: (g[0][:2], g[0][2]))}


def _figures(samples: Sequence[Sample]) -> dict[str, float]:
    new = sorted(s["new_at"] for s in samples)
    quarters = statistics.quantiles(new, n=4, method="inclusive") if len(new) > 1 else new * 3
    return {
        "n": len(new), "p50": quarters[1], "p95": _percentile(new, 0.95), "worst": new[-1], "iqr": quarters[2] - quarters[0],
        "again": statistics.median(s["again_at"] for s in samples),
        "full": statistics.median(s["full_at"] for s in samples),
        "recomputed": statistics.median(s["recomputed"] for s in samples),
        "load": statistics.median(s["load"] for s in samples),
    }  # fmt: skip


def _percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that so large a share does not exceed: with few values the largest."""
    return ordered[min(len(ordered) - 1, -int(-share * len(ordered) // 1) - 1)]


def table(samples: Sequence[Sample], ours: str = "disttrain") -> str:
    """Seconds. The last column: how many times ours, by medians."""
    found = summary(samples)
    lines = [
        "| state | fault | arm | n | first new step p50 | p95 | IQR | trains again | full group | steps run twice | × disttrain |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (megabytes, fault, arm), f in found.items():
        own = found.get((megabytes, fault, ours))
        times = f"{f['p50'] / own['p50']:.1f}" if own and arm != ours else ""
        lines.append(
            f"| {megabytes} MB | {fault} | {arm} | {f['n']} | {f['p50']:.3f} | {f['p95']:.3f} | {f['iqr']:.3f} | {f['again']:.3f} "
            f"| {f['full']:.3f} | {f['recomputed']:.0f} | {times} |"
        )
    return "\n".join(lines)


def write(found: dict[str, Any], out: Path, name: str = "recovery") -> None:
    """`recovery.json`, `recovery.md`, `recovery.png`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    (out / f"{name}.md").write_text(table(found["samples"]) + "\n")
    _plot(found["samples"], out / f"{name}.png")


def _plot(samples: Sequence[Sample], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = sorted({s["megabytes"] for s in samples})
    figure, axes = pyplot.subplots(1, len(sizes), figsize=(4 * len(sizes), 4), sharey=True, squeeze=False)
    for axis, megabytes in zip(axes[0], sizes, strict=True):
        groups: dict[str, list[float]] = {}
        for s in samples:
            if s["megabytes"] == megabytes:
                groups.setdefault(f"{s['arm']}\n{s['fault']}", []).append(s["new_at"])
        names = sorted(groups)
        for place, name in enumerate(names):
            spread = [place + (i % 7 - 3) * 0.05 for i in range(len(groups[name]))]
            axis.plot(spread, groups[name], "o", alpha=0.5, markersize=4)
            axis.plot([place - 0.25, place + 0.25], [statistics.median(groups[name])] * 2, "k-", linewidth=1.5)
        axis.set(title=f"{megabytes} MB of state", yscale="log", xticks=range(len(names)))
        axis.set_xticklabels(names, fontsize=7, rotation=45, ha="right")
        axis.grid(axis="y", alpha=0.3)
    axes[0][0].set_ylabel("seconds from the fault to the first new step")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
