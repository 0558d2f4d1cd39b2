"""A kernel that takes the warm parent must not make every later failure look like a lack of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from disttrain_runtime.agent.cgroup import MemoryGroup
from disttrain_runtime.agent.oom import OomKills


class Kernel:
    def __init__(self, folder: Path) -> None:
        self.group = MemoryGroup(folder / "events", folder / "limit")
        self.count = 3
        self.kill(0)

    def kill(self, times: int = 1) -> None:
        self.count += times
        self.group.events.write_text(f"under_oom 0\noom_kill {self.count}\n")


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_a_rank_that_is_killed_is_counted(kernel: Kernel) -> None:
    kills = OomKills(kernel.group)
    kernel.kill()
    assert kills.of_ranks() == 1


def test_the_parent_alone_is_nobodys_failure(kernel: Kernel) -> None:
    kills = OomKills(kernel.group)
    kernel.kill()
    kills.excuse()
    assert kills.of_ranks() == 0


def test_both_at_once_is_a_lack_of_memory(kernel: Kernel) -> None:
    kills = OomKills(kernel.group)
    kernel.kill(2)
    kills.excuse()
    assert kills.of_ranks() == 1


def test_a_parent_that_somebody_else_killed_excuses_nothing(kernel: Kernel) -> None:
    kills = OomKills(kernel.group)
    kills.excuse()
    kernel.kill()
    assert kills.of_ranks() == 1


def test_new_ranks_start_from_nothing(kernel: Kernel) -> None:
    kills = OomKills(kernel.group)
    kernel.kill(2)
    kills.excuse()
    kills.begin()
    assert kills.of_ranks() == 0
    kernel.kill()
    assert kills.of_ranks() == 1
