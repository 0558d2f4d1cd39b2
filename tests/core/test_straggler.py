"""A slow rank: said with its pod and node, once, and taken back when it is well."""

from __future__ import annotations

from dataclasses import replace

from disttrain_contract.messages import AgentState, Progress, Straggler
from disttrain_operator.core.conditions import Type, find
from support.worlds import a_job, a_pod, a_report, ask, condition, running

SLOW = Straggler(rank=3, factor=4.1)


def pods(slow: Straggler | None, *, processes: int = 2, step: int = 7):
    said = a_report(1, AgentState.RUNNING, processes=processes)
    first = replace(said, progress=Progress(step=step, straggler=slow))
    return [a_pod(i, first if i == 0 else said, node=f"node-{i}") for i in range(3)]


def test_a_straggler_is_named_with_its_pod_and_node() -> None:
    answer = ask(a_job(status=running()), *pods(SLOW))
    found = condition(answer, Type.STRAGGLER)
    assert (found.status, found.reason) == ("True", "SlowRank")
    assert found.message.startswith("rank 3 on mnist-1 (node node-1) takes 4.1 times as long")
    (event,) = [e for e in answer.events if e.reason == "SlowRank"]
    assert event.warning and answer.actions == ()


def test_it_is_said_once_and_taken_back_once() -> None:
    status = ask(a_job(status=running()), *pods(SLOW)).status
    again = ask(a_job(status=status), *pods(SLOW, step=8))
    assert again.events == ()
    well = ask(a_job(status=again.status), *pods(None, step=9))
    assert condition(well, Type.STRAGGLER).status == "False" and [e.reason for e in well.events] == ["NoStraggler"]


def test_a_group_without_one_has_no_such_condition() -> None:
    assert find(ask(a_job(status=running()), *pods(None)).status.conditions, Type.STRAGGLER) is None


def test_an_operator_that_has_heard_nothing_yet_takes_nothing_back() -> None:
    status = ask(a_job(status=running()), *pods(SLOW)).status
    silent = [a_pod(i, a_report(1, AgentState.RUNNING)) for i in range(3)]
    assert condition(ask(a_job(status=status), *silent), Type.STRAGGLER).status == "True"
