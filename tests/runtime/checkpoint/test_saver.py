"""Saving beside training."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from disttrain_contract.messages import Checkpoint, CheckpointProblem
from disttrain_runtime.checkpoint import helper_process, writer_process
from disttrain_runtime.checkpoint.fence import Fence, Holder
from disttrain_runtime.checkpoint.restore import assemble, verify
from disttrain_runtime.checkpoint.saver import Saver
from disttrain_runtime.errors import FencedError
from support.faulty_writer import Plan
from support.limits import no_descriptor_left
from support.shelf import Shelf, kill_a_leader_in_mid_save, no_commit, running, state_of, wait_for_draft

pytestmark = pytest.mark.torch


MakeSaver = Callable[..., Saver]


@pytest.fixture
def saver(shelf: Shelf, saver_of: MakeSaver) -> Saver:
    return saver_of(shelf)


def weights(shelf: Shelf, step: int) -> list[float]:
    values: list[float] = assemble(verify(shelf.volume.path(step), step, shelf.expected).files)["model"]["w"].tolist()
    return values


def test_training_goes_on_while_the_disk_is_busy(shelf: Shelf, saver: Saver) -> None:
    """The save hangs in the disk; the state changes meanwhile; what arrives is the state of the save."""
    live = state_of(1.0)
    with no_commit(shelf):
        assert saver.save(live, shelf.facts(1)) == []
        assert saver.busy
        assert saver.poll() == []
        live["model"]["w"].fill_(99.0)
    (event,) = saver.finish()
    assert isinstance(event, Checkpoint)
    assert saver.committed == 1
    assert weights(shelf, 1) == [1.0] * 64


def test_a_save_says_what_status_needs(shelf: Shelf, saver_of: MakeSaver) -> None:
    (event,) = saver_of(shelf, asynchronous=False).save(state_of(1.0), shelf.facts(3))
    assert isinstance(event, Checkpoint)
    assert (event.step, event.incarnation, event.path) == (3, 1, str(shelf.volume.path(3)))
    assert event.digest == verify(shelf.volume.path(3), 3, shelf.expected).digest
    assert event.bytes == sum(file.stat().st_size for file in shelf.volume.path(3).iterdir())
    assert event.time.endswith("Z")
    assert event.seconds > 0


def test_each_outcome_is_told_once(shelf: Shelf, saver: Saver) -> None:
    saver.save(state_of(1.0), shelf.facts(1))
    assert len(saver.finish()) == 1
    assert saver.finish() == saver.poll() == []


def test_state_that_grows_is_saved_whole(shelf: Shelf, saver: Saver) -> None:
    saver.save(state_of(1.0), shelf.facts(1))
    saver.save({"model": {"w": torch.full((64,), 2.0)}, "optimizer": {"m": torch.ones(100_000)}}, shelf.facts(2))
    saver.save({"model": {"w": torch.full((64,), 3.0)}, "optimizer": {"m": torch.ones(300_000)}}, shelf.facts(3))
    saver.finish()
    verified = verify(shelf.volume.path(3), 3, shelf.expected)
    assert assemble(verified.files)["optimizer"]["m"].tolist() == [1.0] * 300_000


def test_the_disk_is_full_then_there_is_room_again(
    shelf: Shelf, saver_of: MakeSaver, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = saver_of(shelf, asynchronous=False)
    with monkeypatch.context() as patch:
        full = Plan(at=1, fault=str(errno.ENOSPC), calls=("write",), lasting=True)
        patch.setattr(writer_process, "PROGRAM", full.program())
        (problem,) = saver.save(state_of(1.0), shelf.facts(1))
    assert isinstance(problem, CheckpointProblem)
    assert (problem.step, problem.reason) == (1, "DiskFull")
    assert saver.committed is None
    assert list(shelf.volume.checkpoints.iterdir()) == [], "the draft is gone"
    saver.close()
    (event,) = saver_of(shelf, asynchronous=False).save(state_of(2.0), shelf.facts(2))
    assert isinstance(event, Checkpoint)


def test_retention_follows_each_commit(shelf: Shelf, saver_of: MakeSaver) -> None:
    saver = saver_of(shelf, asynchronous=False)
    for step in range(1, 6):
        saver.save(state_of(1.0), shelf.facts(step))
    assert shelf.volume.steps() == (5, 4)


def test_an_overtaken_saver_stops_the_run(shelf: Shelf, saver: Saver) -> None:
    Fence(shelf.volume.job_dir, Holder("uid", 2)).claim()
    saver.save(state_of(1.0), shelf.facts(1))
    with pytest.raises(FencedError, match="incarnation 1 of job uid uid was overtaken"):
        saver.finish()
    assert shelf.volume.steps() == ()


def test_the_first_save_finds_memory_and_process_ready(shelf: Shelf, saver: Saver) -> None:
    saver.prepare(state_of(0.0))
    pid = saver.writer_pid
    assert pid is not None
    saver.save(state_of(1.0), shelf.facts(1))
    saver.finish()
    assert saver.writer_pid == pid
    assert saver.stalled_seconds > 0


def test_each_commit_says_what_training_has_waited_so_far(shelf: Shelf, saver: Saver) -> None:
    waited = []
    for step in (1, 2, 3):
        saver.save(state_of(1.0), shelf.facts(step))
        (event,) = saver.finish()
        assert isinstance(event, Checkpoint)
        waited.append(event.stalled_seconds)
    assert 0 < waited[0] < waited[1] < waited[2] == round(saver.stalled_seconds, 3)


def test_a_writer_that_is_killed_in_mid_save_costs_that_save_and_nothing_else(shelf: Shelf, saver: Saver) -> None:
    """As the kernel does it when memory runs out. The next save is made by another process, which cleans up, too."""
    saver.save(state_of(1.0), shelf.facts(1))
    saver.finish()
    with no_commit(shelf):
        saver.save(state_of(2.0), shelf.facts(2))
        first = saver.writer_pid
        assert first is not None
        wait_for_draft(shelf)
        os.kill(first, signal.SIGKILL)
        (problem,) = saver.finish()
    assert isinstance(problem, CheckpointProblem)
    assert (problem.step, problem.reason) == (2, "WriterDied")
    assert "raise its memory limit" in problem.message
    assert saver.writer_pid not in (None, first), "another is started at once"
    saver.save(state_of(3.0), shelf.facts(3))
    (event,) = saver.finish()
    assert isinstance(event, Checkpoint)
    assert weights(shelf, 3) == [3.0] * 64
    assert sorted(p.name for p in shelf.volume.checkpoints.iterdir()) == ["step-00000001", "step-00000003"]


def test_a_writer_that_dies_between_two_saves_is_replaced(shelf: Shelf, saver: Saver) -> None:
    saver.prepare(state_of(0.0))
    assert saver.writer_pid is not None
    os.kill(saver.writer_pid, signal.SIGKILL)
    while running(saver.writer_pid):
        time.sleep(0.005)
    events = saver.save(state_of(1.0), shelf.facts(1)) + saver.finish() + saver.save(state_of(2.0), shelf.facts(2))
    events += saver.finish()
    assert [e.step for e in events] == [1, 2]
    assert isinstance(events[-1], Checkpoint)


def test_a_machine_without_room_for_a_process_is_a_problem_and_no_failure(
    shelf: Shelf, saver: Saver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(helper_process.subprocess, "Popen", refused)
        saver.prepare(state_of(0.0))
        (problem,) = saver.save(state_of(1.0), shelf.facts(1))
    assert isinstance(problem, CheckpointProblem)
    assert "limit of processes" in problem.message
    saver.save(state_of(2.0), shelf.facts(2))
    assert isinstance(saver.finish()[0], Checkpoint)


def test_a_rank_that_is_prepared_saves_without_a_descriptor_left(shelf: Shelf, saver: Saver) -> None:
    """The limit is the kernel's. Writer and memory are there since the start."""
    saver.prepare(state_of(0.0))
    with no_descriptor_left():
        saver.save(state_of(1.0), shelf.facts(1))
        (event,) = saver.finish()
    assert isinstance(event, Checkpoint) and weights(shelf, 1) == [1.0] * 64


