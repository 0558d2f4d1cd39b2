"""Hung groups: the operator hears of several, and blames one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import AgentState, Failure
from disttrain_contract.stall import Phase, Stall
from disttrain_operator.core.conditions import Type
from disttrain_operator.core.model import Recovery
from support.worlds import NOW, a_job, a_pod, a_report, ask, at_work, condition, crashed, failed, running


def hung(
    rank: int, phase: Phase, *, step: int = 40, stopped: bool = False, busy: bool = False, ago: float = 0.0
) -> Failure:
    stall = Stall(step=step, phase=phase, seconds=2.0, stopped=stopped, busy=busy)
    return replace(failed("hung", FailureClass.HANG, code=137, rank=rank, ago=ago), step=step, stall=stall)


def blamed(*pods):
    last = ask(a_job(status=running()), *pods).status.last_recovery
    return None if last is None else (last.failure_class, last.rank)


def waiting(index: int, phase: Phase = Phase.BACKWARD, step: int = 40, *, busy: bool = False, incarnation: int = 1):
    stall = Stall(step=step, phase=phase, seconds=2.0, busy=busy)
    return a_pod(index, a_report(incarnation, AgentState.RUNNING, stall=stall))


def test_the_rank_that_hangs_in_its_own_work_is_blamed_and_not_those_that_wait_for_it() -> None:
    pods = [crashed(i, failure=hung(i, Phase.FORWARD if i == 1 else Phase.BACKWARD, ago=1.0)) for i in range(3)]
    assert blamed(*pods) == (FailureClass.HANG, 1)


def test_a_stopped_rank_is_blamed_before_one_that_hangs_in_its_own_work() -> None:
    first = crashed(0, failure=hung(0, Phase.FORWARD, ago=1.0))
    assert blamed(first, crashed(1, failure=hung(1, Phase.AGREEING, stopped=True)), at_work(2)) == (
        FailureClass.HANG,
        1,
    )


def test_a_rank_that_died_is_blamed_before_one_that_seemed_to_hang() -> None:
    stuck = crashed(0, failure=hung(0, Phase.FORWARD, ago=2.0))
    died = crashed(1, failure=failed("ValueError: no", rank=1))
    assert blamed(stuck, died, at_work(2)) == (FailureClass.CODE, 1)


def test_one_that_only_waited_is_not_blamed_before_the_others_have_spoken() -> None:
    tired = crashed(0, failure=hung(0, Phase.AGREEING))
    answer = ask(a_job(status=running()), tired, at_work(1), at_work(2))
    assert answer.status.incarnation == 1 and "waiting for news of mnist-1, mnist-2" in answer.reason


def test_the_network_errors_of_those_who_lost_a_hung_rank_do_not_hide_it() -> None:
    peer = failed("Connection closed by peer", FailureClass.NETWORK, ago=0.5)
    assert blamed(crashed(0, failure=peer), crashed(1, failure=hung(1, Phase.UPDATING)), at_work(2)) == (
        FailureClass.HANG,
        1,
    )


def test_a_group_in_which_everybody_waits_for_everybody_starts_anew() -> None:
    answer = ask(a_job(status=running()), waiting(0), waiting(1, Phase.SYNCHRONISING), waiting(2))
    last = answer.status.last_recovery
    assert answer.status.incarnation == 2
    assert (last.failure_class, last.pod, last.step) == (FailureClass.HANG, "mnist-1", 40)
    assert "all ranks wait for each other after step 40, mnist-1 in its synchronising phase" in last.cause
    assert condition(answer, Type.RESTARTING).reason == "Hang"


@pytest.mark.parametrize("phase", [Phase.MEETING, Phase.TAKING_UP])
def test_a_group_that_cannot_come_together_starts_anew(phase: Phase) -> None:
    answer = ask(a_job(status=running()), waiting(0, phase), waiting(1, phase), waiting(2, phase))
    assert answer.status.incarnation == 2
    assert f"in its {phase.word} phase" in answer.status.last_recovery.cause


def test_while_one_still_builds_the_others_wait_for_it() -> None:
    answer = ask(a_job(status=running()), waiting(0, Phase.MEETING), waiting(1, Phase.MEETING), at_work(2))
    assert answer.status.incarnation == 1 and answer.status.last_recovery is None


def test_as_long_as_one_works_the_others_wait_for_it() -> None:
    for third in (at_work(2), waiting(2, busy=True), waiting(2, Phase.FORWARD), waiting(2, incarnation=0)):
        answer = ask(a_job(status=running()), waiting(0), waiting(1), third)
        assert answer.status.incarnation == 1 and answer.status.last_recovery is None


def test_the_same_loss_that_is_no_number_at_the_same_step_is_not_tried_for_ever() -> None:
    nan = failed("the loss of rank 1 is nan in step 34", FailureClass.NON_FINITE, rank=1)
    before = Recovery(incarnation=2, cause=nan.message, failure_class=FailureClass.NON_FINITE, failed_at=NOW, step=34)
    job = a_job(status=running(3, last_recovery=before, repeats=2))
    pods = [
        a_pod(i, a_report(3, AgentState.FAILED, failure=replace(nan, step=34)) if i == 1 else a_report(3))
        for i in range(3)
    ]
    answer = ask(job, *pods)
    assert condition(answer, Type.FAILED).reason == "NoProgress"
