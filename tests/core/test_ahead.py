"""The cluster's memory was put back to an earlier time: agents have seen incarnations that the status knows nothing of."""

from __future__ import annotations

from disttrain_operator.core.conditions import Type
from support.worlds import a_job, a_pod, a_report, ask, at_work, condition, crashed, dead, idle, running, starting, told


def test_the_numbers_go_on_behind_the_newest_that_anybody_has_seen() -> None:
    answer = ask(a_job(status=running(1)), at_work(0, 3), at_work(1, 4), at_work(2, 4))
    assert answer.status.incarnation == 5 and not answer.actions, "written first"
    why = condition(answer, Type.RUNNING)
    assert (why.status, why.reason) == ("False", "StatusPutBack")
    assert "pod mnist-1 is in incarnation 4, the status was in 1" in why.message
    assert [e.reason for e in answer.events] == ["StatusPutBack"]
    after = ask(a_job(status=answer.status), at_work(0, 3), at_work(1, 4), at_work(2, 4))
    assert {a.incarnation for a in told(after).values()} == {5} and len(told(after)) == 3


def test_nobody_has_failed() -> None:
    answer = ask(a_job(status=running(1)), crashed(0, 4), at_work(1, 4), at_work(2, 4))
    status = answer.status
    assert (status.incarnation, status.attempts, status.charges, status.recoveries) == (5, 0, (), 0)


def test_last_words_count_too() -> None:
    """The volume is fenced by that incarnation, whoever lives."""
    answer = ask(a_job(status=running(1)), dead(0, report=a_report(4)), idle(1), idle(2))
    assert answer.status.incarnation == 5


def test_a_stranger_has_no_say_and_what_is_older_is_the_usual() -> None:
    stranger = a_pod(0, a_report(9), foreign=True)
    assert ask(a_job(status=starting(3)), stranger, at_work(1, 2), idle(2, 3)).status.incarnation == 3
