"""How numbers and times are said."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from disttrain.cli import words


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-3, "0s"),
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (133, "2m13s"),
        (620, "10m"),
        (3600, "1h"),
        (11100, "3h5m"),
        (86400, "1d"),
        (187200, "2d4h"),
    ],
)
def test_lengths_have_two_units_at_most(seconds: float, said: str) -> None:
    assert words.length(seconds) == said


def test_ages_and_numbers() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    assert words.age(now - timedelta(minutes=5), now) == "5m"
    assert words.age(None, now) == "-"
    assert [words.number(x) for x in (None, 0.123456, 1234567.0, 3.0)] == ["-", "0.1235", "1.235e+06", "3"]
    assert words.metrics({"accuracy": 0.97219, "f1": 1.0}) == "accuracy 0.9722, f1 1"
    assert [words.plural(n, "step") for n in (0, 1, 2)] == ["0 steps", "1 step", "2 steps"]