def test_sigterm_to_the_writer_is_not_for_it(shelf: Shelf, saver: Saver) -> None:
    """The rank is told to stop, or a whole process group is: that is when a checkpoint matters most."""
    saver.save(state_of(1.0), shelf.facts(1))
    saver.finish()
    with no_commit(shelf):
        saver.save(state_of(2.0), shelf.facts(2))
        wait_for_draft(shelf)
        assert saver.writer_pid is not None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(saver.writer_pid, number)
    assert isinstance(saver.finish()[0], Checkpoint)


def test_a_writer_dies_with_its_rank_and_gives_the_lock_back(shelf: Shelf) -> None:
    """The rank is killed in the middle of a save: the next one must find neither a process nor a held lock."""
    kill_a_leader_in_mid_save(shelf)
    Fence(shelf.volume.job_dir, Holder("uid", 2)).claim()
    assert shelf.volume.steps() == (1,)


def test_the_writer_knows_no_torch(shelf: Shelf, saver: Saver) -> None:
    saver.save(state_of(1.0), shelf.facts(1))
    saver.finish()
    maps = Path(f"/proc/{saver.writer_pid}/maps").read_text()
    assert "libtorch" not in maps
    assert "numpy" not in maps


def test_nothing_is_left_of_a_closed_saver(shelf: Shelf, saver_of: MakeSaver) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(1, 4):
        saver = saver_of(shelf)
        saver.save(state_of(1.0), shelf.facts(number))
        pid = saver.writer_pid
        saver.close()
        assert pid is not None
        assert not running(pid)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def training_state() -> dict[str, Any]:
    return {"model": {"w": torch.ones(64)}, "optimizer": {"m": torch.ones(5_000_000)}}


