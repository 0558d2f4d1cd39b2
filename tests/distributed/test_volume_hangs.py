"""A real file system that answers no write any more, so that the kernel itself cannot kill who waits for it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.distributed.test_regroup import holding
from tests.distributed.test_volume_faults import TASK

from disttrain_contract.messages import CheckpointProblem, Restore
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


def state(pid: int | None) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def until_it_waits_for_the_disk(pid: int | None) -> None:
    end = time.monotonic() + DEADLINE
    while state(pid) != "D":
        assert time.monotonic() < end
        time.sleep(0.005)


def hanging(folder: Path, disk: HangingDisk) -> Ranks:
    """The disk hangs in step 7; rank 0, which writes the lines of the metrics itself, waits for it, and rank 1 for rank 0."""
    door = Door(folder, at=7)
    config = replace(TASK, args=(*TASK.args, "--norm=false", f"--doors={folder}", "--at=[7]"))
    ranks = Ranks(folder / "logs", config, 2, job_dir=disk.path / "job", regroups=True)
    door.arrive()
    disk.freeze()
    door.open()
    until_it_waits_for_the_disk(ranks.processes[0].pid)
    return ranks


def test_training_waits_for_a_volume_that_hangs_and_goes_on_when_it_answers(tmp_path: Path, disk: HangingDisk) -> None:
    with hanging(tmp_path, disk) as ranks:
        disk.thaw()
        assert ranks.ended() == [0, 0], ranks.output()
    assert ranks.told.of(CheckpointProblem) == []
    assert [c.step for c in ranks.told.checkpoints] == [5, 10, 15, 20, 24]


def test_a_rank_that_the_kernel_cannot_kill_dies_when_the_volume_answers_and_the_other_goes_on(
    tmp_path: Path, disk: HangingDisk
) -> None:
    with hanging(tmp_path, disk) as ranks:
        rank = ranks.processes[0]
        os.kill(rank.pid, signal.SIGKILL)
        rank.join(0.3)
        assert rank.is_alive() and state(rank.pid) == "D", "killed, and not dead"
        disk.thaw()
        rank.join(DEADLINE)
        holding(ranks, 1)
        ranks.regroup(incarnation=2)
        assert ranks.ended() == [0, 0], ranks.output(1)
    assert ranks.told.restores[-1] == Restore(step=8, source="survivor")
    assert [c.step for c in ranks.told.checkpoints][-1] == 24
