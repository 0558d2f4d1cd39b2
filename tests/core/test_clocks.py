"""The status was written by an operator on another machine, whose clock was ahead of ours or behind it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from disttrain_contract.failures import FailureClass
from disttrain_operator.core import timing
from disttrain_operator.core.actions import DeletePod
from disttrain_operator.core.goodput import Bucket, Ledger
from disttrain_operator.core.model import Recovery, StandbyTrouble, Status
from support.worlds import NOW, a_checkpoint, a_job, ask, at_work, done, idle, later, made, running, starting, told

HOUR = 3600.0


def waiting(restart_after: float) -> Status:
    return starting(3, restart_after=later(restart_after))


def test_a_back_off_is_kept_between_clocks_that_agree_to_the_second() -> None:
    pods = [idle(n, 3) for n in range(3)]
    assert told(ask(a_job(status=waiting(61.0)), *pods))["uid-0"].membership is None
    assert ask(a_job(status=waiting(61.0)), *pods).wake_at == later(61)


def test_a_back_off_of_a_clock_that_was_an_hour_ahead_holds_nobody_for_an_hour() -> None:
    answer = ask(a_job(status=waiting(HOUR)), *(idle(n, 3) for n in range(3)))
    assert told(answer)["uid-0"].membership is not None


def test_nor_does_that_of_a_standby() -> None:
    trouble = StandbyTrouble(failures=3, failed_at=later(HOUR), cause="it died")
    status = running(standby_trouble=trouble)
    answer = ask(a_job(status=status, standby=1), *(at_work(n) for n in range(3)))
    assert made(answer) == [3]


def test_a_group_that_started_in_the_future_may_grow_now() -> None:
    wait = timedelta(seconds=10)
    assert timing.due(later(HOUR), wait, NOW) == NOW
    assert timing.due(later(-4), wait, NOW) == later(6)


def test_a_job_that_finished_in_the_future_is_cleaned_up_now_and_deleted_no_sooner_than_it_may_be() -> None:
    ended = ask(a_job(status=running()), *(done(n) for n in range(3)), now=later(HOUR)).status
    answer = ask(a_job(status=ended, ttl=timedelta(minutes=1)), at_work(0), done(1), done(2))
    assert [a.name for a in answer.actions if isinstance(a, DeletePod)] == ["mnist-0"]
    assert answer.wake_at is not None and answer.wake_at >= later(HOUR)


@pytest.mark.parametrize("limit", ["active_deadline", "startup_deadline"])
def test_a_deadline_comes_later_rather_than_too_early(limit: str) -> None:
    started = ask(a_job(), now=later(HOUR)).status
    assert ask(a_job(status=started, **{limit: timedelta(minutes=1)}), idle(0)).status.completion_time is None


def test_no_figure_is_negative() -> None:
    last = Recovery(incarnation=1, cause="x", failure_class=FailureClass.SIGNAL, failed_at=later(HOUR), step=4)
    ledger = Ledger(Bucket.PRODUCTIVE, later(HOUR))
    status = running(2, last_recovery=last, goodput=ledger, checkpoint=a_checkpoint(4))
    back = [at_work(n, 2, step=9) for n in range(3)]
    answer = ask(a_job(status=status), *back).status
    assert answer.last_recovery is not None and answer.last_recovery.recover_seconds == 0.0
    assert all(seconds >= 0.0 for seconds in answer.goodput.seconds.values())
