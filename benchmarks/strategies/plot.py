"""Two pictures: what each strategy costs, and accuracy over time on the slow link."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw(found: dict[str, Any], out: Path) -> None:
    """As far as there is something to draw."""
    import matplotlib

    matplotlib.use("Agg")
    whole = {name: row for name, row in found["rows"].items() if row.get("counts") and row.get("race")}
    if whole:
        _costs(whole, out / "strategies.png")
    if found.get("link", {}).get("runs"):
        _link(found["link"], out / "strategies-link.png")


def _costs(rows: dict[str, Any], file: Path) -> None:
    from matplotlib import pyplot

    figure, (sent, times) = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
    names, places = list(rows), range(len(rows))
    counts, races = [row["counts"] for row in rows.values()], [row["race"] for row in rows.values()]
    sent.barh(
        places, [c["ours_bytes"] / 1e6 for c in counts], color="#4477aa", height=0.6, label="counted in the kernel"
    )
    sent.plot([c["formula_bytes"] / 1e6 for c in counts], places, "k|", markersize=14, label="formula")
    sent.set(xlabel="MB a rank sends in a step", xscale="log", yticks=places)
    sent.set_yticklabels(names, fontsize=8)
    sent.invert_yaxis()
    sent.legend(fontsize=8)
    for place, race in zip(places, races, strict=True):
        for key, colour, shift in (("ratio", "#ee6677", -0.12), ("cpu_ratio", "#228833", 0.12)):
            r = race[key]
            times.plot([r["low"], r["high"]], [place + shift] * 2, color=colour, linewidth=1.5)
            times.plot([r["median"]], [place + shift], "o", color=colour, markersize=5)
    times.axvline(1, color="grey", linewidth=0.8)
    times.set(xlabel="bare time / our time: wall clock (red), processor (green); quartiles", xlim=(0.5, 1.5))
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _link(found: dict[str, Any], file: Path) -> None:
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 4.8), layout="constrained")
    for name, run in found["runs"].items():
        points = run["points"]
        style = "--" if name.startswith("bare") else "-"
        axis.plot([p["seconds"] for p in points], [p["accuracy"] for p in points], style, linewidth=1.4, label=name)
    axis.axhline(found["target"], color="grey", linewidth=0.8)
    axis.set(
        xlabel="seconds of training", ylabel="accuracy on test images", ylim=(0, 1),
        title=f"digits, {found['ranks']} ranks, {found['megabits']} Mbit/s, {found['rtt_ms']:.0f} ms there and back",
    )  # fmt: skip
    axis.legend(fontsize=8, loc="lower right")
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
