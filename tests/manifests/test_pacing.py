from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import Checkpoint, Progress
from disttrain_operator.core.conditions import Type, put
from disttrain_operator.core.model import Recovery, Status, WorkerCounts
from disttrain_operator.manifests.pacing import Pace, eta_seconds, follow, same_intent, write_due
from support.worlds import NOW, later

AT_STEP_10 = Status(incarnation=1, progress=Progress(step=10, total_steps=100))
AT_STEP_11 = replace(AT_STEP_10, progress=Progress(step=11, total_steps=100))


def saying(message: str, reason: str = "WaitingForWorkers", now: datetime = NOW) -> Status:
    found = put((), Type.WORKERS_READY, False, reason, message, generation=1, now=now)
    return replace(AT_STEP_10, conditions=found)


def test_nothing_changed_is_never_written() -> None:
    assert write_due(AT_STEP_10, AT_STEP_10, None, NOW) is None


def test_a_difference_that_the_wire_does_not_show_is_never_written() -> None:
    finer = replace(AT_STEP_10, progress=replace(AT_STEP_10.progress, loss=0.12345678))
    coarser = replace(AT_STEP_10, progress=replace(AT_STEP_10.progress, loss=0.12345681))
    assert write_due(finer, coarser, None, NOW) is None


def test_progress_alone_is_written_every_five_seconds() -> None:
    assert write_due(AT_STEP_10, AT_STEP_11, NOW, later(1)) == later(5)
    assert write_due(AT_STEP_10, AT_STEP_11, NOW, later(5)) == later(5)
    assert write_due(AT_STEP_10, AT_STEP_11, NOW, later(60)) == later(60)


def test_the_first_progress_is_written_at_once() -> None:
    assert write_due(AT_STEP_10, AT_STEP_11, None, NOW) == NOW


@pytest.mark.parametrize(
    "new",
    [
        replace(AT_STEP_11, incarnation=2),
        replace(AT_STEP_11, replacing=("uid",)),
        replace(AT_STEP_11, workers=WorkerCounts(ready=1)),
        saying("pods wait"),
    ],
    ids=["incarnation", "replacing", "counts", "a condition"],
)
def test_everything_else_is_written_at_once(new: Status) -> None:
    assert write_due(AT_STEP_10, new, NOW, later(1)) == later(1)


def test_only_the_wording_of_a_condition_can_wait() -> None:
    assert write_due(saying("1 of 3"), saying("2 of 3"), NOW, later(1)) == later(5)
    assert write_due(saying("1 of 3"), saying("1 of 3", "ImagePullBackOff"), NOW, later(1)) == later(1)


def test_checkpoints_at_every_step_do_not_write_at_every_step() -> None:
    saved = replace(AT_STEP_10, checkpoint=Checkpoint(step=10, digest="d", path="p", incarnation=1, time=""))
    assert write_due(AT_STEP_10, saved, NOW, later(1)) == later(5)


FAILED = Recovery(incarnation=1, cause="SIGKILL", failure_class=FailureClass.SIGNAL, failed_at=NOW)
COMING_BACK = replace(saying("0 of 3"), incarnation=2, last_recovery=FAILED)


def test_what_is_seen_of_a_group_that_comes_together_again_can_wait_for_a_second() -> None:
    seen = replace(saying("3 of 3", "Ready"), incarnation=2, last_recovery=replace(FAILED, source="survivor"))
    assert write_due(COMING_BACK, seen, NOW, later(0.1)) == later(1)
    assert write_due(COMING_BACK, seen, NOW, later(3)) == later(3)


@pytest.mark.parametrize(
    "new",
    [
        replace(COMING_BACK, last_recovery=replace(FAILED, recover_seconds=0.2)),
        replace(COMING_BACK, incarnation=3),
        replace(COMING_BACK, seats=(0, 3, 2)),
        replace(COMING_BACK, completion_time=NOW),
    ],
    ids=["it trains again", "another failure", "a standby", "the end"],
)
def test_its_end_and_every_intent_cannot(new: Status) -> None:
    assert write_due(COMING_BACK, new, NOW, later(0.1)) == later(0.1)


def test_an_intent_is_what_somebody_will_act_on() -> None:
    assert same_intent(AT_STEP_10, AT_STEP_11) and same_intent(saying("1 of 3"), saying("2 of 3"))
    assert not same_intent(AT_STEP_10, replace(AT_STEP_10, replacing=("uid",)))


def steps(*seen: tuple[float, int], total: int = 100, incarnation: int = 1) -> tuple[Pace | None, Status, datetime]:
    pace, status, now = None, Status(), NOW
    for seconds, step in seen:
        status = Status(incarnation=incarnation, progress=Progress(step=step, total_steps=total))
        now = later(seconds)
        pace = follow(pace, status, now)
    return pace, status, now


def test_time_left_at_the_present_speed() -> None:
    assert eta_seconds(*steps((0, 10), (10, 20))) == 80


def test_nobody_knows_the_time_left_after_the_first_step_seen() -> None:
    assert eta_seconds(*steps((0, 10))) is None


def test_speed_is_measured_over_the_last_minute_or_two() -> None:
    slow_then_fast = steps((0, 0), (60, 6), (120, 66), (150, 81))
    assert eta_seconds(*slow_then_fast) == round(19 * 90 / 75)


def test_a_restart_starts_the_measure_afresh() -> None:
    pace, _, _ = steps((0, 10), (10, 20))
    status = Status(incarnation=2, progress=Progress(step=15, total_steps=100))
    assert eta_seconds(follow(pace, status, later(20)), status, later(20)) is None


def test_the_last_step_leaves_nothing() -> None:
    assert eta_seconds(*steps((0, 10), (10, 100))) == 0


def test_a_job_without_an_end_has_no_time_left() -> None:
    pace, status, now = steps((0, 10), (10, 20))
    endless = replace(status, progress=Progress(step=20))
    assert eta_seconds(pace, endless, now + timedelta(seconds=1)) is None
