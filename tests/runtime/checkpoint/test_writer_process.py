"""The process that writes, killed at every point of a commit."""

from __future__ import annotations

import errno
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from disttrain_contract.messages import Checkpoint, CheckpointProblem
from disttrain_runtime.checkpoint import writer_process
from disttrain_runtime.checkpoint.block import Block
from disttrain_runtime.checkpoint.fence import Fence, Holder
from disttrain_runtime.checkpoint.manifest import RejectedError, decode
from disttrain_runtime.checkpoint.save_request import SaveRequest, receive
from disttrain_runtime.checkpoint.snapshot import File, Snapshot
from disttrain_runtime.checkpoint.volume import Folder, Volume
from disttrain_runtime.checkpoint.writer import write
from disttrain_runtime.checkpoint.writer_process import WriterDiedError, WriterProcess
from support.faulty_writer import Plan
from support.shelf import Shelf

FEWEST = 30
"""A commit with its retention has at least that many calls to die at."""


def request_of(job_dir: Path, step: int, incarnation: int) -> SaveRequest:
    """What the leader of that incarnation asks, once it has claimed the volume."""
    volume, fence = Volume(job_dir), Fence(job_dir, Holder("uid", incarnation))
    volume.create()
    fence.claim()
    block = Block.make(1000)
    block.map[:] = bytes([step]) * 1000
    files = {"structure.json": File(b"{}"), "model.safetensors": File(b"header", block)}
    return SaveRequest(
        job_dir=job_dir,
        holder=fence.holder,
        claimant=fence.claimant,
        keep=1,
        rejected=(),
        began=time.monotonic(),
        facts=Shelf(volume, fence).facts(step),
        snapshot=Snapshot(files),
    )


def save(job_dir: Path, step: int, incarnation: int) -> Checkpoint | CheckpointProblem | None:
    """By a process of its own; None: it died."""
    process = WriterProcess()
    try:
        process.ask(request_of(job_dir, step, incarnation))
        answer = process.answer()
    except WriterDiedError:
        return None
    finally:
        process.close()
    assert isinstance(answer, Checkpoint | CheckpointProblem)
    return answer


def good(volume: Volume) -> list[int]:
    """The steps whose manifest verifies and whose files are what it says, by reading every byte."""
    found = []
    for step in volume.steps():
        try:
            with Folder(volume.path(step)) as folder:
                manifest, _ = decode(folder.read("manifest.json"))
                contents = {e.name: folder.read(e.name, size=e.bytes) for e in manifest.files}
        except RejectedError:
            continue
        assert contents == {"structure.json": b"{}", "model.safetensors": b"header" + bytes([step]) * 1000}
        found.append(step)
    return found


@pytest.mark.parametrize("fault", ["kill", "power"])
def test_a_writer_may_die_at_any_call_of_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """SIGKILL, or the power goes and takes along what was not flushed: contents and renames. Afterwards the old checkpoint is
    there or the new one, whole. The folder of a step is never a torn one, but for one thing: of a folder that was being
    deleted behind the new one, the name may come back. The next incarnation saves as if nothing was."""
    outcomes, came_back = [], set[int]()
    for at in range(1, 200):
        job_dir = tmp_path / f"job-{at}"
        first = request_of(job_dir, 1, incarnation=1)
        write(Volume(job_dir), first.fence, first.snapshot, first.facts)
        with monkeypatch.context() as patch:
            patch.setattr(writer_process, "PROGRAM", Plan(at=at, fault=fault).program())
            through = save(job_dir, 2, incarnation=2) is not None
        volume = Volume(job_dir)
        torn = set(volume.steps()) - set(good(volume))
        assert torn <= ({1} if fault == "power" and 2 in good(volume) else set()), f"torn at call {at}: {torn}"
        came_back |= torn
        outcomes.append(max(good(volume)))
        assert isinstance(save(job_dir, 3, incarnation=3), Checkpoint), f"after call {at}"
        assert [path.name for path in volume.checkpoints.iterdir()] == ["step-00000003"], f"after call {at}"
        if through:
            break
    assert through
    assert outcomes == sorted(outcomes), "first the old one, from the rename on the new one"
    assert set(outcomes) == {1, 2}
    assert len(outcomes) > FEWEST
    assert came_back == ({1} if fault == "power" else set()), "renames are lost in this story"


def test_an_error_ends_the_save_and_not_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = WriterProcess()
    with monkeypatch.context() as patch:
        patch.setattr(writer_process, "PROGRAM", Plan(at=8, fault=str(errno.EIO)).program())
        process.ask(request_of(tmp_path, 1, incarnation=1))
    pid, problem = process.pid, process.answer()
    assert isinstance(problem, CheckpointProblem)
    assert (problem.step, problem.reason) == (1, "IOError")
    process.ask(request_of(tmp_path, 2, incarnation=2))
    assert isinstance(process.answer(), Checkpoint)
    assert process.pid == pid
    assert good(Volume(tmp_path)) == [2]
    process.close()


def test_a_request_arrives_as_it_was_sent(tmp_path: Path) -> None:
    sent = request_of(tmp_path, 7, incarnation=1)
    ours, theirs = socket.socketpair()
    sender = threading.Thread(target=lambda: (sent.send(ours), ours.close()))
    sender.start()
    got = receive(theirs)
    assert got is not None
    assert receive(theirs) is None, "the rank is gone"
    sender.join()
    theirs.close()
    assert replace(got, snapshot=sent.snapshot) == sent
    assert [(name, *map(bytes, file.parts)) for name, file in got.snapshot.files.items()] == [
        (name, *map(bytes, file.parts)) for name, file in sent.snapshot.files.items()
    ]
