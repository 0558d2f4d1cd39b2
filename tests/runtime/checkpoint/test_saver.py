"""Saving beside training."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from disttrain_contract.messages import Checkpoint, CheckpointProblem
from disttrain_runtime.checkpoint import saver as module
from disttrain_runtime.checkpoint.fence import Fence, Holder
from disttrain_runtime.checkpoint.restore import assemble, verify
from disttrain_runtime.checkpoint.saver import Saver
from disttrain_runtime.errors import FencedError
from support.shelf import Shelf

pytestmark = pytest.mark.torch


def saver_of(shelf: Shelf, **changes: Any) -> Saver:
    given: dict[str, Any] = {"keep": 2, "asynchronous": True, "committed": None, "rejected": ()}
    return Saver(shelf.volume, shelf.fence, **(given | changes))


def state(value: float) -> dict[str, Any]:
    return {"model": {"w": torch.full((64,), value)}}


def test_training_goes_on_while_the_disk_is_busy(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The save hangs in the disk; the state changes meanwhile; what arrives is the state of the save."""
    disk, real = threading.Event(), module.write
    monkeypatch.setattr(module, "write", lambda *a: disk.wait(60) and real(*a))
    saver, live = saver_of(shelf), state(1.0)
    assert saver.save(live, shelf.facts(1)) == []
    assert saver.busy
    assert saver.poll() == []
    live["model"]["w"].fill_(99.0)
    disk.set()
    (event,) = saver.finish()
    assert isinstance(event, Checkpoint)
    assert saver.committed == 1
    assert assemble(verify(Path(event.path), 1, shelf.expected).files)["model"]["w"].tolist() == [1.0] * 64


def test_a_save_says_what_status_needs(shelf: Shelf) -> None:
    (event,) = saver_of(shelf, asynchronous=False).save(state(1.0), shelf.facts(3))
    assert isinstance(event, Checkpoint)
    assert (event.step, event.incarnation, event.path) == (3, 1, str(shelf.volume.path(3)))
    assert event.digest.startswith("sha256:")
    assert event.bytes > 256
    assert event.time.endswith("Z")


def test_each_outcome_is_told_once(shelf: Shelf) -> None:
    saver = saver_of(shelf)
    saver.save(state(1.0), shelf.facts(1))
    assert len(saver.finish()) == 1
    assert saver.finish() == saver.poll() == []


def test_the_disk_is_full_then_there_is_room_again(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = saver_of(shelf, asynchronous=False)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        (problem,) = saver.save(state(1.0), shelf.facts(1))
    assert isinstance(problem, CheckpointProblem)
    assert (problem.step, problem.reason) == (1, "DiskFull")
    assert saver.committed is None
    assert list(shelf.volume.checkpoints.iterdir()) == [], "the draft is gone"
    (event,) = saver.save(state(2.0), shelf.facts(2))
    assert isinstance(event, Checkpoint)


def test_retention_follows_each_commit(shelf: Shelf) -> None:
    saver = saver_of(shelf, asynchronous=False)
    for step in range(1, 6):
        saver.save(state(1.0), shelf.facts(step))
    assert shelf.volume.steps() == (5, 4)


def test_an_overtaken_saver_stops_the_run(shelf: Shelf) -> None:
    saver = saver_of(shelf)
    Fence(shelf.volume.job_dir, Holder("uid", 2)).claim()
    saver.save(state(1.0), shelf.facts(1))
    with pytest.raises(FencedError):
        saver.finish()
    assert shelf.volume.steps() == ()
