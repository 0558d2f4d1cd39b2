"""Every second of a job lands in one bucket, and a job at rest writes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from disttrain_contract.messages import AgentState, Checkpoint, Restore
from disttrain_operator.core.goodput import Bucket, Ledger, stalled
from support.worlds import NOW, a_checkpoint, a_job, a_pod, a_report, ask, at_work, crashed, failed, idle, later


def life() -> dict[Bucket, float]:
    """Two workers: start at 0, first step at 5, failure at 20 heard at 21, restored at 24, new step at 30, suspended at 40."""
    job = a_job(workers=2)
    both = {
        0: [], 0.1: [idle(0), idle(1)], 5: [at_work(0, step=1), at_work(1)], 15: [at_work(0, step=9), at_work(1)],
        21: [at_work(0, step=9), crashed(1, failure=replace(failed(rank=1, ago=1.0), step=9))],
        24: [a_pod(0, a_report(2, step=7, restore=Restore(step=6, source="volume"))), at_work(1, 2)],
        30: [at_work(0, 2, step=10), at_work(1, 2)],
    }  # fmt: skip
    for second, pods in both.items():
        answer = ask(job, *pods, now=later(second))
        job = replace(job, status=answer.status)
    job = replace(job, spec=replace(job.spec, suspend=True))
    return dict(ask(job, now=later(40)).status.goodput.seconds)


def test_every_second_is_somewhere() -> None:
    assert life() == pytest.approx(
        {
            Bucket.STARTING: 5, Bucket.PRODUCTIVE: 15 + 10, Bucket.DETECTING: 1, Bucket.RECOVERING: 3, Bucket.RECOMPUTING: 6,
        }
    )  # fmt: skip


def test_a_job_that_goes_on_writes_nothing_for_its_ledger() -> None:
    job = a_job(workers=2)
    for second in (0, 1, 2, 3):
        answer = ask(job, at_work(0, step=3), at_work(1), now=later(second))
        job = replace(job, status=answer.status)
    assert ask(job, at_work(0, step=3), at_work(1), now=later(500)).status == job.status


def test_the_ratio_leaves_out_what_the_user_asked_for() -> None:
    job = a_job(workers=1, suspend=True)
    job = replace(job, status=ask(job).status)
    answer = ask(replace(job, spec=replace(job.spec, suspend=False)), now=later(100))
    assert answer.status.goodput.seconds[Bucket.SUSPENDED] == 100 and answer.status.goodput.ratio is None


def saved(step: int, waited: float, incarnation: int = 1) -> Checkpoint:
    return replace(a_checkpoint(step, incarnation), stalled_seconds=waited)


def test_the_wait_for_checkpoints_is_taken_out_of_productive_time() -> None:
    """Ten productive seconds from 0 to 10, of which 0.5 and then 0.25 were waits; the last commit comes with the end."""
    job = a_job(workers=1)
    for second, checkpoint in {0: None, 5: None, 8: saved(3, 0.5), 9: saved(3, 0.5), 15: saved(9, 0.75)}.items():
        pod = a_pod(0, a_report(step=second + 1, checkpoint=checkpoint))
        job = replace(job, status=ask(job, pod, now=later(second)).status)
    over = ask(job, a_pod(0, a_report(state=AgentState.FINISHED, checkpoint=saved(20, 1.0))), now=later(20))
    seconds = over.status.goodput.seconds
    assert seconds[Bucket.CHECKPOINT_STALL] == pytest.approx(1.0)
    assert sum(seconds.values()) == pytest.approx(20)


def test_the_total_begins_anew_with_each_incarnation() -> None:
    ledger = Ledger(Bucket.PRODUCTIVE, NOW)
    ledger = stalled(ledger, None, saved(1, 2.0), later(100))
    ledger = stalled(ledger, saved(1, 2.0), saved(2, 3.0), later(100))
    ledger = stalled(ledger, saved(2, 3.0), saved(3, 0.5, incarnation=2), later(100))
    assert ledger.seconds[Bucket.CHECKPOINT_STALL] == 3.5
    assert ledger.since == later(3.5)


def test_a_rank_cannot_report_more_waiting_than_there_was_time() -> None:
    assert stalled(Ledger(Bucket.PRODUCTIVE, NOW), None, saved(1, 1e9), later(10)).seconds == {
        Bucket.CHECKPOINT_STALL: 10
    }
    assert not stalled(Ledger(Bucket.STARTING, NOW), None, saved(1, 5.0), later(10)).seconds.get(
        Bucket.CHECKPOINT_STALL
    )
