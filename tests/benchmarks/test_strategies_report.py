"""Tables and arithmetic of the benchmark of strategies."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.strategies import report
from benchmarks.strategies.ratio import ratio

COUNTS = {"ranks": 3, "ours_bytes": 101.0, "formula_bytes": 100.0, "ours_megabytes": 39.4, "bare_megabytes": 37.0}
SPREAD = {"low": 0.9, "median": 1.0, "high": 1.1}
RACE = {"ours_seconds": 0.02, "bare_seconds": 0.019, "ratio": SPREAD, "cpu_ratio": SPREAD}


def points(*accuracies: float) -> list[dict[str, Any]]:
    return [{"step": 16 * i, "seconds": 2.0 * i, "accuracy": a} for i, a in enumerate(accuracies)]


def test_a_row_says_what_was_measured_and_leaves_blank_what_was_not() -> None:
    full = {"counts": COUNTS, "race": RACE, "accuracy": [0.98, 0.99]}
    *_, first, second = report.strategies({"allReduce": full, "sign": {"counts": COUNTS}}).splitlines()
    assert first == (
        "| allReduce | 3 | 101 | 100 | +1.0% | pass | 20.0 | 19.0 | 1.00 (0.90–1.10) | pass | 1.00 (0.90–1.10) | 39 | 37 | 0.980–0.990 |"
    )
    assert second == "| sign | 3 | 101 | 100 | +1.0% | pass |  |  |  |  |  | 39 | 37 |  |"


def test_what_is_not_as_promised_is_a_miss() -> None:
    fewer = COUNTS | {"ours_bytes": 97.9}
    slower = RACE | {"ratio": SPREAD | {"median": 0.97}}
    (row,) = report.strategies({"allReduce": {"counts": fewer, "race": slower}}).splitlines()[2:]
    assert row.count("**miss**") == 2 and "-2.1% | **miss**" in row and "0.97 (0.90–1.10) | **miss**" in row


def test_idle_time_may_be_five_points_off() -> None:
    pipe = {"schedule": "1f1b", "stages": 4, "microbatches": 8, "formula": 0.27}
    *_, near, far = report.bubbles([pipe | {"measured": 0.31}, pipe | {"measured": 0.21}]).splitlines()
    assert near.endswith("| 31.0% | 27.0% | +4.0 | pass |")
    assert far.endswith("| 21.0% | 27.0% | -6.0 | **miss** |")


def test_header_and_rows_have_as_many_cells() -> None:
    for text in (report.strategies({"a": {}, "b": {"counts": COUNTS, "race": RACE}}), report.link(FAR)):
        assert len({line.count("|") for line in text.splitlines()}) == 1, text


def test_a_target_is_reached_by_two_measurements_in_a_row() -> None:
    reached = report.arrival(points(0.1, 0.96, 0.9, 0.97, 0.98), 0.95)
    assert reached is not None and reached["step"] == 48
    assert report.arrival(points(0.1, 0.96, 0.9, 0.97), 0.95) is None


def run(theory: float, *accuracies: float) -> dict[str, Any]:
    return {"points": points(*accuracies), "theory_seconds": theory, "bytes": 4.5e6, "load": 4.04}


FAR: dict[str, Any] = {
    "megabits": 100, "rtt_ms": 41.2, "ranks": 4, "target": 0.95, "compute_ms": 20.0,
    "runs": {
        "bare DDP": run(0.6, 0.1, 0.5, 0.96, 0.97), "quick": run(0.3, 0.1, 0.96, 0.97), "lost": run(0.2, 0.1, 0.5),
        "dear": run(0.7, 0.1, 0.5, 0.94, 0.96, 0.96),
    },
}  # fmt: skip


def test_the_link_says_what_theory_promised_and_what_came_of_it() -> None:
    *_, bare, quick, lost, dear = report.link(FAR).splitlines()
    assert bare == "| bare DDP | 4.50 | 600 | 125 |  | 4.0 | 32 |  |  | 0.970 | 4.0 |"
    assert quick == "| quick | 4.50 | 300 | 125 | win, 2.0 × | 2.0 | 16 | 2.0 × | pass | 0.970 | 4.0 |"
    assert lost == "| lost | 4.50 | 200 | 125 | win, 3.0 × | not in 2 |  |  | **miss** | 0.500 | 4.0 |"
    assert dear == "| dear | 4.50 | 700 | 125 | no win, 0.9 × | 6.0 | 48 | 0.7 × | no win promised | 0.960 | 4.0 |"


def test_an_arm_can_be_measured_without_the_bare_one() -> None:
    alone = FAR | {"runs": {"quick": FAR["runs"]["quick"]}}
    assert report.link(alone).splitlines()[-1] == "| quick | 4.50 | 300 | 125 |  | 2.0 | 16 |  |  | 0.970 | 4.0 |"


def test_nothing_measured_is_an_empty_table() -> None:
    assert report.table({"rows": {}}) == "\n"


def test_a_ratio_is_taken_pair_by_pair() -> None:
    """While the machine was three times slower both were."""
    assert ratio([1.0, 3.0, 1.0], [2.0, 6.0, 2.0]) == {"low": 0.5, "median": 0.5, "high": 0.5}
    assert ratio([1.0, 1.0, 1.0], [1.0, 2.0, 4.0])["median"] == pytest.approx(0.5)