def saved(shelf: Shelf, step: int) -> tuple[float, float]:
    state = assemble(verify(shelf.volume.path(step), step, shelf.expected).files)
    return float(state["model"]["w"].min()), float(state["optimizer"]["m"].min())


def test_what_only_an_update_changes_is_copied_beside_the_next_step(shelf: Shelf, saver_of: MakeSaver) -> None:
    """The weights may change at once, the optimizer's state when the copy is settled; what arrives is of one moment."""
    saver, live = saver_of(shelf, quiet={"optimizer"}), training_state()
    assert saver.save(live, shelf.facts(1)) == []
    assert saver.busy, "no other save begins meanwhile"
    live["model"]["w"].fill_(9.0)
    assert saver.settle_copy() == []
    live["optimizer"]["m"].fill_(9.0)
    (event,) = saver.finish()
    assert (event.step, saved(shelf, 1)) == (1, (1.0, 1.0))


def test_a_save_is_finished_without_a_next_step(shelf: Shelf, saver_of: MakeSaver) -> None:
    saver = saver_of(shelf, quiet={"optimizer"})
    saver.save(training_state(), shelf.facts(1))
    (event,) = saver.finish()
    assert (event.step, saved(shelf, 1)) == (1, (1.0, 1.0))


def test_a_task_that_changes_the_optimizer_too_early_is_told_and_its_torn_copy_is_not_saved(
    shelf: Shelf, saver_of: MakeSaver
) -> None:
    saver, live = saver_of(shelf, quiet={"optimizer"}), training_state()
    saver.save(live, shelf.facts(1))
    live["optimizer"]["m"].fill_(9.0)
    (problem,) = saver.settle_copy()
    assert (problem.step, problem.reason) == (1, "StateChanged")
    assert shelf.volume.steps() == ()
    saver.save(live, shelf.facts(2))
    live["optimizer"]["m"].fill_(5.0)
    (event,) = saver.finish()
    assert (event.step, saved(shelf, 2)) == (2, (1.0, 9.0)), "from now on everything is copied at once"


def test_a_rank_that_leads_no_more_lets_go_in_the_middle_of_a_copy(shelf: Shelf, saver_of: MakeSaver) -> None:
    saver = saver_of(shelf, quiet={"optimizer"})
    saver.save(training_state(), shelf.facts(1))
    saver.close()
    assert saver.finish() == []
    assert shelf.volume.steps() == ()
