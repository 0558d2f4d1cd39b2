"""A group is formed anew: the rank that leads goes on saving, or another takes over."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")

from disttrain_contract.messages import Checkpoint, CheckpointProblem
from disttrain_contract.paths import FENCE
from disttrain_runtime.checkpoint.fence import LOCK, Fence, Holder
from disttrain_runtime.checkpoint.opening import open_volume
from disttrain_runtime.checkpoint.restore import newest, verify
from disttrain_runtime.checkpoint.saver import Saver
from disttrain_runtime.errors import FencedError
from support.shelf import Shelf, kill_a_leader_in_mid_save, no_commit, state_of, wait_for_draft

pytestmark = pytest.mark.torch

MakeSaver = Callable[..., Saver]


def incarnation_of(shelf: Shelf, step: int) -> int:
    return verify(shelf.volume.path(step), step, shelf.expected).manifest.incarnation


def test_a_leader_that_survives_saves_on_under_the_next_incarnation(shelf: Shelf, saver_of: MakeSaver) -> None:
    saver = saver_of(shelf)
    saver.save(state_of(1), shelf.facts(1))
    saver.finish()
    pid = saver.writer_pid
    saver.claim(Holder("uid", 2))
    saver.save(state_of(2), shelf.facts(2))
    (event,) = saver.finish()
    assert isinstance(event, Checkpoint)
    assert (event.incarnation, incarnation_of(shelf, 2), incarnation_of(shelf, 1)) == (2, 2, 1)
    assert json.loads((shelf.volume.job_dir / FENCE).read_text())["incarnation"] == 2
    assert saver.writer_pid == pid, "the process and the memory serve on"


def test_a_save_that_was_under_way_is_neither_lost_nor_fenced(shelf: Shelf, saver_of: MakeSaver) -> None:
    """The peer died in the middle of a save: the claim does not wait for the save, and the save survives the claim."""
    saver = saver_of(shelf)
    saver.save(state_of(1), shelf.facts(1))
    saver.finish()
    writer = saver.writer_pid
    assert writer is not None
    os.kill(writer, signal.SIGSTOP)  # it takes its time
    saver.save(state_of(5), shelf.facts(5))
    saver.claim(Holder("uid", 2))
    os.kill(writer, signal.SIGCONT)
    (event,) = saver.finish()
    assert isinstance(event, Checkpoint)
    assert (event.step, event.incarnation) == (5, 1), "it says who made it"
    found = newest(shelf.volume, shelf.expected)
    assert found.verified is not None
    assert found.verified.manifest.step == 5


def test_nobody_else_of_the_old_incarnation_can_commit_after_the_claim(shelf: Shelf, saver_of: MakeSaver) -> None:
    """Another process under the very number that the claimant had: a zombie, however it came to be."""
    saver, zombie = saver_of(shelf), saver_of(Shelf(shelf.volume, Fence(shelf.volume.job_dir, Holder("uid", 1))))
    saver.claim(Holder("uid", 2))
    zombie.save(state_of(3), shelf.facts(3))
    with pytest.raises(FencedError):
        zombie.finish()
    with pytest.raises(FencedError):
        zombie.claim(Holder("uid", 1))
    assert shelf.volume.steps() == ()


def test_a_leader_that_was_overtaken_cannot_claim(shelf: Shelf, saver_of: MakeSaver) -> None:
    saver = saver_of(shelf)
    open_volume(shelf.volume.job_dir, Holder("uid", 3))
    with pytest.raises(FencedError, match="incarnation 2 .* was overtaken.*incarnation 3"):
        saver.claim(Holder("uid", 2))


def test_a_disk_that_is_sick_at_the_claim_does_not_stop_training(shelf: Shelf, saver_of: MakeSaver) -> None:
    """Survivors hold the state, so they can go on. When the disk is well again, saving goes on, too."""
    saver, lock = saver_of(shelf), shelf.volume.job_dir / LOCK
    lock.unlink()
    lock.mkdir()
    saver.claim(Holder("uid", 2))
    saver.save(state_of(1), shelf.facts(1))
    (problem,) = saver.finish()
    assert isinstance(problem, CheckpointProblem)
    lock.rmdir()
    saver.save(state_of(2), shelf.facts(2))
    (event,) = saver.finish()
    assert isinstance(event, Checkpoint)
    assert event.incarnation == 2


def test_the_stall_is_counted_for_each_incarnation(shelf: Shelf, saver_of: MakeSaver) -> None:
    saver = saver_of(shelf)
    saver.save(state_of(1), shelf.facts(1))
    saver.finish()
    assert saver.stalled_seconds > 0
    saver.claim(Holder("uid", 2))
    assert saver.stalled_seconds == 0


def test_another_rank_takes_over_from_a_leader_that_died_in_mid_save(shelf: Shelf, saver_of: MakeSaver) -> None:
    """It was rank 1, has the state of step 2 in memory, and needs nothing of the dead one's half-made files."""
    kill_a_leader_in_mid_save(shelf)
    assert drafts(shelf)
    volume, fence = open_volume(shelf.volume.job_dir, Holder("uid", 2))
    saver = saver_of(Shelf(volume, fence), committed=1)
    assert newest(volume, shelf.expected).verified is not None
    saver.save(state_of(2), shelf.facts(2))
    assert isinstance(saver.finish()[0], Checkpoint)
    assert not drafts(shelf)
    assert (volume.steps(), incarnation_of(shelf, 2)) == ((2, 1), 2)


def test_a_leader_that_leads_no_more_goes_quietly(shelf: Shelf, saver_of: MakeSaver) -> None:
    """The group was formed anew with another rank 0; what the old one had under way is dropped, and that is no failure."""
    old = saver_of(shelf)
    old.save(state_of(1), shelf.facts(1))
    old.finish()
    with no_commit(shelf):
        old.save(state_of(2), shelf.facts(2))
        wait_for_draft(shelf)
        old.close()
    assert old.finish() == old.poll() == []
    volume, fence = open_volume(shelf.volume.job_dir, Holder("uid", 2))
    new = saver_of(Shelf(volume, fence))
    new.save(state_of(3), shelf.facts(3))
    assert isinstance(new.finish()[0], Checkpoint)
    assert not drafts(shelf)


def test_a_leader_that_leads_again_starts_afresh(shelf: Shelf, saver_of: MakeSaver) -> None:
    saver = saver_of(shelf)
    saver.save(state_of(1), shelf.facts(1))
    saver.close()
    saver.close()
    saver.claim(Holder("uid", 3))
    saver.save(state_of(2), shelf.facts(2))
    assert isinstance(saver.finish()[0], Checkpoint)


def drafts(shelf: Shelf) -> list[Path]:
    return list(shelf.volume.checkpoints.glob(".writing-*"))
