"""Commits: whole or not at all, whatever happens in between."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from disttrain_contract.paths import MANIFEST
from disttrain_runtime.checkpoint.block import Block
from disttrain_runtime.checkpoint.fence import Fence, Holder
from disttrain_runtime.checkpoint.manifest import Fingerprint, ParameterShape, RejectedError, Sampling, decode
from disttrain_runtime.checkpoint.snapshot import File, Snapshot
from disttrain_runtime.checkpoint.volume import Folder, Volume
from disttrain_runtime.checkpoint.writer import Facts, explain, reason, retire, write
from disttrain_runtime.errors import FencedError

CHANGES = ("write", "fsync", "mkdir", "rename", "replace", "rmdir", "unlink")
"""The calls by which a commit changes the disk."""


class Crash(BaseException):
    """The power is gone: no handler runs that expects an Exception."""


def facts(step: int) -> Facts:
    return Facts(
        job="mnist", step=step, world_size=1, epoch=0, position=0, sampling=Sampling(seed=0, randomness="r", samples=9, batch_size=1),
        fingerprint=Fingerprint(parameters=(ParameterShape("w", "float32", (1,)),), optimizer="o"),
    )  # fmt: skip


def snapshot(step: int) -> Snapshot:
    block = Block.make(100)
    block.map[:] = bytes([step]) * 100
    return Snapshot({"structure.json": File(b"{}"), "model.safetensors": File(b"header", block)})


def opened(job_dir: Path, incarnation: int = 1) -> tuple[Volume, Fence]:
    volume, fence = Volume(job_dir), Fence(job_dir, Holder("uid", incarnation))
    volume.create()
    fence.claim()
    return volume, fence


def newest_good(volume: Volume) -> int:
    """The newest step whose manifest and files are whole, by reading them."""
    for step in volume.steps():
        try:
            with Folder(volume.path(step)) as folder:
                manifest, _ = decode(folder.read(MANIFEST))
                assert all(len(folder.read(e.name, size=e.bytes)) == e.bytes for e in manifest.files)
                assert folder.read("model.safetensors") == b"header" + bytes([step]) * 100
                return step
        except RejectedError:
            continue
    return 0


def test_a_commit_can_be_read_back(tmp_path: Path) -> None:
    volume, fence = opened(tmp_path / "mnist")
    committed = write(volume, fence, snapshot(10), facts(10))
    assert committed.path == tmp_path / "mnist" / "checkpoints" / "step-00000010"
    assert committed.bytes == sum(f.stat().st_size for f in committed.path.iterdir())
    assert newest_good(volume) == 10
    assert sorted(p.name for p in volume.checkpoints.iterdir()) == ["step-00000010"], "no draft is left"


class Failing:
    """Makes the n-th change to the disk go wrong, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, error: Callable[[], BaseException]) -> None:
        self.count, self.at, self.error = 0, at, error
        for name in CHANGES:
            monkeypatch.setattr(os, name, self._watched(getattr(os, name)))

    def _watched(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                raise self.error()
            return real(*args, **kwargs)

        return call


def commits_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, error: Callable[[], BaseException]
) -> tuple[Volume, Failing, bool]:
    """Commit step 1 in peace, then step 2 with a fault at the given change. True: the second write came to its end."""
    volume, fence = opened(tmp_path / f"job-{at}")
    write(volume, fence, snapshot(1), facts(1))
    with monkeypatch.context() as patch:
        failing = Failing(patch, at, error)
        try:
            write(volume, fence, snapshot(2), facts(2))
            retire(volume, fence, 2, (), keep=1)
        except (Crash, OSError):
            return volume, failing, False
        return volume, failing, True


def test_a_crash_at_any_change_to_the_disk_leaves_the_old_or_the_new_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = []
    for at in range(1, 200):
        volume, failing, through = commits_of(tmp_path, monkeypatch, at, Crash)
        outcomes.append(newest_good(volume))
        successor, fence = opened(volume.job_dir, incarnation=2)
        successor.sweep()
        write(successor, fence, snapshot(3), facts(3))
        assert newest_good(successor) == 3, f"after a crash at change {at} the next incarnation can commit"
        assert all(p.name.startswith("step-") for p in successor.checkpoints.iterdir())
        if failing.count < at:
            break
    assert through
    assert outcomes == sorted(outcomes), "first the old one, from some change on the new one"
    assert set(outcomes) == {1, 2}
    assert len(outcomes) > 12, "there are that many places to crash at"


