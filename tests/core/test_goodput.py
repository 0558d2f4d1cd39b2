"""Every second of a job lands in one bucket, and a job at rest writes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from disttrain_contract.messages import Restore
from disttrain_operator.core.goodput import Bucket
from support.worlds import a_job, a_pod, a_report, ask, at_work, crashed, failed, idle, later


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
