"""What counts against the budget, and what is forgiven."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from disttrain_contract.failures import FailureClass
from disttrain_operator.core.conditions import Type
from disttrain_operator.core.model import Recovery
from support.worlds import NOW, a_checkpoint, a_job, ask, at_work, condition, crashed, failed, later, running

BEFORE = Recovery(incarnation=1, cause="ValueError: bad", failure_class=FailureClass.CODE, failed_at=NOW, step=5)


def again(step: int = 5, message: str = "ValueError: bad", kind: FailureClass = FailureClass.CODE, **status):
    """The group fails in incarnation 3, after an earlier failure."""
    status = {"charges": (NOW,) * 2, "last_recovery": BEFORE, "recoveries": 2, **status}
    broken = crashed(1, 3, failure=replace(failed(message, kind, rank=1), step=step))
    return ask(a_job(workers=2, status=running(3, **status)), at_work(0, 3), broken, now=later(100))


def test_failures_outside_the_window_no_longer_count() -> None:
    job = a_job(
        workers=2, status=running(3, charges=(NOW, later(95))), budget_window=timedelta(seconds=50), max_failures=2
    )
    answer = ask(job, at_work(0, 3), crashed(1, 3), now=later(100))
    assert answer.status.charges == (later(95), later(100)) and answer.status.state == "Restarting"


def test_a_newer_committed_checkpoint_forgives_what_was_before_it() -> None:
    assert again(checkpoint=a_checkpoint(40, 3), charged_step=20).status.charges == (later(100),)


def test_it_shows_as_soon_as_the_checkpoint_is_there() -> None:
    job = a_job(workers=2, status=running(3, charges=(NOW,), charged_step=20, checkpoint=a_checkpoint(40, 3)))
    assert ask(job, at_work(0, 3), at_work(1, 3)).status.charges == ()


def test_without_a_newer_checkpoint_nothing_is_forgiven() -> None:
    assert again(checkpoint=a_checkpoint(20, 2), charged_step=20).status.charges == (NOW, NOW, later(100))


def test_a_user_may_want_no_forgiveness() -> None:
    status = running(3, charges=(NOW,), charged_step=20, checkpoint=a_checkpoint(40, 3))
    job = a_job(workers=2, status=status, refill_on_progress=False)
    assert ask(job, at_work(0, 3), at_work(1, 3)).status.charges == (NOW,)


def test_the_same_error_at_the_same_step_a_third_time_fails_the_job() -> None:
    answer = again(repeats=2)
    assert (
        condition(answer, Type.FAILED).reason == "NoProgress"
        and "3 times at step 5" in condition(answer, Type.FAILED).message
    )


OTHERWISE = {
    "another step": {"step": 6},
    "other words": {"message": "KeyError: 1"},
    "another class": {"kind": FailureClass.OOM},
}


@pytest.mark.parametrize("what", OTHERWISE.values(), ids=OTHERWISE.keys())
def test_anything_else_begins_to_count_anew(what: dict) -> None:
    answer = again(repeats=2, **what)
    assert answer.status.state == "Restarting" and answer.status.repeats == 1
