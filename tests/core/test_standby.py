"""Pods that stand by: they wait, take the seat of a lost pod in the write that starts the next incarnation, and trouble nobody."""

from __future__ import annotations

from dataclasses import replace

import pytest

from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import AgentState
from disttrain_operator.core.actions import DeletePod
from disttrain_operator.core.conditions import Type, find
from disttrain_operator.core.model import CleanPodPolicy, Job, Pod, Status
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


def a_guarded_job(status: Status | None = None, standby: int = 1, **spec: object) -> Job:
    return a_job(workers=3, standby=standby, status=status, **spec)


def deleted(answer):
    return [a.name for a in answer.actions if isinstance(a, DeletePod)]


def the_pod(pod: Pod, uid: str) -> Pod:
    return replace(pod, uid=uid)


def test_the_first_incarnation_says_who_sits_where_and_makes_the_standbys_too() -> None:
    first = ask(a_guarded_job())
    assert first.status.seats == (0, 1, 2)
    assert made(ask(a_guarded_job(first.status))) == [0, 1, 2, 3]


def test_the_group_does_not_wait_for_its_standbys_and_they_wait_without_a_group() -> None:
    without = ask(a_guarded_job(starting()), idle(0), idle(1), idle(2), a_pod(3))
    assert all(a.membership is not None for a in told(without).values()) and len(told(without)) == 3
    answer = ask(a_guarded_job(starting()), idle(0), idle(1), idle(2), idle(3))
    assert [told(answer)[f"uid-{i}"].group_rank for i in range(3)] == [0, 1, 2]
    assert (told(answer)["uid-3"].membership, told(answer)["uid-3"].group_rank) == (None, None)
    assert {a.membership.workers for a in told(answer).values() if a.membership} == {3}


def test_a_standby_is_counted_apart_and_a_job_at_rest_with_one_costs_nothing() -> None:
    pods = (at_work(0), at_work(1), at_work(2), idle(3, 1))
    first = ask(a_guarded_job(starting()), *pods)
    counts = first.status.workers
    assert (counts.desired, counts.ready, counts.standby) == (3, 3, 1)
    assert condition(first, Type.STANDBY_READY).status == "True"
    again = ask(a_guarded_job(first.status), *pods, now=later(60))
    assert (again.status, again.actions, again.events) == (first.status, (), ())


def test_a_job_without_standbys_says_nothing_of_them() -> None:
    answer = ask(a_job(status=starting()), at_work(0), at_work(1), at_work(2))
    assert answer.status.workers.standby is None and find(answer.status.conditions, Type.STANDBY_READY) is None


def test_the_write_that_starts_the_next_incarnation_gives_the_dead_pods_seat_to_the_standby() -> None:
    job = a_guarded_job(running(), standby=2)
    pods = (at_work(0), dead(1), at_work(2), idle(3, 1), idle(4, 1))
    first = ask(job, *pods)
    assert (first.status.incarnation, first.status.seats, first.actions) == (2, (0, 3, 2), ())
    assert "standby mnist-3 takes the place of mnist-1" in first.reason
    second = ask(replace(job, status=first.status), *pods)
    assert {uid: (a.group_rank, a.membership and a.membership.workers) for uid, a in told(second).items()} == {
        "uid-0": (0, 3),
        "uid-3": (1, 3),
        "uid-2": (2, 3),
        "uid-4": (None, None),
    }
    assert deleted(second) == ["mnist-1"]


def test_a_new_standby_is_made_behind_it_under_the_lost_pods_name() -> None:
    job = a_guarded_job(running(2, seats=(0, 3, 2)))
    answer = ask(job, at_work(0, 2), at_work(2, 2), at_work(3, 2))
    assert made(answer) == [1] and answer.status.incarnation == 2
    with_it = ask(job, at_work(0, 2), at_work(2, 2), at_work(3, 2), idle(1))
    assert told(with_it)["uid-1"].membership is None and with_it.status.workers.standby == 1


def test_the_master_is_the_pod_in_the_first_place() -> None:
    answer = ask(a_guarded_job(starting(2, seats=(3, 1, 2))), idle(0), idle(1, 1), idle(2, 1), idle(3, 1))
    assert told(answer)["uid-3"].membership.master_addr == "198.18.0.4"
    assert told(answer)["uid-3"].group_rank == 0 and told(answer)["uid-0"].membership is None


def test_progress_is_the_word_of_the_pod_in_the_first_place() -> None:
    pods = at_work(0, 2, step=99), at_work(1, 2, step=6), at_work(2, 2), at_work(3, 2, step=7)
    assert ask(a_guarded_job(running(2, seats=(3, 1, 2))), *pods).status.progress.step == 7


def test_a_vanished_pod_loses_its_seat_too() -> None:
    answer = ask(a_guarded_job(running()), at_work(0), at_work(2), idle(3, 1))
    assert answer.status.seats == (0, 3, 2) and answer.status.attempts == 0


