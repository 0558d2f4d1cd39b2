"""Old incarnations stay out."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from disttrain_contract.paths import FENCE
from disttrain_runtime.checkpoint.fence import Fence, Holder, may_claim
from disttrain_runtime.errors import FencedError


@pytest.mark.parametrize(
    ("present", "claimant", "allowed"),
    [
        (None, Holder("a", 1), True),
        (Holder("a", 1), Holder("a", 2), True),
        (Holder("a", 2), Holder("a", 2), True),
        (Holder("a", 2), Holder("a", 1), False),
        (Holder("a", 7), Holder("b", 1), True),
    ],
)
def test_within_a_job_the_number_decides_and_a_new_job_takes_over(
    present: Holder | None, claimant: Holder, allowed: bool
) -> None:
    assert may_claim(present, claimant) is allowed


def test_a_claim_shuts_out_the_one_before(tmp_path: Path) -> None:
    old, new = Fence(tmp_path, Holder("a", 1)), Fence(tmp_path, Holder("a", 2))
    old.claim()
    with old.held():
        pass
    new.claim()
    with pytest.raises(FencedError, match="incarnation 1 of job uid a was overtaken.*incarnation 2"), old.held():
        raise AssertionError("never inside")
    with pytest.raises(FencedError):
        old.claim()
    with new.held():
        pass


def test_a_job_of_the_same_name_shuts_out_the_deleted_one(tmp_path: Path) -> None:
    deleted, made_again = Fence(tmp_path, Holder("a", 9)), Fence(tmp_path, Holder("b", 1))
    deleted.claim()
    made_again.claim()
    with pytest.raises(FencedError), deleted.held():
        pass


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"job_uid": "a"}', b"\xff\xfe", b'{"job_uid": "a", "incarnation": null}']
)
def test_a_damaged_fence_lets_nobody_commit_until_it_is_claimed_anew(tmp_path: Path, damage: bytes) -> None:
    fence = Fence(tmp_path, Holder("a", 1))
    fence.claim()
    (tmp_path / FENCE).write_bytes(damage)
    with pytest.raises(FencedError, match="nobody"), fence.held():
        pass
    fence.claim()
    with fence.held():
        pass


def _claim(folder: str, ready: object, done: object) -> None:
    ready.set()  # type: ignore[attr-defined]
    Fence(Path(folder), Holder("a", 2)).claim()
    done.set()  # type: ignore[attr-defined]


def test_a_claim_waits_for_a_commit_that_has_begun(tmp_path: Path) -> None:
    """Between the check and the rename of a commit nobody else gets in, not even from another process."""
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    committing = Fence(tmp_path, Holder("a", 1))
    committing.claim()
    with committing.held():
        other = context.Process(target=_claim, args=(str(tmp_path), ready, done))
        other.start()
        assert ready.wait(60)
        assert not done.wait(0.2)
    assert done.wait(60)
    other.join()
    with pytest.raises(FencedError), committing.held():
        pass
