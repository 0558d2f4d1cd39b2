"""RestoreVerified: the digest of what was restored meets the digest that was recorded at its commit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from disttrain_contract.messages import Restore
from disttrain_operator.core.conditions import Type, find
from disttrain_operator.core.restored import verdict
from support.worlds import a_checkpoint, a_job, a_pod, a_report, ask, at_work, condition, later, running

RECORDED = replace(a_checkpoint(10), digest="sha256:" + "a" * 64)
SAME = Restore(step=10, source="volume", digest=RECORDED.digest)
OTHER = "sha256:" + "b" * 64


@pytest.mark.parametrize(
    ("start", "holds", "reason"),
    [
        (SAME, True, "Verified"),
        (replace(SAME, digest=OTHER), False, "DigestDiffers"),
        (replace(SAME, step=15, digest=OTHER), True, "Verified"),
        (replace(SAME, step=5, digest=OTHER), False, "CommittedMissing"),
        (replace(SAME, step=5, digest=OTHER, skipped=("step 10: torn",)), True, "SkippedCorrupt"),
        (Restore(step=0, source="none"), False, "CommittedMissing"),
        (Restore(step=0, source="none", skipped=("step 10: torn",)), False, "NothingVerified"),
        (Restore(step=12, source="survivor"), True, "FromSurvivor"),
        (Restore(step=11, source="buddy"), True, "FromBuddy"),
        (Restore(step=9, source="survivor"), True, "FromSurvivor"),
    ],
)
def test_what_was_restored_is_compared_with_what_was_committed(start: Restore, holds: bool, reason: str) -> None:
    said = verdict(2, start, RECORDED)
    assert said is not None
    assert said[:2] == (holds, reason)


def test_a_difference_is_said_with_both_digests() -> None:
    said = verdict(2, replace(SAME, digest=OTHER), RECORDED)
    assert said is not None
    assert RECORDED.digest in said[2]
    assert OTHER in said[2]


def test_a_fresh_start_and_a_first_restore_without_a_record() -> None:
    """A job applied again finds the checkpoints of the deleted one: its status knows nothing of them."""
    assert verdict(1, Restore(step=0, source="none"), None) is None
    said = verdict(1, SAME, None)
    assert said is not None
    assert said[:2] == (True, "Verified")
    assert "recorded" not in said[2]


def test_the_verdict_stays_when_newer_checkpoints_follow() -> None:
    job = a_job(workers=2, status=running(2, checkpoint=RECORDED))
    restored = a_report(2, step=11, restore=SAME)
    first = ask(job, a_pod(0, restored), at_work(1, 2))
    job = replace(job, status=first.status)
    newer = replace(a_checkpoint(20, 2), digest=OTHER)
    for second in (1, 2, 3):
        answer = ask(job, a_pod(0, replace(restored, checkpoint=newer)), at_work(1, 2), now=later(second))
        job = replace(job, status=answer.status)
    assert condition(answer, Type.RESTORE_VERIFIED) == condition(first, Type.RESTORE_VERIFIED)
    assert "equal to the one recorded at its commit" in condition(answer, Type.RESTORE_VERIFIED).message


def test_an_operator_that_was_away_still_compares_with_what_it_had_recorded() -> None:
    job = a_job(workers=2, status=running(2, checkpoint=RECORDED))
    report = a_report(2, step=21, restore=replace(SAME, digest=OTHER), checkpoint=a_checkpoint(20, 2))
    answer = ask(job, a_pod(0, report), at_work(1, 2))
    assert condition(answer, Type.RESTORE_VERIFIED).reason == "DigestDiffers"


def test_a_checkpoint_that_came_from_the_second_tier_says_so() -> None:
    job = a_job(workers=1, status=running(2, checkpoint=RECORDED))
    answer = ask(job, a_pod(0, a_report(2, step=11, restore=replace(SAME, source="remote"))))
    found = condition(answer, Type.RESTORE_VERIFIED)
    assert (found.status, found.reason) == ("True", "Verified")
    assert "fetched from checkpoint.remote" in found.message
    assert "equal to the one recorded at its commit" in found.message


def test_a_difference_is_an_event_that_warns() -> None:
    job = a_job(workers=1, status=running(2, checkpoint=RECORDED))
    answer = ask(job, a_pod(0, a_report(2, step=11, restore=replace(SAME, digest=OTHER))))
    assert [(e.reason, e.warning) for e in answer.events if e.reason == "DigestDiffers"] == [("DigestDiffers", True)]
    assert find(answer.status.conditions, Type.FAILED) is None, "training goes on"
