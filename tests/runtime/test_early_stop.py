"""Which evaluation is the best, and when it is enough."""

from __future__ import annotations

import math

from disttrain_contract.env import EvaluationConfig
from disttrain_contract.messages import Best
from disttrain_runtime.early_stop import best, ranking, verdict
from disttrain_runtime.history import Line

ACCURACY = EvaluationConfig(every_steps=10, metric="accuracy", mode="max", patience=2, min_delta=0.01)


def lines(*values: float, metric: str = "accuracy") -> list[Line]:
    return [Line(step=10 * (i + 1), time=0.0, evaluation={metric: value}) for i, value in enumerate(values)]


def test_more_is_better_or_less_is_as_the_job_says() -> None:
    assert best(lines(0.5, 0.9, 0.7), ACCURACY) == Best(metric="accuracy", value=0.9, step=20)
    assert best(lines(0.5, 0.9, 0.4), EvaluationConfig(metric="accuracy")) == Best(
        metric="accuracy", value=0.4, step=30
    )


def test_of_two_that_are_equal_the_earlier_one_is_the_best() -> None:
    assert [b.step for b in ranking(lines(0.5, 0.9, 0.9, math.nan), ACCURACY)] == [20, 30, 10]


def test_without_a_metric_nothing_is_best_and_nothing_stops() -> None:
    assert best(lines(1.0), EvaluationConfig()) is None
    assert verdict(lines(1.0, 1.0, 1.0), EvaluationConfig(patience=1)) is None


def test_it_stops_when_so_many_in_a_row_gained_too_little() -> None:
    assert verdict(lines(0.5, 0.6, 0.605), ACCURACY) is None, "one has gained too little"
    ended = verdict(lines(0.5, 0.6, 0.605, 0.609), ACCURACY)
    assert ended is not None
    assert (ended.reason, ended.message) == (
        "EarlyStop",
        "accuracy was no better for 2 evaluations (best 0.6 at step 20)",
    )


def test_a_gain_begins_the_count_anew() -> None:
    assert verdict(lines(0.5, 0.5, 0.6, 0.6), ACCURACY) is None
    assert verdict(lines(0.5, 0.5, 0.6, 0.6, 0.6), ACCURACY) is not None


def test_what_is_not_a_number_is_never_better() -> None:
    ended = verdict(lines(math.nan, math.nan), ACCURACY)
    assert ended is not None
    assert "none was a number" in ended.message


def test_training_lines_are_no_evaluations() -> None:
    some = [Line(step=5, time=0.0, epoch=0, loss=1.0), *lines(0.5)]
    assert best(some, ACCURACY) == Best(metric="accuracy", value=0.5, step=10)
    assert verdict(some * 3, ACCURACY) is not None
