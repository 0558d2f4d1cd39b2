"""When the next checkpoint is due."""

from __future__ import annotations

from disttrain_runtime.cadence import Cadence, Mark


def test_every_ten_steps_means_at_the_tens() -> None:
    cadence, last, saved = Cadence(every_steps=10), Mark(0, 0.0), []
    for step in range(1, 36):
        if cadence.due(last, step, now=float(step)):
            saved.append(step)
            last = Mark(step, float(step))
    assert saved == [10, 20, 30]


def test_what_was_put_off_stays_due_and_the_rhythm_returns() -> None:
    cadence = Cadence(every_steps=10)
    assert cadence.due(Mark(10, 0.0), 23, 0.0), "20 went by while the disk was busy"
    assert not cadence.due(Mark(23, 0.0), 29, 0.0)
    assert cadence.due(Mark(23, 0.0), 30, 0.0)


def test_after_a_resume_between_two_tens_the_tens_count() -> None:
    assert cadence_steps(start=14, end=31) == [20, 30]


def cadence_steps(start: int, end: int) -> list[int]:
    cadence, last, saved = Cadence(every_steps=10), Mark(start, 0.0), []
    for step in range(start + 1, end):
        if cadence.due(last, step, 0.0):
            saved.append(step)
            last = Mark(step, 0.0)
    return saved


def test_seconds_are_counted_from_the_last_save() -> None:
    cadence = Cadence(every_seconds=60)
    assert not cadence.due(Mark(5, 100.0), 6, now=159.9)
    assert cadence.due(Mark(5, 100.0), 6, now=160.0)
    assert not cadence.due(Mark(5, 100.0), 5, now=999.0), "nothing new to save"


def test_no_cadence_is_never_due() -> None:
    assert not Cadence().due(Mark(0, 0.0), 10**6, 1e9)
