"""How a drill goes, told moment by moment."""

from __future__ import annotations

from typing import Any

import pytest
from tests.sdk.conftest import condition, pod
from tests.sdk.conftest import job as manifest

from disttrain.sdk.course import Course, Moment, Order, candidates, obstacle, readiness
from disttrain.sdk.job import Job, Worker
from disttrain_contract.drill import Fault

RUNNING = condition("Running", "True")
FULL = condition("Checkpointed", "False", "DiskFull", "no space left on device")
COMMITTED = condition("Checkpointed", "True", "Committed")
VOLUME = {"checkpoint": {"volume": {"size": "1Gi"}}}
LAST = {
    "class": "Signal",
    "cause": "rank 1: SIGKILL",
    "source": "survivor",
    "lostSteps": 0,
    "failedAt": "2030-01-01T00:00:00Z",
}


def job(
    step: int = 0, *conditions: dict[str, Any], count: int = 0, spec: dict[str, Any] | None = None, **last: Any
) -> Job:
    status: dict[str, Any] = {"progress": {"step": step, "totalSteps": 100}, "conditions": list(conditions)}
    if count:
        status["recovery"] = {"count": count, "last": LAST | last}
    return Job(manifest(**(spec or {})) | {"status": status})


def course(fault: Fault, *moments: Moment) -> Course:
    now = Course(fault, moments[0])
    for moment in moments[1:]:
        now = now.after(moment)
    return now


def test_a_killed_rank_is_noticed_then_recovered_from_and_both_are_timed() -> None:
    last = Moment(job(13, RUNNING, count=3, recoverSeconds=0.31), 100.9)
    story = course(
        Fault.KILL_RANK,
        Moment(job(12, RUNNING, count=2, recoverSeconds=9.0), 100.0),
        Moment(job(12, RUNNING, count=2, recoverSeconds=9.0), 100.1),
        Moment(job(12, count=3), 100.2),
        Moment(job(12, RUNNING, count=3), 100.5),
        last,
    )
    told = story.result("rank 1 in mnist-1", last)
    assert told.recovered and (told.step, told.failure_class, told.cause) == (12, "Signal", "rank 1: SIGKILL")
    assert told.detect_seconds == pytest.approx(0.2) and told.recover_seconds == 0.31, "as the operator measured it"
    assert (told.source, told.lost_steps) == ("survivor", 0)


def test_an_earlier_recovery_is_not_taken_for_this_one() -> None:
    before = Moment(job(12, RUNNING, count=2, recoverSeconds=9.0), 0)
    later = Moment(job(50, RUNNING, count=2, recoverSeconds=9.0), 60)
    story = course(Fault.KILL_RANK, before, later)
    told = story.result("rank 1 in mnist-1", later)
    assert story.mended is None and not told.recovered
    assert (told.cause, told.recover_seconds, told.detect_seconds) == ("nobody noticed", None, None)


def test_a_job_that_fails_of_it_says_why() -> None:
    failed = condition("Failed", "True", "BudgetExhausted", "6 failures; spec.recovery.budget.failures is 5")
    last = Moment(job(12, failed, count=1), 3)
    told = course(Fault.KILL_POD, Moment(job(12), 0), last).result("mnist-2", last)
    assert not told.recovered and told.detect_seconds == 3 and told.cause.startswith("6 failures")
    unnoticed = Moment(job(12, failed), 3)
    assert course(Fault.KILL_POD, Moment(job(12), 0), unnoticed).result("", unnoticed).cause.startswith("6 failures")


def test_a_job_that_ends_well_after_the_fault_has_recovered_and_one_that_ends_before_has_not() -> None:
    done = condition("Succeeded", "True")
    before = Moment(job(99), 0)
    assert course(Fault.KILL_RANK, before, Moment(job(100, done, count=1), 3)).mended
    unnoticed = Moment(job(100, done), 3)
    story = course(Fault.KILL_RANK, before, unnoticed)
    assert not story.mended and story.result("", unnoticed).cause == "the job ended before anybody noticed"