def test_a_failed_process_keeps_its_pod_its_seat_and_the_standby_waiting() -> None:
    answer = ask(a_guarded_job(running()), at_work(0), crashed(1), at_work(2), idle(3, 1))
    assert (answer.status.incarnation, answer.status.seats) == (2, (0, 1, 2))


NOT_READY = {
    "its agent has not called": a_pod(3),
    "its stream is lost": idle(3, 1, connected=False),
    "it is being deleted": idle(3, 1, deleting=True),
    "it is dead": dead(3),
    "it has another number of processes": a_pod(3, a_report(1, AgentState.IDLE, processes=8)),
}


@pytest.mark.parametrize("standby", NOT_READY.values(), ids=NOT_READY.keys())
def test_without_a_ready_standby_the_seat_waits_for_its_pod_to_be_made_again(standby: Pod) -> None:
    job = a_guarded_job(running())
    first = ask(job, at_work(0), dead(1), at_work(2), standby)
    assert (first.status.incarnation, first.status.seats) == (2, (0, 1, 2))
    assert 1 in made(ask(replace(job, status=first.status), at_work(0), at_work(2), standby))


def test_two_lost_pods_and_one_standby() -> None:
    answer = ask(a_guarded_job(running()), dead(0), dead(1), at_work(2), idle(3, 1))
    assert answer.status.seats == (3, 1, 2) and set(answer.status.replacing) == {"uid-0", "uid-1"}


def test_a_pod_lost_with_its_node_gives_its_seat_away_though_it_may_still_run() -> None:
    peer = crashed(0, failure=replace(crashed(0).report.failure, failure_class=FailureClass.NETWORK))
    silent = at_work(1, connected=False, silent=11.0)
    answer = ask(a_guarded_job(running()), peer, silent, at_work(2), idle(3, 1))
    assert answer.status.seats == (0, 3, 2) and answer.status.replacing == ("uid-1",)


def test_a_pod_that_is_being_replaced_is_not_forgotten_over_the_next_failure() -> None:
    cut_off = at_work(1, connected=False, silent=60.0)
    job = a_guarded_job(running(2, seats=(0, 3, 2), replacing=("uid-1",)))
    answer = ask(job, at_work(0, 2), cut_off, dead(2), at_work(3, 2))
    assert answer.status.replacing == ("uid-1", "uid-2")


def test_a_finished_worker_of_a_group_that_starts_again_gives_its_seat_away() -> None:
    job = a_guarded_job(running())
    first = ask(job, done(0), crashed(1), at_work(2), idle(3, 1))
    assert first.status.seats == (3, 1, 2) and first.status.replacing == ("uid-0",)
    second = ask(replace(job, status=first.status), done(0), crashed(1), at_work(2), idle(3, 1))
    assert second.status.standby_trouble is None and deleted(second) == ["mnist-0"]


def test_a_standby_that_dies_is_made_again_and_neither_group_nor_budget_hear_of_it() -> None:
    job, group = a_guarded_job(running()), (at_work(0), at_work(1), at_work(2))
    first = ask(job, *group, dead(3, 137, "OOMKilled"))
    assert (first.status.incarnation, first.status.attempts, first.status.recoveries) == (1, 0, 0)
    assert first.status.replacing == ("uid-3",) and first.wake_at == NOW
    second = ask(replace(job, status=first.status), *group, dead(3, 137, "OOMKilled"))
    assert deleted(second) == ["mnist-3"] and second.status.standby_trouble.failures == 1
    third = ask(replace(job, status=second.status), *group)
    assert made(third) == [3], "the first time at once"
    failing = condition(third, Type.STANDBY_READY)
    assert failing.reason == "StandbyFailing" and "lack of memory" in failing.message
    assert third.status.state == "Running"


def test_a_standby_that_keeps_dying_is_made_again_more_and_more_slowly() -> None:
    job, group = a_guarded_job(running()), (at_work(0), at_work(1), at_work(2))
    waits, status, now = [], job.status, NOW
    for n in range(8):
        status = ask(replace(job, status=status), *group, the_pod(dead(3), f"u{n}"), now=now).status
        held = ask(replace(job, status=status), *group, now=now)
        waits.append(0 if made(held) else (held.wake_at - now).total_seconds())
        now = held.wake_at or now
        assert made(ask(replace(job, status=held.status), *group, now=now)) == [3]
        status = held.status
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300]
    after_quiet = ask(replace(job, status=status), *group, the_pod(dead(3), "last"), now=now + (now - NOW))
    assert after_quiet.status.standby_trouble.failures == 1


def test_a_lost_worker_is_made_again_at_once_though_standbys_are_held_back() -> None:
    trouble = ask(a_guarded_job(running()), at_work(0), at_work(1), at_work(2), dead(3)).status.standby_trouble
    held = replace(trouble, failures=5)
    answer = ask(a_guarded_job(starting(2, standby_trouble=held)), idle(0, 1), idle(2, 1), now=later(1))
    assert made(answer) == [1]


