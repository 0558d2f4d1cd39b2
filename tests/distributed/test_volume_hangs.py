"""A real file system that answers no write any more, so that the kernel itself cannot kill who waits for it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.distributed.test_regroup import holding
from tests.distributed.test_volume_faults import TASK

from disttrain_contract.env import CheckpointConfig
from disttrain_contract.messages import Restore
from disttrain_contract.paths import METRICS
from disttrain_runtime.history import decode
from support.gloo_ranks import DEADLINE, Door, Ranks

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]


class HangingDisk:
    """An ext4 of its own in a file. While it is frozen, every write waits in state D, as behind a network that is gone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        image = path.with_suffix(".img")
        image.touch()
        os.truncate(image, 16 << 20)
        path.mkdir()
        for command in (["mkfs.ext4", "-q", "-F", str(image)], ["mount", "-o", "loop", str(image), str(path)]):
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            if made.returncode:
                pytest.skip(f"a file system of its own needs more rights: {made.stderr.strip()}")

    def freeze(self) -> None:
        subprocess.run(["fsfreeze", "--freeze", str(self.path)], check=True)

    def thaw(self) -> None:
        subprocess.run(["fsfreeze", "--unfreeze", str(self.path)], check=False, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[HangingDisk]:
    made = HangingDisk(tmp_path / "disk")
    yield made
    made.thaw()  # or whoever waits for it outlives us
    subprocess.run(["umount", "--lazy", str(made.path)], check=True)


def states(pid: int | None) -> set[str]:
    """Of its threads."""
    return {stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")}


def until_it_waits_for_the_disk(pid: int | None) -> None:
    end = time.monotonic() + DEADLINE
    while "D" not in states(pid):
        assert time.monotonic() < end
        time.sleep(0.005)


@contextmanager
def hanging(folder: Path, disk: HangingDisk, *later: int) -> Iterator[Ranks]:
    """The disk hangs in step 7; a thread of rank 0, which writes the lines of the metrics, waits for it.
    `later`: steps with a door of their own."""
    door = Door(folder, at=7)
    config = replace(
        TASK, args=(*TASK.args, "--norm=false", f"--doors={folder}", f"--at={[7, *later]}"),
        checkpoint=CheckpointConfig(every_steps=5, keep=2),
    )  # fmt: skip
    with Ranks(folder / "logs", config, 2, job_dir=disk.path / "job", regroups=True) as ranks:
        try:
            door.arrive()
            disk.freeze()
            door.open()
            until_it_waits_for_the_disk(ranks.processes[0].pid)
            yield ranks
        finally:
            disk.thaw()  # nobody who waits for it can be ended


def test_training_goes_on_while_the_volume_hangs_and_saves_again_when_it_answers(
    tmp_path: Path, disk: HangingDisk
) -> None:
    second = Door(tmp_path, at=18)
    with hanging(tmp_path, disk, 18) as ranks:
        second.arrive()  # eleven steps on, two saves of which could not be made
        assert all(c.step <= 5 for c in ranks.told.checkpoints)
        disk.thaw()
        second.open()
        assert ranks.ended() == [0, 0], ranks.output()
    assert [c.step for c in ranks.told.checkpoints][-1] == 24
    lines = decode((disk.path / "job" / METRICS).read_bytes())
    assert [line.step for line in lines if line.kind == "training"] == list(range(1, 25)), (
        "none is missing, none is there twice"
    )


def test_a_rank_that_the_kernel_cannot_kill_dies_when_the_volume_answers_and_the_other_goes_on(
    tmp_path: Path, disk: HangingDisk
) -> None:
    second = Door(tmp_path, at=9)
    with hanging(tmp_path, disk, 9) as ranks:
        second.arrive()
        rank = ranks.processes[0]
        os.kill(rank.pid, signal.SIGKILL)
        rank.join(0.3)
        assert rank.is_alive() and "D" in states(rank.pid), "killed, and not dead"
        disk.thaw()
        rank.join(DEADLINE)
        second.open()
        holding(ranks, 1)
        ranks.regroup(incarnation=2)
        assert ranks.ended() == [0, 0], ranks.output(1)
    assert ranks.told.restores[-1] == Restore(step=9, source="survivor")
    assert [c.step for c in ranks.told.checkpoints][-1] == 24
