from __future__ import annotations

from dataclasses import replace

from disttrain_contract.messages import AgentState
from disttrain_operator.channel.hub import AgentView as Heard
from disttrain_operator.core.conditions import Type, put
from disttrain_operator.core.model import Exit
from disttrain_operator.shell.observe_agent import REDIAL_SECONDS, agent, is_awaited, never_heard
from support.worlds import NOW, a_job, a_pod, a_report, failed, running, starting


def test_an_agent_that_has_not_reported_is_unknown() -> None:
    assert agent(Heard(connected=True, last_heard_age=0.1)) is None


def test_the_age_of_a_failure_grows_while_its_report_lies_here() -> None:
    report = a_report(1, AgentState.FAILED, failure=failed(ago=2.0))
    seen = agent(Heard(report=report, report_age=3.0, connected=True, last_heard_age=0.5))
    assert seen is not None and seen.report.failure is not None
    assert seen.report.failure.seconds_ago == 5.0 and seen.silent_seconds == 0.0


def test_silence_counts_from_the_last_sign_of_life() -> None:
    seen = agent(Heard(report=a_report(), report_age=9.0, connected=False, last_heard_age=7.5))
    assert seen is not None and (seen.connected, seen.silent_seconds) == (False, 7.5)


def test_a_member_that_never_dialled_a_new_leader_has_been_silent_since() -> None:
    job, pod = a_job(status=running()), a_pod(0)
    assert never_heard(job, pod, REDIAL_SECONDS) is None, "it still has time to dial"
    seen = never_heard(job, pod, REDIAL_SECONDS + 4)
    assert seen is not None and seen.silent_seconds == 4.0 and not seen.connected


def test_a_pod_that_is_being_replaced_had_an_agent_too() -> None:
    job = a_job(status=starting(2, replacing=("uid-0",)))
    assert never_heard(job, a_pod(0), 60.0) is not None
    assert never_heard(job, a_pod(1), 60.0) is None


def test_a_pod_that_is_still_starting_is_not_silent() -> None:
    assert never_heard(a_job(status=starting()), a_pod(0), 60.0) is None
    assert never_heard(a_job(status=running()), a_pod(0, ip=None), 60.0) is None
    assert never_heard(a_job(status=running()), a_pod(0, exit=Exit(exit_code=0)), 60.0) is None


def test_a_new_leader_waits_for_agents_that_are_up() -> None:
    job = a_job(status=running(observed_generation=1))
    assert is_awaited(job, a_pod(0))
    assert not is_awaited(job, a_pod(0, exit=Exit(exit_code=1)))
    assert not is_awaited(job, a_pod(0, deleting=True))


def test_nobody_waits_when_the_user_has_asked_for_something() -> None:
    job = a_job(status=running(observed_generation=1))
    assert not is_awaited(replace(job, generation=2), a_pod(0))


def test_nobody_waits_for_a_finished_job() -> None:
    done = running(observed_generation=1)
    done = replace(done, conditions=put(done.conditions, Type.SUCCEEDED, True, "x", "", generation=1, now=NOW))
    assert not is_awaited(a_job(status=done), a_pod(0))