def test_a_standby_that_cannot_start_is_said_of_the_standbys_not_of_the_workers() -> None:
    stuck = a_pod(3, waiting=("Unschedulable", "0/3 nodes are available: insufficient nvidia.com/gpu"))
    answer = ask(a_guarded_job(running()), at_work(0), at_work(1), at_work(2), stuck)
    assert condition(answer, Type.WORKERS_READY).status == "True"
    assert condition(answer, Type.STANDBY_READY).reason == "Unschedulable"
    foreign = ask(a_guarded_job(running()), at_work(0), at_work(1), at_work(2), replace(a_pod(3), foreign=True))
    assert condition(foreign, Type.STANDBY_READY).reason == "NameConflict" and made(foreign) == []


def test_a_silent_standby_is_nobody_to_wait_for_when_only_victims_have_spoken() -> None:
    victim = crashed(0, failure=replace(crashed(0).report.failure, failure_class=FailureClass.NETWORK, seconds_ago=2.0))
    answer = ask(a_guarded_job(running()), victim, at_work(1), at_work(2), idle(3, 1, connected=False, silent=99))
    assert answer.status.incarnation == 2 and answer.status.replacing == ()


def test_success_needs_the_seated_only_and_the_standbys_go_at_once() -> None:
    job = a_guarded_job(running(2, seats=(0, 3, 2)))
    pods = done(0, 2), idle(1, 2), done(2, 2), done(3, 2)
    over = ask(job, *pods)
    assert over.status.state == "Succeeded"
    assert ask(replace(job, status=over.status), *pods).actions == (DeletePod("mnist-1", "uid-1"),)


def test_pods_of_every_kind_go_or_stay_by_policy_but_no_standby_is_left_waiting() -> None:
    pods = done(0), done(1), done(2), idle(3, 1)
    for policy, names in ((CleanPodPolicy.ALL, {f"mnist-{i}" for i in range(4)}), (CleanPodPolicy.NONE, set())):
        job = a_guarded_job(running(), clean_pod_policy=policy)
        answer = ask(replace(job, status=ask(job, *pods).status), *pods)
        assert set(deleted(answer)) == names
        if policy is CleanPodPolicy.NONE:
            assert told(answer)["uid-3"].stop == "the job has finished"


def test_a_failed_job_keeps_the_pod_that_failed_and_no_standby() -> None:
    job = a_guarded_job(running(), max_failures=0)
    pods = at_work(0), dead(1, 1), at_work(2), idle(3, 1)
    answer = ask(replace(job, status=ask(job, *pods).status), *pods)
    assert deleted(answer) == ["mnist-3"] and set(told(answer)) == {"uid-0", "uid-2"}


def test_a_standby_that_was_promoted_on_a_node_that_is_gone_gives_its_seat_on() -> None:
    job = a_guarded_job(starting(2, seats=(0, 3, 2)), standby=2)
    answer = ask(job, idle(0, 2), idle(2, 2), idle(3, 1, connected=False, silent=10.0), idle(4, 2))
    assert (answer.status.seats, answer.status.replacing) == ((0, 4, 2), ("uid-3",))


def test_when_the_job_ends_or_rests_nobody_claims_that_standbys_are_ready() -> None:
    job, pods = a_guarded_job(running()), (at_work(0), at_work(1), at_work(2), idle(3, 1))
    ready = ask(job, *pods).status
    over = ask(replace(job, status=ready), done(0), done(1), done(2), idle(3, 1))
    rests = ask(a_guarded_job(ready, suspend=True))
    for answer in (over, rests):
        assert condition(answer, Type.STANDBY_READY).status == "False"
    assert "StandbyReady" not in [e.reason for e in (*over.events, *rests.events)]


def test_a_suspended_job_has_no_standbys_and_a_resumed_one_sits_in_order_again() -> None:
    job = a_guarded_job(running(2, seats=(0, 3, 2)), suspend=True)
    first = ask(job, at_work(0, 2), idle(1, 2), at_work(2, 2), at_work(3, 2))
    assert len(deleted(first)) == 4
    resumed = ask(a_guarded_job(ask(replace(job, status=first.status)).status))
    assert (resumed.status.incarnation, resumed.status.seats) == (3, (0, 1, 2))


def test_standbys_may_be_asked_for_and_sent_away_while_the_job_runs() -> None:
    group = at_work(0), at_work(1), at_work(2)
    assert made(ask(a_guarded_job(running(), standby=2), *group, idle(3, 1))) == [4]
    fewer = ask(a_guarded_job(running(), standby=0), *group, idle(3, 1))
    assert deleted(fewer) == ["mnist-3"] and fewer.status.incarnation == 1
    promoted = ask(a_guarded_job(running(2, seats=(0, 3, 2)), standby=0), at_work(0, 2), idle(1, 2), at_work(2, 2), at_work(3, 2))  # fmt: skip
    assert deleted(promoted) == ["mnist-1"], "who holds a seat stays, whatever its number"


def test_a_status_of_an_older_operator_sits_in_order() -> None:
    answer = ask(a_guarded_job(running()), at_work(0), at_work(1), at_work(2), idle(3, 1))
    assert answer.status.seats == () and answer.status.workers.ready == 3
