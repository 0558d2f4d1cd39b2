"""A group that may become smaller: it goes on at once, and grows again when it is worth it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import AgentState
from disttrain_operator.core import elastic
from disttrain_operator.core.actions import DeletePod
from disttrain_operator.core.conditions import Type
from disttrain_operator.core.goodput import Bucket
from disttrain_operator.core.model import Job, StandbyTrouble, Status
from support.worlds import (
    NOW,
    a_job,
    a_pod,
    a_report,
    ask,
    at_work,
    condition,
    crashed,
    dead,
    done,
    idle,
    later,
    made,
    running,
    starting,
    told,
)  # fmt: skip

SETTLED, LONG_SETTLED = (later(t / timedelta(seconds=1)) for t in (elastic.GROW_AFTER, elastic.GROW_PARTLY_AFTER))


def an_elastic_job(status: Status | None = None, workers: int = 3, least: int = 2, **spec: object) -> Job:
    return a_job(workers=workers, min_workers=least, status=status, **spec)


def small() -> Job:
    """Three are wanted, two train."""
    return an_elastic_job(running(2, seats=(0, 2)))


def test_without_a_standby_the_group_goes_on_smaller_in_the_write_that_charges_the_loss() -> None:
    job, pods = an_elastic_job(running()), (at_work(0), dead(1), at_work(2))
    first = ask(job, *pods)
    assert (first.status.incarnation, first.status.seats, first.status.attempts) == (2, (0, 2), 1)
    assert "the group goes on with 2 of 3 workers" in first.reason
    second = ask(replace(job, status=first.status), *pods)
    assert {uid: (a.group_rank, a.membership.workers) for uid, a in told(second).items()} == {
        "uid-0": (0, 2),
        "uid-2": (1, 2),
    }
    assert [a.name for a in second.actions if isinstance(a, DeletePod)] == ["mnist-1"]
    assert made(ask(replace(job, status=second.status), at_work(0, 2), at_work(2, 2))) == [1]


def test_a_small_group_that_trains_is_running_and_says_why_it_is_small() -> None:
    stuck = a_pod(1, waiting=("Unschedulable", "no node has room"))
    answer = ask(an_elastic_job(starting(2, seats=(0, 2))), at_work(0, 2), at_work(2, 2), stuck)
    assert answer.status.state == "Running"
    ready = condition(answer, Type.WORKERS_READY)
    assert (ready.status, ready.reason) == ("False", "Shrunk")
    assert ready.message == "the group goes on with 2 of 3 workers until more are ready (spec.elastic); pod mnist-1: no node has room"  # fmt: skip
    assert (answer.status.workers.desired, answer.status.workers.ready) == (3, 2)


def test_a_standby_is_better_than_a_smaller_group() -> None:
    answer = ask(an_elastic_job(running(), standby=1), at_work(0), dead(1), at_work(2), idle(3, 1))
    assert answer.status.seats == (0, 3, 2)


def test_one_standby_and_two_losses() -> None:
    answer = ask(an_elastic_job(running(), standby=1), dead(0), dead(1), at_work(2), idle(3, 1))
    assert answer.status.seats == (3, 2)


def test_below_the_minimum_the_seats_wait_for_their_pods() -> None:
    answer = ask(an_elastic_job(running()), dead(0), dead(1), at_work(2))
    assert answer.status.seats == (0, 1, 2) and answer.status.incarnation == 2


def test_then_the_first_pod_that_is_back_is_enough() -> None:
    lost = ask(an_elastic_job(running()), dead(0), dead(1), at_work(2)).status
    job = an_elastic_job(ask(an_elastic_job(lost), crashed(2), now=later(1)).status)
    back = ask(job, idle(1), idle(2, 1), now=later(12))
    assert (back.status.seats, back.status.incarnation, back.status.recoveries) == ((1, 2), 3, 1)


def test_a_member_whose_stream_was_cut_a_moment_ago_is_counted_upon() -> None:
    cut = at_work(2, connected=False, silent=1.0)
    answer = ask(an_elastic_job(running(), least=1), at_work(0), crashed(1), cut)
    assert answer.status.seats == (0, 1, 2)
    job = an_elastic_job(starting(2, seats=(0, 1, 2)), least=1)
    first = ask(job, idle(0, 2), idle(1, 2), at_work(2, connected=False, silent=2.0))
    assert first.status.incarnation == 2 and first.wake_at == later(5)
    cut = at_work(2, connected=False, silent=3.0)
    again = ask(replace(job, status=first.status), idle(0, 2), idle(1, 2), cut, now=later(30))
    assert again.status.incarnation == 2 and again.wake_at == later(34)
    silent = at_work(2, connected=False, silent=7.0)
    then = ask(replace(job, status=first.status), idle(0, 2), idle(1, 2), silent, now=later(8))
    assert then.status.seats == (0, 1) and then.status.replacing == ("uid-2",)


def test_a_member_that_has_been_silent_for_long_loses_its_seat_at_a_restart_and_is_made_again() -> None:
    silent = at_work(2, connected=False, silent=60.0)
    answer = ask(an_elastic_job(running()), at_work(0), crashed(1), silent)
    assert answer.status.seats == (0, 1) and answer.status.replacing == ("uid-2",)


def test_a_failed_process_does_not_make_the_group_smaller() -> None:
    assert ask(an_elastic_job(running()), at_work(0), crashed(1), at_work(2)).status.seats == (0, 1, 2)


def test_the_group_grows_when_all_are_back_and_it_has_run_for_a_while() -> None:
    pods = at_work(0, 2), idle(1, 2), at_work(2, 2)
    early = ask(small(), *pods, now=later(3))
    assert (early.status.incarnation, early.wake_at, early.actions) == (2, SETTLED, ())
    grown = ask(small(), *pods, now=SETTLED)
    assert (grown.status.incarnation, grown.status.seats, grown.actions) == (3, (0, 2, 1), ())
    assert grown.status.state == "Resizing" and [e.reason for e in grown.events if not e.warning] == ["Resized"]
    after = ask(replace(small(), status=grown.status), *pods, now=SETTLED)
    assert [(a.group_rank, a.membership.workers) for a in told(after).values()] == [(0, 3), (1, 3), (2, 3)]


def test_a_resize_is_no_failure_and_no_recovery() -> None:
    pods = at_work(0, 2, step=9), idle(1, 2), at_work(2, 2)
    before, after = small().status, ask(small(), *pods, now=SETTLED).status
    for what in ("attempts", "charges", "recoveries", "last_recovery", "repeats", "charged_step"):
        assert getattr(after, what) == getattr(before, what)
    assert after.goodput.current is Bucket.STARTING


NOT_YET = {
    "a pod that has not called": (at_work(0, 2), a_pod(1), at_work(2, 2)),
    "another number of processes": (at_work(0, 2), a_pod(1, a_report(2, AgentState.IDLE, processes=8)), at_work(2, 2)),
    "a member that cannot be told": (at_work(0, 2), idle(1, 2), at_work(2, 2, connected=False, silent=1.0)),
    "a group that ends": (done(0, 2), idle(1, 2), at_work(2, 2)),
    "a group that says goodbye": (a_pod(0, a_report(2, AgentState.FINISHED)), idle(1, 2), at_work(2, 2)),
}


@pytest.mark.parametrize("pods", NOT_YET.values(), ids=NOT_YET.keys())
def test_it_does_not_grow_for(pods) -> None:
    assert ask(small(), *pods, now=later(3600)).status.incarnation == 2


def test_it_does_not_grow_while_the_cause_of_a_failure_is_waited_for() -> None:
    victim = crashed(0, 2, failure=replace(crashed(0).report.failure, failure_class=FailureClass.NETWORK))
    answer = ask(small(), victim, idle(1, 2), at_work(2, 2), now=SETTLED)
    assert (answer.status.incarnation, answer.actions) == (2, ())


def test_it_grows_by_as_many_as_are_wanted_and_the_rest_stand_by() -> None:
    job = an_elastic_job(running(2, seats=(0, 2)), standby=1)
    answer = ask(job, at_work(0, 2), idle(1, 2), at_work(2, 2), idle(3, 2), now=SETTLED)
    assert answer.status.seats == (0, 2, 1)


def test_it_waits_a_minute_for_the_last_one_and_then_grows_with_those_that_are_there() -> None:
    job = an_elastic_job(running(2, seats=(0, 2)), workers=4)
    pods = at_work(0, 2), idle(1, 2), at_work(2, 2), a_pod(3)
    assert ask(job, *pods, now=SETTLED).wake_at == LONG_SETTLED
    assert ask(job, *pods, now=LONG_SETTLED).status.seats == (0, 2, 1)


def test_a_restart_for_another_reason_is_a_free_chance_to_grow() -> None:
    answer = ask(small(), at_work(0, 2), idle(1, 2), crashed(2, 2))
    assert answer.status.seats == (0, 2, 1) and answer.status.recoveries == 1


def test_a_worker_that_dies_while_it_waits_to_come_back_is_held_back_like_a_standby_and_named() -> None:
    answer = ask(small(), at_work(0, 2), dead(1, 137, "OOMKilled"), at_work(2, 2))
    assert (answer.status.incarnation, answer.status.attempts) == (2, 0)
    assert "lack of memory" in condition(answer, Type.WORKERS_READY).message
    trouble = StandbyTrouble(failures=4, failed_at=NOW, cause="x")
    held = ask(replace(small(), status=replace(small().status, standby_trouble=trouble)), at_work(0, 2), at_work(2, 2))
    assert made(held) == [] and held.wake_at == later(40)


def test_while_the_group_is_small_what_is_ready_belongs_to_it_and_not_to_the_standbys() -> None:
    job = an_elastic_job(running(2, seats=(0, 2)), standby=1)
    counts = ask(job, at_work(0, 2), idle(1, 2), at_work(2, 2), a_pod(3)).status.workers
    assert counts.standby == 0
    assert ask(job, at_work(0, 2), idle(1, 2), at_work(2, 2), idle(3, 2)).status.workers.standby == 1


def test_at_the_start_it_waits_for_everybody_but_not_for_ever() -> None:
    first = ask(an_elastic_job(starting()), idle(0), idle(1), a_pod(2))
    assert first.status.incarnation == 1 and first.wake_at == later(10)
    late = ask(an_elastic_job(first.status), idle(0), idle(1), a_pod(2), now=later(10))
    assert (late.status.incarnation, late.status.seats, late.status.recoveries) == (2, (0, 1), 0)
    rigid = a_job(status=first.status)
    assert ask(rigid, idle(0), idle(1), a_pod(2), now=later(3600)).status.incarnation == 1


def test_during_back_off_nobody_gathers() -> None:
    status = starting(3, seats=(0, 1, 2), restart_after=later(30))
    first = ask(an_elastic_job(status), idle(0, 3), idle(1, 3), a_pod(2))
    held = ask(an_elastic_job(first.status), idle(0, 3), idle(1, 3), a_pod(2), now=later(20))
    assert held.status.incarnation == 3 and held.wake_at == later(30)


def test_fewer_workers_in_the_spec_make_the_group_smaller_at_once() -> None:
    job = an_elastic_job(running(1, seats=(0, 1, 2)), workers=2)
    pods = at_work(0), at_work(1), at_work(2)
    first = ask(job, *pods)
    assert (first.status.incarnation, first.status.seats, first.status.recoveries) == (2, (0, 1), 0)
    second = ask(replace(job, status=first.status), *pods)
    assert DeletePod("mnist-2", "uid-2") in second.actions and set(told(second)) == {"uid-0", "uid-1"}


def test_with_a_standby_asked_for_the_one_who_leaves_stands_by() -> None:
    job = an_elastic_job(starting(2, seats=(0, 1)), workers=2, standby=1)
    answer = ask(job, at_work(0), at_work(1), at_work(2))
    assert told(answer)["uid-2"].membership is None
    assert not [a for a in answer.actions if isinstance(a, DeletePod)]


def test_more_workers_in_the_spec_are_made_and_then_taken_in() -> None:
    job = an_elastic_job(running(1, seats=(0, 1, 2)), workers=4)
    group = at_work(0), at_work(1), at_work(2)
    assert made(ask(job, *group)) == [3]
    assert ask(job, *group, idle(3, 1), now=SETTLED).status.seats == (0, 1, 2, 3)


def test_a_job_that_is_not_elastic_any_more_still_grows_back() -> None:
    job = a_job(status=running(2, seats=(0, 2)))
    assert ask(job, at_work(0, 2), idle(1, 2), at_work(2, 2), now=SETTLED).status.seats == (0, 2, 1)


def test_a_small_group_ends_when_its_members_have_ended() -> None:
    answer = ask(small(), done(0, 2), idle(1, 2), done(2, 2))
    assert answer.status.state == "Succeeded" and "all 2 workers finished" in answer.reason


def test_a_node_that_is_cut_off_makes_the_group_smaller() -> None:
    peer = replace(crashed(0).report.failure, failure_class=FailureClass.NETWORK)
    silent = at_work(1, connected=False, silent=11.0)
    answer = ask(an_elastic_job(running()), crashed(0, failure=peer), silent, at_work(2))
    assert (answer.status.seats, answer.status.replacing, answer.status.attempts) == ((0, 2), ("uid-1",), 0)


def test_a_resumed_job_is_wanted_whole() -> None:
    job = an_elastic_job(running(2, seats=(0, 2)), suspend=True)
    resumed = ask(an_elastic_job(ask(job).status))
    assert resumed.status.seats == (0, 1, 2)
