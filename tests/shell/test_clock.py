"""The machine's clock is set while the operator runs."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttrain_operator.shell.clock import RATE, SteadyClock
from support.worlds import NOW, a_job, ask, at_work, running


class Machine:
    """Its clock, which people set, and its monotonic one, which nobody can."""

    def __init__(self) -> None:
        self.passed, self.set_by = 0.0, 0.0
        self.steady = SteadyClock(lambda: NOW + timedelta(seconds=self.passed + self.set_by), lambda: 7e5 + self.passed)

    def after(self, seconds: float) -> float:
        """What the operator takes for the time then, in seconds since the start."""
        self.passed += seconds
        return (self.steady() - NOW).total_seconds()


def test_it_is_the_time_of_day() -> None:
    machine = Machine()
    assert [machine.after(s) for s in (0, 1.5, HOUR)] == [0, 1.5, 1.5 + HOUR]


HOUR = 3600.0


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_a_clock_that_is_set_moves_a_deadline_by_a_tenth_of_what_is_left_at_most(step: float) -> None:
    machine = Machine()
    machine.set_by = step
    assert machine.after(0) == 0, "nothing at once"
    assert machine.after(100) == pytest.approx(100 + (10 if step > 0 else -10))
    assert machine.after(HOUR) == pytest.approx((HOUR + 100) * (1.1 if step > 0 else 0.9))


def test_a_job_with_hours_left_outlives_a_clock_that_jumps_over_its_deadline() -> None:
    machine, job = Machine(), a_job(status=running(), active_deadline=timedelta(hours=2))
    machine.set_by = 3 * HOUR
    machine.after(1)
    pods = [at_work(n) for n in range(3)]
    wall = NOW + timedelta(seconds=machine.passed + machine.set_by)
    assert ask(job, *pods, now=wall).status.state == "Failed", "by the clock on the wall"
    assert ask(job, *pods, now=machine.steady()).status.state == "Running"


def test_after_ten_times_as_long_it_is_right_again() -> None:
    machine = Machine()
    machine.set_by = 60.0
    assert machine.after(599) < 659 - 0.05
    assert machine.after(2) == pytest.approx(661)
    assert machine.after(1000) == pytest.approx(1661)


@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(-1e6, 1e6)), max_size=30))
def test_it_never_goes_back_and_never_runs_away(story: list[tuple[float, float]]) -> None:
    machine, before = Machine(), 0.0
    for passed, machine.set_by in story:
        now = machine.after(passed)
        slack = 1e-5  # a datetime has microseconds
        assert passed * (1 - RATE) - slack <= now - before <= passed * (1 + RATE) + slack
        before = now


def test_a_step_is_said_once_and_drift_is_not_said(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    with caplog.at_level(logging.WARNING):
        for drift in range(10):
            machine.set_by = drift / 20
            machine.after(1)
        assert not caplog.records
        machine.set_by = -HOUR
        for _ in range(10):
            machine.after(1)
    assert [r.message for r in caplog.records] == [
        "the clock of this machine was set by -3600.4 s: deadlines and back-off do not follow at once"
    ]