def test_a_full_disk_is_over_when_a_checkpoint_was_committed_again_and_steps_were_made() -> None:
    before = Moment(job(12, COMMITTED), 0)
    full, still, freed = Moment(job(15, FULL), 2), Moment(job(30, FULL), 9), Moment(job(31, COMMITTED), 12)
    assert not course(Fault.FILL_DISK, before, Moment(job(14, COMMITTED), 1)).detected, "no checkpoint was tried yet"
    assert not course(Fault.FILL_DISK, before, full, still).mended
    told = course(Fault.FILL_DISK, before, full, still, freed).result("/checkpoints/mnist from mnist-2", freed)
    assert told.recovered and (told.failure_class, told.cause) == ("DiskFull", "no space left on device")
    assert (told.detect_seconds, told.recover_seconds, told.source) == (2, 10, None)


def test_a_dead_operator_is_over_when_another_one_tells_of_new_steps() -> None:
    before = Moment(job(12), 0, "operator-a")
    moments = (
        Moment(job(20), 1, "operator-a"), Moment(job(20), 2, ""), Moment(job(20), 3, "operator-b"), Moment(job(20), 4),
    )  # fmt: skip
    assert course(Fault.KILL_OPERATOR, before, *moments).mended is None
    last = Moment(job(21), 5)
    told = course(Fault.KILL_OPERATOR, before, *moments, last).result("operator-a", last)
    assert told.recovered and told.cause == "operator-b leads now"
    assert (told.detect_seconds, told.recover_seconds) == (3, 2)


def test_the_fault_waits_for_the_step_and_for_new_ones_since_the_last_time() -> None:
    order = Order(fault=Fault.KILL_RANK, at_step=10)
    assert not readiness(order, job(20), -1), "it does not run"
    assert not readiness(order, job(9, RUNNING), -1)
    assert readiness(order, job(10, RUNNING), -1)
    assert not readiness(order, job(20, RUNNING, condition("Restarting", "True")), -1)
    assert not readiness(order, job(20, RUNNING), 20) and readiness(order, job(21, RUNNING), 20)


@pytest.mark.parametrize(
    ("fault", "seen", "says"),
    [
        (Fault.KILL_RANK, job(5, RUNNING), ""),
        (Fault.KILL_RANK, job(100, condition("Succeeded", "True")), "nothing runs that could be hit"),
        (Fault.KILL_RANK, job(5, condition("Suspended", "True")), "resume it first"),
        (Fault.FILL_DISK, job(5), "keeps no checkpoints"),
        (Fault.FILL_DISK, job(5, FULL, spec=VOLUME), "cannot write checkpoints already (DiskFull)"),
        (Fault.FILL_DISK, job(5, COMMITTED, spec=VOLUME), ""),
    ],
)
def test_a_drill_that_could_say_nothing_is_refused(fault: Fault, seen: Job, says: str) -> None:
    said = obstacle(Order(fault=fault), seen)
    assert says in said and bool(says) == bool(said)


def test_a_step_that_is_never_followed_by_another_is_refused() -> None:
    assert "has only 100 steps" in obstacle(Order(fault=Fault.KILL_RANK, at_step=100), job(5))
    assert not obstacle(Order(fault=Fault.KILL_RANK, at_step=99), job(5))


def test_the_likeliest_pod_is_looked_in_first_and_pods_that_do_not_run_never() -> None:
    workers = [Worker(pod("mnist", n)) for n in (0, 1, 3)]
    workers += [Worker(pod("mnist", 2, phase="Pending")), Worker(pod("mnist", 4, phase="Failed"))]
    going = pod("mnist", 5)
    going["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    workers.append(Worker(going))

    def order_of(rank: int | None = None, worker: int | None = None, processes: int = 1) -> list[int]:
        order = Order(fault=Fault.KILL_RANK, rank=rank, worker=worker)
        return [w.index for w in candidates(order, job(spec={"processesPerWorker": processes}), workers)]

    assert order_of() == [1, 0, 3], "3 is a standby: spec.workers is 3"
    assert order_of(rank=0) == [0, 1, 3] and order_of(rank=3, processes=2) == [1, 0, 3]
    assert order_of(worker=3) == [3] and order_of(worker=2) == []


def test_a_standby_that_took_a_place_is_looked_in_before_the_pod_that_lost_it() -> None:
    raw = job().raw
    seated = Job({**raw, "status": {**raw["status"], "seats": [0, 3, 2]}})
    workers = [Worker(pod("mnist", n)) for n in range(4)]
    looked = [w.index for w in candidates(Order(fault=Fault.KILL_RANK, rank=1), seated, workers)]
    assert looked == [3, 2, 0, 1]
    assert candidates(Order(fault=Fault.KILL_POD), seated, workers)[0].index == 2
