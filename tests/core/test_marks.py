"""Nodes that fail jobs are marked, new pods avoid them, and marks fade."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from disttrain_contract.drill import Announcement, Fault
from disttrain_contract.failures import FailureClass
from disttrain_contract.stall import Phase, Stall
from disttrain_operator.core import marks
from disttrain_operator.core.actions import CreatePod, Plan
from disttrain_operator.core.model import Job, NodeFailure, Pod, Rule, Verdict
from support.worlds import NOW, a_job, ask, at_work, crashed, dead, failed, idle, later, running, starting

HOUR = timedelta(hours=1)


def failure(node: str, kind: FailureClass = FailureClass.SIGNAL, at: datetime = NOW) -> NodeFailure:
    return NodeFailure(node, kind, at)


LOST = failure("bad", FailureClass.NODE)
CRASH = failure("bad")


def score(*jobs: tuple[NodeFailure, ...], now: datetime = NOW, node: str = "bad") -> float:
    return next((m.score for m in marks.marks(jobs, now) if m.node == node), 0.0)


def held_against(answer: Plan) -> list[tuple[str, str]]:
    return [(f.node, str(f.failure_class)) for f in answer.status.node_failures]


def away_from(answer: Plan) -> set[tuple[str, ...]]:
    return {a.avoid for a in answer.actions if isinstance(a, CreatePod)}


# -- what a mark is ------------------------------------------------------------------------------------------------
def test_a_lost_node_is_avoided_for_an_hour() -> None:
    assert marks.marks([(LOST,)], NOW)[0].lasts == HOUR
    assert marks.marks([(LOST,)], NOW + 0.99 * HOUR)[0].steers
    assert not marks.marks([(LOST,)], NOW + 1.01 * HOUR)[0].steers


def test_one_suspicion_steers_nobody_and_two_of_the_same_hours_do() -> None:
    assert not marks.marks([(CRASH,)], NOW)[0].steers
    assert marks.marks([(CRASH,), (CRASH,)], NOW)[0].steers, "of two jobs"
    assert marks.marks([(CRASH, CRASH)], NOW)[0].steers, "of one job"
    assert not marks.marks([(CRASH, failure("bad", at=NOW + 3 * HOUR))], NOW + 3 * HOUR)[0].steers


def test_twice_the_failures_are_held_against_it_one_hour_longer() -> None:
    two, four = (marks.marks([(LOST,)] * n, NOW)[0] for n in (2, 4))
    assert four.lasts - two.lasts == HOUR


def test_a_program_that_breaks_everywhere_marks_no_node() -> None:
    everywhere = tuple(failure(node) for node in ("bad", "worse", "good") * 3)
    assert marks.marks([everywhere], NOW) == []
    assert score((*everywhere, CRASH, CRASH)) == pytest.approx(0.8), "more often here than anywhere else"


def test_a_lost_node_is_lost_wherever_else_the_program_breaks() -> None:
    assert score((LOST, failure("worse"), CRASH)) == pytest.approx(1.0)


def test_what_is_older_than_eight_hours_is_forgotten() -> None:
    assert marks.marks([(LOST,)], NOW + 8 * HOUR) == []
    assert marks.recorded((LOST,), failure("x", at=NOW + 8 * HOUR), NOW + 8 * HOUR) == (
        failure("x", at=NOW + 8 * HOUR),
    )


def test_a_job_keeps_a_bounded_number() -> None:
    kept: tuple[NodeFailure, ...] = ()
    for n in range(100):
        kept = marks.recorded(kept, failure(f"n{n}"), NOW)
    assert len(kept) == marks.REMEMBERED and kept[-1].node == "n99"


def test_a_failure_of_a_clock_that_was_ahead_counts_as_of_now() -> None:
    assert score((failure("bad", FailureClass.NODE, NOW + HOUR),)) == 1.0


def test_the_platforms_team_can_trust_a_node_or_all() -> None:
    assert marks.marks([(LOST,)], NOW, frozenset({"bad"})) == marks.marks([(LOST,)], NOW, frozenset({"*"})) == []
    assert marks.marks([(LOST,)], NOW, frozenset({"other"}))


# -- what is held against a node -----------------------------------------------------------------------------------
def of_three(broken: Pod, job: Job | None = None) -> Plan:
    return ask(job or a_job(status=running()), broken, at_work(1), at_work(2))


@pytest.mark.parametrize(
    "kind", [FailureClass.SIGNAL, FailureClass.HANG, FailureClass.STORAGE, FailureClass.DIVERGENCE]
)
def test_what_bad_hardware_looks_like_is_held_against_the_node(kind: FailureClass) -> None:
    answer = of_three(crashed(0, failure=failed(kind=kind, code=139), node="bad"))
    assert held_against(answer) == [("bad", str(kind))]


@pytest.mark.parametrize(
    "kind", [FailureClass.CODE, FailureClass.ENTRYPOINT, FailureClass.OOM, FailureClass.NON_FINITE, FailureClass.IMAGE]
)
def test_what_the_job_does_to_itself_is_not(kind: FailureClass) -> None:
    assert held_against(of_three(crashed(0, failure=failed(kind=kind), node="bad"))) == []


def test_a_node_that_falls_silent_is_marked_by_name() -> None:
    silent = at_work(0, connected=False, silent=11.0, node="bad")
    victims = [crashed(n, failure=failed(kind=FailureClass.NETWORK, rank=n, ago=12.0)) for n in (1, 2)]
    assert held_against(ask(a_job(status=running()), silent, *victims)) == [("bad", "Node")]


def test_a_node_that_does_not_answer_is_and_one_that_is_drained_is_not() -> None:
    gone = dead(0, node="bad", lost="its node does not answer", unreachable=True)
    evicted = dead(0, node="bad", lost="pod mnist-0 was taken down by the cluster: EvictionByEvictionAPI")
    assert held_against(of_three(gone)) == [("bad", "Node")]
    assert held_against(of_three(evicted)) == []
    assert held_against(of_three(replace(gone, deleting=True))) == [], "somebody took it away first"


def test_ranks_that_all_wait_for_each_other_speak_against_no_node() -> None:
    stall = Stall(step=7, phase=Phase.BACKWARD, seconds=99.0)
    pods = [at_work(n, node="bad") for n in range(3)]
    stuck = [replace(p, agent=replace(p.agent, report=replace(p.report, stall=stall))) for p in pods]
    answer = ask(a_job(status=running()), *stuck)
    assert answer.status.last_recovery is not None and answer.status.last_recovery.failure_class is FailureClass.HANG
    assert held_against(answer) == []


def test_a_rule_that_ignores_a_failure_clears_the_node_too() -> None:
    broken = crashed(0, failure=failed(kind=FailureClass.SIGNAL, code=139), node="bad")
    shrug = Rule(action=Verdict.IGNORE, exit_codes=frozenset({139}))
    assert held_against(of_three(broken, a_job(status=running(), rules=(shrug,)))) == []


# -- what comes of it ----------------------------------------------------------------------------------------------
def test_new_pods_avoid_a_node_on_which_another_job_has_failed() -> None:
    answer = ask(a_job(status=starting()), idle(0), others=((LOST,),))
    assert away_from(answer) == {("bad",)}


def test_the_worst_node_comes_first_and_no_more_than_the_limit_are_named() -> None:
    many = tuple(failure(f"n{n:02}", FailureClass.NODE) for n in range(40))
    (named,) = away_from(ask(a_job(status=starting()), others=(many[:20], many[20:], (LOST, LOST))))
    assert named[0] == "bad" and len(named) == marks.MAX_AVOIDED


def test_a_job_may_go_where_it_likes_and_the_platform_may_say_so_for_all() -> None:
    assert away_from(ask(a_job(status=starting(), avoid_marked_nodes=False), others=((LOST,),))) == {()}
    assert away_from(ask(a_job(status=starting()), others=((LOST,),), trusted=frozenset({"bad"}))) == {()}


def test_it_is_said_when_a_mark_begins_to_steer_and_not_again_while_it_does() -> None:
    broken = crashed(0, failure=failed(kind=FailureClass.SIGNAL, code=139), node="bad")
    first = of_three(broken)
    assert "NodeAvoided" not in [e.reason for e in first.events]
    known = running(node_failures=first.status.node_failures)
    second = of_three(broken, a_job(status=known))
    said = [e for e in second.events if e.reason == "NodeAvoided"]
    assert [e.message for e in said] == [
        "2 failures of late on node bad: for the next 41 min new worker pods prefer other nodes"
    ] and said[0].warning
    third = of_three(broken, a_job(status=replace(known, node_failures=second.status.node_failures)))
    assert "NodeAvoided" not in [e.reason for e in third.events] and len(third.status.node_failures) == 3


def test_a_suspicion_of_another_job_and_one_of_our_own_make_a_mark() -> None:
    broken = crashed(0, failure=failed(kind=FailureClass.HANG, code=137), node="bad")
    answer = ask(a_job(status=running()), broken, at_work(1), at_work(2), others=((CRASH,),))
    assert [e.reason for e in answer.events].count("NodeAvoided") == 1


def test_marks_cost_a_job_at_rest_nothing() -> None:
    job = a_job(status=running(node_failures=(LOST,)))
    first = ask(job, *(at_work(n, node="bad") for n in range(3)), others=((LOST, LOST),))
    again = ask(replace(job, status=first.status), *(at_work(n, node="bad") for n in range(3)), now=later(7200))
    assert (again.actions, again.wake_at) == ((), None) and again.status == first.status


# -- fire drills ---------------------------------------------------------------------------------------------------
def drilled(incarnation: int = 1, pod: str = "mnist-0") -> Job:
    return replace(a_job(status=running()), drill=Announcement(Fault.KILL_RANK, incarnation, pod))


KILLED = crashed(0, failure=failed(kind=FailureClass.SIGNAL, code=137), node="bad")


def test_a_fire_drill_is_called_one_and_held_against_no_node() -> None:
    answer = of_three(KILLED, drilled())
    last = answer.status.last_recovery
    assert last is not None and last.drill == "kill-rank" and held_against(answer) == []
    assert [e.message for e in answer.events if e.reason == "Signal"][0].startswith(
        "fire drill kill-rank: rank 0 on mnist-0"
    )
    assert answer.status.attempts == 1, "charged as any other"


@pytest.mark.parametrize("job", [drilled(incarnation=2), drilled(pod="mnist-1"), a_job(status=running())])
def test_any_other_failure_is_none(job: Job) -> None:
    answer = of_three(KILLED, job)
    last = answer.status.last_recovery
    assert last is not None and last.drill is None and held_against(answer) == [("bad", "Signal")]
