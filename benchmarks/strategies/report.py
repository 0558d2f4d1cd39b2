"""From what was found to a table. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.strategies.formulas import off

Found = Mapping[str, Any]


def table(found: Found) -> str:
    """Strategies, pipelines, the slow link: as far as they were measured."""
    parts = [strategies(found["rows"])] if found.get("rows") else []
    parts += [bubbles(found["bubble"])] if found.get("bubble") else []
    parts += [link(found["link"])] if found.get("link", {}).get("arms") else []
    return "\n\n".join(parts) + "\n"


def strategies(rows: Mapping[str, Found]) -> str:
    """One line each."""
    lines = [
        "| strategy | ranks | bytes / step | formula | off | ms / step | bare | ratio | ratio of processor time | peak MB | bare | accuracy |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        cells = [*_counted(row.get("counts")), *_raced(row.get("race"))]
        memory = _memory(row.get("counts"))
        lines.append(f"| {' | '.join([name, *cells, *memory, _accuracy(row.get('accuracy'))])} |")
    return "\n".join(lines)


def _counted(counts: Found | None) -> list[str]:
    if counts is None:
        return [""] * 4
    measured, formula = counts["ours_bytes"], counts["formula_bytes"]
    return [str(counts["ranks"]), f"{measured:,.0f}", f"{formula:,.0f}", f"{off(measured, formula):+.1%}"]


def _raced(race: Found | None) -> list[str]:
    if race is None:
        return [""] * 4
    times = [f"{1000 * race[f'{arm}_seconds']:.1f}" for arm in ("ours", "bare")]
    return times + [f"{r['median']:.2f} ({r['low']:.2f}–{r['high']:.2f})" for r in (race["ratio"], race["cpu_ratio"])]


def _memory(counts: Found | None) -> list[str]:
    return ["", ""] if counts is None else [f"{counts[f'{arm}_megabytes']:.0f}" for arm in ("ours", "bare")]


def _accuracy(seeds: list[float] | None) -> str:
    if not seeds:
        return ""
    return f"{seeds[0]:.3f}" if len(seeds) == 1 else f"{min(seeds):.3f}–{max(seeds):.3f}"


def bubbles(found: list[Found]) -> str:
    """Idle time of pipelines, in points beside the formula."""
    lines = ["| schedule | stages | microbatches | idle | formula | off, points |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {b['schedule']} | {b['stages']} | {b['microbatches']} | {b['measured']:.1%} | {b['formula']:.1%} "
        f"| {100 * (b['measured'] - b['formula']):+.1f} |"
        for b in found
    ]
    return "\n".join(lines)


def link(found: Found) -> str:
    """How far each came on the slow link."""
    lines = [
        f"| on {found['megabits']} Mbit/s, {found['rtt_ms']:.0f} ms there and back, {found['ranks']} ranks | ms / step "
        f"| seconds to {found['target']:.0%} | steps to {found['target']:.0%} | best accuracy | in seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, points in found["arms"].items():
        reached = arrival(points, found["target"])
        steps, seconds = points[-1]["step"], points[-1]["seconds"]
        lines.append(
            f"| {name} | {1000 * seconds / steps:.0f} "
            + (f"| {reached['seconds']:.1f} | {reached['step']} " if reached else "| not reached | ")
            + f"| {max(p['accuracy'] for p in points):.3f} | {seconds:.1f} |"
        )
    return "\n".join(lines)


def arrival(points: list[Found], target: float) -> Found | None:
    """The first of two measurements in a row that reach the target: one alone may be luck."""
    pairs: Iterator[tuple[Found, Found]] = zip(points, points[1:], strict=False)
    return next((a for a, b in pairs if min(a["accuracy"], b["accuracy"]) >= target), None)
