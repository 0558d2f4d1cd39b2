"""Real file systems that are full, too small, read-only or gone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from disttrain_contract.env import CheckpointConfig, RunConfig
from disttrain_contract.messages import CheckpointProblem
from support.gloo_ranks import USER, Door, Ranks, writer_of, writers_of

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]

TASK = RunConfig(
    entrypoint="support.gloo_tasks:build",
    args=("--steps=24",),
    checkpoint=CheckpointConfig(every_steps=5, keep=2, asynchronous=False),
)


class SmallDisk:
    """A file system of its own in memory, with a fixed size."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=512k,nr_inodes=64", "tmpfs", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            pytest.skip(f"mounting needs more rights: {made.stderr.strip()}")

    def fill(self) -> None:
        """Not one byte is left."""
        with (self.path / "filler").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass

    def use_up_inodes(self) -> None:
        """There is room, but not for one more name."""
        (self.path / "filler").mkdir()
        try:
            for number in range(1000):
                (self.path / "filler" / str(number)).touch()
        except OSError:
            pass

    def vanish(self) -> None:
        """As when the volume is detached under the pod: where it was, there is an empty folder."""
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)

    def make_room(self) -> None:
        shutil.rmtree(self.path / "filler") if (self.path / "filler").is_dir() else (self.path / "filler").unlink()

    def read_only(self) -> None:
        """A view of itself over it: like a disk that fails, and unlike a remount, it does not wait for open files."""
        for options in (["--bind", str(self.path)], ["-o", "remount,bind,ro"]):
            subprocess.run(["mount", *options, str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    small = SmallDisk(tmp_path / "disk")
    yield small
    while small.path.is_mount():  # a view may lie over it
        subprocess.run(["umount", "--lazy", str(small.path)], check=True)


@pytest.mark.parametrize(
    ("fill", "words"),
    [
        (SmallDisk.fill, "the checkpoint volume is full (0.0 MB free"),
        (SmallDisk.use_up_inodes, "the checkpoint volume is full (no inode free"),
    ],
)
def test_training_goes_on_while_the_disk_is_full_and_saves_again_when_there_is_room(
    tmp_path: Path, disk: SmallDisk, fill: Callable[[SmallDisk], None], words: str
) -> None:
    full, room = Door(tmp_path, at=7), Door(tmp_path, at=12)
    config = replace(TASK, args=(*TASK.args, f"--doors={tmp_path}", "--at=[7,12]"))
    with Ranks(tmp_path / "logs", config, 2, job_dir=disk.path / "job") as ranks:
        full.arrive()
        fill(disk)
        full.open()
        room.arrive()
        disk.make_room()
        room.open()
        assert ranks.ended() == [0, 0], ranks.output()
    (problem,) = ranks.told.of(CheckpointProblem)
    assert (problem.step, problem.reason) == (10, "DiskFull")
    assert words in problem.message and "enlarge the claim" in problem.message
    assert [c.step for c in ranks.told.checkpoints] == [5, 15, 20, 24]
    assert sorted(p.name for p in (disk.path / "job" / "checkpoints").iterdir()) == ["step-00000020", "step-00000024"]


def test_training_goes_on_when_the_process_that_writes_is_killed(tmp_path: Path) -> None:
    """As the kernel does when memory runs out: one save is lost, the next one is made by another process."""
    door = Door(tmp_path, at=7)
    config = replace(TASK, args=(*TASK.args, f"--doors={tmp_path}", "--at=[7]"))
    with Ranks(tmp_path / "logs", config, 2, job_dir=tmp_path / "job") as ranks:
        door.arrive()
        writer = writer_of(ranks.processes[0].pid)
        assert writers_of(ranks.processes[1].pid) == [], "only the rank that leads has one"
        os.kill(writer, signal.SIGKILL)
        door.open()
        assert ranks.ended() == [0, 0], ranks.output()
    (problem,) = ranks.told.of(CheckpointProblem)
    assert (problem.step, problem.reason) == (10, "WriterDied")
    assert [c.step for c in ranks.told.checkpoints] == [5, 15, 20, 24]


def test_a_result_that_cannot_be_saved_is_no_success(tmp_path: Path, disk: SmallDisk) -> None:
    full = Door(tmp_path, at=22)
    config = replace(TASK, args=(*TASK.args, f"--doors={tmp_path}", "--at=[22]"))
    with Ranks(tmp_path / "logs", config, 2, job_dir=disk.path / "job") as ranks:
        full.arrive()
        disk.fill()
        full.open()
        assert ranks.ended()[0] == 74
        failure = ranks.told.failure(0)
    assert failure.failure_class == "Storage"
    assert "training finished, but its result (step 24) could not be saved" in failure.message
    assert "goes on from step 20" in failure.message


def test_a_volume_that_becomes_read_only_is_named(tmp_path: Path, disk: SmallDisk) -> None:
    door = Door(tmp_path, at=7)
    config = replace(TASK, args=(*TASK.args, f"--doors={tmp_path}", "--at=[7]"))
    with Ranks(tmp_path / "logs", config, 2, job_dir=disk.path / "job") as ranks:
        door.arrive()
        disk.read_only()
        door.open()
        ranks.ended()
    assert {p.reason for p in ranks.told.of(CheckpointProblem)} == {"ReadOnly"}


def test_a_volume_that_is_detached_in_the_middle_is_named_and_the_result_is_no_success(
    tmp_path: Path, disk: SmallDisk
) -> None:
    door = Door(tmp_path, at=7)
    config = replace(TASK, args=(*TASK.args, f"--doors={tmp_path}", "--at=[7]"))
    with Ranks(tmp_path / "logs", config, 2, job_dir=disk.path / "job") as ranks:
        door.arrive()
        disk.vanish()
        door.open()
        assert ranks.ended()[0] == 74
    assert {p.reason for p in ranks.told.of(CheckpointProblem)} == {"IOError"}
    assert "its result (step 24) could not be saved" in ranks.told.failure(0).message
    assert list(disk.path.iterdir()) == [], "nothing is saved into the folder that was under the volume"


def test_a_volume_of_another_user_ends_the_job_early_with_the_advice(tmp_path: Path) -> None:
    """The volume belongs to root, and the rank is somebody else."""
    if os.geteuid():
        pytest.skip("only root can be somebody else")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # everybody may look
        with Ranks(tmp_path / "logs", TASK, 1, job_dir=Path(folder) / "job", env={USER: "65534"}) as ranks:
            assert ranks.ended() == [74], ranks.output()
        assert list(Path(folder).iterdir()) == []
    message = ranks.told.failure(0).message
    assert "read-only" in message and "Permission denied" in message and "fsGroup" in message


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (SmallDisk.read_only, "training was not started, because the checkpoint volume is read-only"),
        (SmallDisk.fill, "volume is full"),
    ],
)
def test_a_volume_that_cannot_be_written_at_the_start_ends_the_job_early(
    tmp_path: Path, disk: SmallDisk, spoil: object, words: str
) -> None:
    spoil(disk)  # type: ignore[operator]
    with Ranks(tmp_path / "logs", TASK, 2, job_dir=disk.path / "job") as ranks:
        assert ranks.ended()[0] == 74
    failure = ranks.told.failure(0)
    assert failure.failure_class == "Storage"
    assert words in failure.message
    assert ranks.told.failure(1).failure_class == "Network", "the other rank is only a victim"


def test_a_volume_that_is_no_directory_ends_the_job_early(tmp_path: Path) -> None:
    (tmp_path / "job").write_text("a file")
    with Ranks(tmp_path / "logs", TASK, 1, job_dir=tmp_path / "job") as ranks:
        assert ranks.ended() == [74]
    assert "check the storage behind the claim" in ranks.told.failure(0).message
