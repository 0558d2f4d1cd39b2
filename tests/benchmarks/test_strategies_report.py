"""Tables and arithmetic of the benchmark of strategies."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.strategies import report
from benchmarks.strategies.ratio import ratio

COUNTS = {"ranks": 3, "ours_bytes": 102.0, "formula_bytes": 100.0, "ours_megabytes": 39.4, "bare_megabytes": 37.0}
SPREAD = {"low": 0.9, "median": 1.0, "high": 1.1}
RACE = {"ours_seconds": 0.02, "bare_seconds": 0.019, "ratio": SPREAD, "cpu_ratio": SPREAD}


def points(*accuracies: float) -> list[dict[str, Any]]:
    return [{"step": 16 * i, "seconds": 2.0 * i, "accuracy": a} for i, a in enumerate(accuracies)]


def test_a_row_says_what_was_measured_and_leaves_blank_what_was_not() -> None:
    full = {"counts": COUNTS, "race": RACE, "accuracy": [0.98, 0.99]}
    *_, first, second = report.strategies({"allReduce": full, "sign": {"counts": COUNTS}}).splitlines()
    assert first == (
        "| allReduce | 3 | 102 | 100 | +2.0% | 20.0 | 19.0 | 1.00 (0.90–1.10) | 1.00 (0.90–1.10) | 39 | 37 | 0.980–0.990 |"
    )
    assert second == "| sign | 3 | 102 | 100 | +2.0% |  |  |  |  | 39 | 37 |  |"


def test_a_target_is_reached_by_two_measurements_in_a_row() -> None:
    reached = report.arrival(points(0.1, 0.96, 0.9, 0.97, 0.98), 0.95)
    assert reached is not None and reached["step"] == 48
    assert report.arrival(points(0.1, 0.96, 0.9, 0.97), 0.95) is None


def test_the_link_says_who_did_not_arrive() -> None:
    found = {
        "megabits": 100, "rtt_ms": 41.2, "ranks": 4, "target": 0.95, "arms": {"a": points(0.1, 0.96, 0.97), "b": points(0.1, 0.5)},
    }  # fmt: skip
    *_, first, second = report.link(found).splitlines()
    assert first == "| a | 125 | 2.0 | 16 | 0.970 | 4.0 |"
    assert second == "| b | 125 | not reached | | 0.500 | 2.0 |"


def test_nothing_measured_is_an_empty_table() -> None:
    assert report.table({"rows": {}}) == "\n"


def test_a_ratio_is_taken_pair_by_pair() -> None:
    """While the machine was three times slower both were."""
    assert ratio([1.0, 3.0, 1.0], [2.0, 6.0, 2.0]) == {"low": 0.5, "median": 0.5, "high": 0.5}
    assert ratio([1.0, 1.0, 1.0], [1.0, 2.0, 4.0])["median"] == pytest.approx(0.5)