def test_an_error_at_any_change_to_the_disk_is_reported_or_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(1, 200):
        volume, failing, through = commits_of(
            tmp_path, monkeypatch, at, lambda: OSError(errno.EIO, "Input/output error")
        )
        assert newest_good(volume) == (2 if through else 1), (
            f"change {at}: what was reported as lost is gone, and nothing else"
        )
        assert not list(volume.checkpoints.glob(".writing-*")), "no draft is left"
        if failing.count < at:
            return
    raise AssertionError("a commit has fewer changes than that")


def test_fsync_is_never_tried_a_second_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed fsync the kernel may call the next one a success although the data is gone."""
    volume, fence = opened(tmp_path / "mnist")
    synced: list[int] = []

    def failing(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="Input/output"):
        write(volume, fence, snapshot(2), facts(2))
    assert len(synced) == 1
    assert volume.steps() == ()


def test_a_fenced_incarnation_cannot_commit_and_cleans_up(tmp_path: Path) -> None:
    volume, old = opened(tmp_path / "mnist")
    opened(tmp_path / "mnist", incarnation=2)
    with pytest.raises(FencedError):
        write(volume, old, snapshot(5), facts(5))
    assert list(volume.checkpoints.iterdir()) == []


def test_what_stands_in_the_way_is_replaced(tmp_path: Path) -> None:
    volume, fence = opened(tmp_path / "mnist")
    volume.path(5).mkdir()
    (volume.path(5) / "half").write_bytes(b"x")
    write(volume, fence, snapshot(5), facts(5))
    volume.path(6).symlink_to("/etc")
    write(volume, fence, snapshot(6), facts(6))
    assert newest_good(volume) == 6
    assert Path("/etc/passwd").exists()


def test_retention_runs_after_the_commit_and_forgives_what_cannot_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, fence = opened(tmp_path / "mnist")
    for step in (1, 2, 3, 4):
        write(volume, fence, snapshot(step), facts(step))
    monkeypatch.setattr(os, "rename", lambda *_a, **_k: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    retire(volume, fence, 4, (), keep=2)
    assert volume.steps() == (4, 3, 2, 1)
    monkeypatch.undo()
    retire(volume, fence, 4, (), keep=2)
    assert volume.steps() == (4, 3)


def test_an_overtaken_writer_cleans_nothing_up(tmp_path: Path) -> None:
    """It was stopped between its commit and its clean-up. What it committed turned out to be damaged, so the next incarnation
    went on from an older one: the only ones that are good now are those that the old writer thinks it may delete."""
    volume, old = opened(tmp_path / "mnist")
    for step in (10, 30):
        write(volume, old, snapshot(step), facts(step))
    successor, new = opened(tmp_path / "mnist", incarnation=2)
    write(successor, new, snapshot(20), facts(20))
    retire(volume, old, 30, (), keep=1)
    assert volume.steps() == (30, 20, 10)
    retire(successor, new, 20, {30}, keep=1)
    assert volume.steps() == (30, 20), "the owner's clean-up is its own business"


def test_a_clean_up_that_has_begun_is_over_for_whoever_reads_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim waits for the names to go, and no longer: who reads never finds a folder that is half deleted, and need not wait
    for gigabytes to be deleted either."""
    volume, fence = opened(tmp_path / "mnist")
    for step in (10, 20, 30):
        write(volume, fence, snapshot(step), facts(step))
    seen: list[tuple[int, ...]] = []
    real = shutil.rmtree

    def slowly(path: Path) -> None:
        opened(tmp_path / "mnist", incarnation=2)
        seen.append(volume.steps())
        real(path)

    monkeypatch.setattr(shutil, "rmtree", slowly)
    retire(volume, fence, 30, (), keep=1)
    assert seen == [(30,), (30,)]
    assert [path.name for path in volume.checkpoints.iterdir()] == ["step-00000030"]


@pytest.mark.parametrize(
    ("number", "name", "advice"),
    [
        (errno.ENOSPC, "DiskFull", "enlarge the claim or lower checkpoint.keep"),
        (errno.EDQUOT, "DiskFull", "the quota of the checkpoint volume is used up"),
        (errno.EROFS, "ReadOnly", "access mode"),
        (errno.EACCES, "ReadOnly", "fsGroup"),
        (errno.EIO, "IOError", "storage behind the claim"),
    ],
)
def test_each_error_has_a_reason_and_a_remedy(tmp_path: Path, number: int, name: str, advice: str) -> None:
    error = OSError(number, os.strerror(number))
    assert reason(error) == name
    assert advice in explain(error, Volume(tmp_path))
