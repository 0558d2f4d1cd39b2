from __future__ import annotations

import pytest

from disttrain_operator.core.actions import Event
from disttrain_operator.shell.errors import Refused
from disttrain_operator.shell.recorder import Recorder, without_echoes
from support.fake_kube import FakeKube
from support.raw_objects import NOW, a_seen_job

JOB = a_seen_job()


async def test_the_same_transition_said_again_after_a_crash_is_one_event() -> None:
    kube = FakeKube()
    for _ in range(2):
        await Recorder(kube, "operator-0").transition(JOB, [Event("CodeError", "boom", True)], "17", NOW)
    assert len(kube.events) == 1 and kube.events[0]["type"] == "Warning"


async def test_the_same_words_at_another_transition_are_another_event() -> None:
    kube = FakeKube()
    for version in ("17", "18"):
        await Recorder(kube, "operator-0").transition(JOB, [Event("Resumed", "resumed")], version, NOW)
    assert len(kube.events) == 2


def test_two_conditions_that_turn_for_one_reason_are_one_piece_of_news() -> None:
    said = [Event("Failed", "boom"), Event("Failed", "boom", True), Event("Failed", "other")]
    assert without_echoes(said) == [Event("Failed", "boom", True), Event("Failed", "other")]


async def test_a_problem_is_said_once_however_often_it_is_met() -> None:
    kube = FakeKube()
    recorder = Recorder(kube, "operator-0")
    for _ in range(5):
        await recorder.problem(JOB, "ActionRefused", "exceeded quota", NOW)
    assert len(kube.writes) == 1


async def test_an_event_that_is_refused_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    kube = FakeKube()

    def fault(*_: object) -> None:
        raise Refused("namespace is terminating", code=403)

    kube.fault = fault
    await Recorder(kube, "operator-0").transition(JOB, [Event("Running", "runs")], "17", NOW)
    assert "namespace is terminating" in caplog.text
