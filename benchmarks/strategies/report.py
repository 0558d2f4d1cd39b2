"""From what was found to a table, and whether it is what was promised. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.strategies.formulas import off

Found = Mapping[str, Any]
BYTES_OFF = 0.02
"""Bytes may differ from the formula by this share: gloo's frames are up to 1 kB for each collective."""
IDLE_POINTS = 5.0
"""Idle time of a pipeline may differ from the formula by so many points."""
RATIO = 0.98
"""Our step may take so much longer than the bare one's: the median of bare / ours."""
MARGIN = 1.1
"""From here on theory promises that an arm wins."""
BARE = "bare DDP"
"""The arm of the link that all others stand beside."""


def table(found: Found) -> str:
    """Strategies, pipelines, the slow link: as far as they were measured."""
    parts = [strategies(found["rows"])] if found.get("rows") else []
    parts += [bubbles(found["bubble"])] if found.get("bubble") else []
    parts += [link(found["link"])] if found.get("link", {}).get("runs") else []
    return "\n\n".join(parts) + "\n"


def strategies(rows: Mapping[str, Found]) -> str:
    """One line each."""
    lines = [
        f"| strategy | ranks | bytes / step | formula | off | ≤ {BYTES_OFF:.0%} | ms / step | bare | ratio | ≥ {RATIO} "
        "| ratio of processor time | peak MB | bare | accuracy |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        cells = [*_counted(row.get("counts")), *_raced(row.get("race"))]
        memory = _memory(row.get("counts"))
        lines.append(f"| {' | '.join([name, *cells, *memory, _accuracy(row.get('accuracy'))])} |")
    return "\n".join(lines)


def verdict(holds: bool) -> str:
    """For a cell."""
    return "pass" if holds else "**miss**"


def _counted(counts: Found | None) -> list[str]:
    if counts is None:
        return [""] * 5
    measured, formula = counts["ours_bytes"], counts["formula_bytes"]
    distance = off(measured, formula)
    holds = verdict(abs(distance) <= BYTES_OFF)
    return [str(counts["ranks"]), f"{measured:,.0f}", f"{formula:,.0f}", f"{distance:+.1%}", holds]


def _raced(race: Found | None) -> list[str]:
    if race is None:
        return [""] * 5
    times = [f"{1000 * race[f'{arm}_seconds']:.1f}" for arm in ("ours", "bare")]
    wall, processor = (
        f"{r['median']:.2f} ({r['low']:.2f}–{r['high']:.2f})" for r in (race["ratio"], race["cpu_ratio"])
    )
    return [*times, wall, verdict(race["ratio"]["median"] >= RATIO), processor]


def _memory(counts: Found | None) -> list[str]:
    return ["", ""] if counts is None else [f"{counts[f'{arm}_megabytes']:.0f}" for arm in ("ours", "bare")]


def _accuracy(seeds: list[float] | None) -> str:
    if not seeds:
        return ""
    return f"{seeds[0]:.3f}" if len(seeds) == 1 else f"{min(seeds):.3f}–{max(seeds):.3f}"


def bubbles(found: list[Found]) -> str:
    """Idle time of pipelines, in points beside the formula."""
    lines = [
        f"| schedule | stages | microbatches | idle | formula | off, points | within {IDLE_POINTS:.0f} |",
        "|---|---|---|---|---|---|---|",
    ]
    for b in found:
        points = 100 * (b["measured"] - b["formula"])
        lines.append(
            f"| {b['schedule']} | {b['stages']} | {b['microbatches']} | {b['measured']:.1%} | {b['formula']:.1%} "
            f"| {points:+.1f} | {verdict(abs(points) <= IDLE_POINTS)} |"
        )
    return "\n".join(lines)


def link(found: Found) -> str:
    """What theory said of each arm on the slow link, and how far it came."""
    where = f"{found['megabits']} Mbit/s, {found['rtt_ms']:.0f} ms there and back, {found['ranks']} ranks, {found['compute_ms']:.0f} ms of computing"
    lines = [
        f"| {where} | MB / step | ms / step by theory | ms / step | theory beside {BARE} | seconds to {found['target']:.0%} | steps "
        f"| beside {BARE} | as theory says | best accuracy | load |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    first = found["runs"].get(BARE)
    for name, run in found["runs"].items():
        last, reached = run["points"][-1], arrival(run["points"], found["target"])
        lines.append(
            f"| {name} | {run['bytes'] / 1e6:.2f} | {1000 * run['theory_seconds']:.0f} | {1000 * pace(run):.0f} | "
            f"{_promise(run, first)} | "
            + (f"{reached['seconds']:.1f} | {reached['step']:.0f}" if reached else f"not in {last['seconds']:.0f} | ")
            + f" | {_outcome(run, first, found['target'])} | {max(p['accuracy'] for p in run['points']):.3f} | {run['load']:.1f} |"
        )
    return "\n".join(lines)


def pace(run: Found) -> float:
    """Seconds of a step, measured."""
    last = run["points"][-1]
    return float(last["seconds"] / last["step"])


def promised(run: Found, first: Found) -> float:
    """How many times faster a step should be than the first arm's."""
    return float(first["theory_seconds"] / run["theory_seconds"])


def gained(run: Found, first: Found, target: float) -> float | None:
    """How many times sooner the target was reached than by the first arm; None if either never was."""
    here, there = arrival(run["points"], target), arrival(first["points"], target)
    return None if here is None or there is None else float(there["seconds"] / here["seconds"])


def _promise(run: Found, first: Found | None) -> str:
    if first is None or run is first:
        return ""
    times = promised(run, first)
    return f"win, {times:.1f} ×" if wins(times) else f"no win, {times:.1f} ×"


def wins(times: float) -> bool:
    """Less than a tenth is no win: theory leaves out more than that."""
    return times >= MARGIN


def _outcome(run: Found, first: Found | None, target: float) -> str:
    """Time to the target beside the first arm's; where theory promises a win, whether it came."""
    if first is None or run is first:
        return " | "
    times = gained(run, first, target)
    won = times is not None and times > 1
    judged = verdict(won) if wins(promised(run, first)) else "no win promised"
    return f"{f'{times:.1f} ×' if times is not None else ''} | {judged}"


def arrival(points: Sequence[Found], target: float) -> Found | None:
    """The first of two measurements in a row that reach the target: one alone may be luck."""
    pairs: Iterator[tuple[Found, Found]] = zip(points, points[1:], strict=False)
    return next((a for a, b in pairs if min(a["accuracy"], b["accuracy"]) >= target), None)
