"""`make bench-strategies`: bytes, time, memory and accuracy of every strategy, idle time of pipelines, and a slow link.

Writes benchmarks/results/strategies.{json,md,png} and strategies-link.png; asserts nothing about time. See README.md beside this
file. What is already in the JSON and is not measured now, stays: parts can be measured one by one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dev.access import REPOSITORY
from dev.cluster.progress import step

from benchmarks.strategies import bubble, link, measure, plot, report
from benchmarks.strategies.report import BARE
from benchmarks.strategies.rows import ROWS, Row, chosen_rows

OUT = REPOSITORY / "benchmarks" / "results"
PARTS = ("counts", "race", "accuracy", "bubble", "link")
LIMIT = 100
"""Seconds: eleven times what the quickest arm needs, and ten arms that never arrive still end within 20 minutes."""
SEEDS = [1, 2, 3]
"""Of the first row, for the spread; the others have one."""


def main() -> None:
    """Measure and write down."""
    chosen = _options()
    found = _before(chosen.out)
    found |= {
        "platform": platform.platform(), "cores": os.cpu_count(),
        "options": {name: getattr(chosen, name) for name in ("blocks", "steps", "seconds")},
    }  # fmt: skip

    def keep() -> None:
        _write(found, chosen.out)

    for part, what in _row_parts(chosen).items():
        if part in chosen.parts:
            for row in chosen_rows(chosen.only, BARE):
                if part == "accuracy" and not row.learns:
                    continue
                with step(f"{part}: {row.name}"):
                    found["rows"].setdefault(row.name, {})[part] = what(row)
                keep()
    if "bubble" in chosen.parts:
        with step("idle time of pipelines"):
            found["bubble"] = bubble.measure(chosen.quick)
        keep()
    if "link" in chosen.parts:
        found.setdefault("link", {})
        for told in link.measure(chosen.seconds, chosen.only, found["link"]):
            print(f"  {told}", flush=True)
            keep()
    keep()
    print(report.table(found))


def _row_parts(chosen: argparse.Namespace) -> dict[str, Callable[[Row], Any]]:
    def accuracy(row: Row) -> list[float]:
        seeds = SEEDS if row is ROWS[0] and not chosen.quick else SEEDS[:1]
        return measure.accuracy(row, chosen.steps, seeds)

    return {"counts": measure.counts, "race": lambda row: measure.race(row, chosen.blocks), "accuracy": accuracy}


def _options() -> argparse.Namespace:
    options = argparse.ArgumentParser(prog="python -m benchmarks.strategies", description=__doc__)
    options.add_argument("--only", nargs="+", metavar="NAME", help="rows and arms of these names")
    options.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    options.add_argument("--blocks", type=int, default=15, help="of 16 steps, ours and bare in turns")
    options.add_argument("--steps", type=int, default=450, help="of the digits example")
    options.add_argument(
        "--seconds", type=float, default=LIMIT, help="of training on the slow link, at most, for each arm"
    )
    options.add_argument("--quick", action="store_true", help="does it work at all?")
    options.add_argument("--out", type=Path, default=OUT)
    chosen = options.parse_args()
    if chosen.quick:
        chosen.blocks, chosen.steps, chosen.seconds = 3, 100, 10
    return chosen


def _before(out: Path) -> dict[str, Any]:
    file = out / "strategies.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"rows": {}}
    return found


def _write(found: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    order = [row.name for row in ROWS]
    found["rows"] = dict(sorted(found["rows"].items(), key=lambda item: order.index(item[0])))
    (out / "strategies.json").write_text(json.dumps(found, indent=1) + "\n")
    (out / "strategies.md").write_text(report.table(found))
    plot.draw(found, out)


if __name__ == "__main__":
    main()
