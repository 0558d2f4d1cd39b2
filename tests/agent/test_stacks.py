"""Stacks of real processes: of one that sleeps, one that is stopped, one that knows nothing of us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.agent.harness import ROOT, until

from disttrain_contract.env import PULSE
from disttrain_contract.stall import Phase
from disttrain_runtime.agent import main_thread, stacks
from disttrain_runtime.agent.board import Board
from disttrain_runtime.agent.hang_story import main_frames

OURS = """
import os, threading, time
from disttrain_runtime.pulse import Phase, Pulse
pulse = Pulse.from_env(os.environ)
def another(): time.sleep(100)
def inner(): time.sleep(100)
def outer(): inner()
threading.Thread(target=another, daemon=True).start()
pulse.enter(Phase.FORWARD, 7)
outer()
"""
MUTE = """
import os, signal, time
from disttrain_runtime.pulse import Phase, Pulse
pulse = Pulse.from_env(os.environ)
signal.signal(signal.SIGUSR1, lambda *_: None)
pulse.enter(Phase.FORWARD, 7)
time.sleep(100)
"""
SCRIPT = "import time\nprint('up', flush=True)\ntime.sleep(100)"


@dataclass
class Rank:
    process: subprocess.Popen[bytes]
    board: Board

    @property
    def pid(self) -> int:
        return self.process.pid


@pytest.fixture
def start() -> Iterator[Callable[[str], Rank]]:
    ranks: list[Rank] = []

    def begin(program: str) -> Rank:
        board = Board()
        environment = os.environ | {PULSE: board.path, "PYTHONPATH": str(ROOT / "trainer_image")}
        ranks.append(Rank(subprocess.Popen([sys.executable, "-c", program], env=environment), board))
        return ranks[-1]

    yield begin
    for rank in ranks:
        rank.process.kill()
        rank.process.wait()
        rank.board.close()


@pytest.fixture(autouse=True)
def no_spy(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine may have one; stories say when they count on it."""
    monkeypatch.setattr(stacks.shutil, "which", lambda _: None)


def arrived(rank: Rank) -> bool:
    beat = rank.board.beat()
    return beat is not None and (beat.step, beat.phase) == (7, Phase.FORWARD)


async def test_a_rank_writes_the_stacks_of_all_its_threads(start: Callable[[str], Rank]) -> None:
    rank = start(OURS)
    await until(lambda: arrived(rank))
    for _ in range(2):  # the second time the first is forgotten
        (text,) = (await stacks.take([rank])).values()
        assert text.count(" in another\n") == 1
        assert [line.rsplit(" ", 1)[1] for line in main_frames(text)] == ["<module>", "outer", "inner"]


async def test_a_stopped_rank_cannot_answer_and_that_is_said(start: Callable[[str], Rank]) -> None:
    rank = start(OURS)
    await until(lambda: arrived(rank))
    os.kill(rank.pid, signal.SIGSTOP)
    await until(lambda: (seen := main_thread.look(rank.pid)) is not None and seen.state == "T")
    assert await stacks.take([rank]) == {rank.pid: "stopped (state T): it cannot answer"}


async def test_a_rank_whose_program_took_the_signal_for_itself_is_described_by_the_kernel(
    start: Callable[[str], Rank],
) -> None:
    rank = start(MUTE)
    await until(lambda: arrived(rank))
    (text,) = (await stacks.take([rank])).values()
    assert text.startswith("no Python stack: state S")


async def test_a_script_is_never_sent_a_signal_that_would_end_it(start: Callable[[str], Rank]) -> None:
    rank = start(SCRIPT)
    await until(lambda: (seen := main_thread.look(rank.pid)) is not None and seen.state == "S")
    (text,) = (await stacks.take([rank])).values()
    assert text.startswith("no Python stack") and rank.board.beat() is None
    assert rank.process.poll() is None


async def test_py_spy_is_asked_where_there_is_one(
    start: Callable[[str], Rank], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = tmp_path / "py-spy"
    spy.write_text('#!/bin/sh\necho "Thread 1 (idle): \\"MainThread\\""\necho "    main (train.py:12)"\n')
    spy.chmod(0o755)
    monkeypatch.setattr(stacks.shutil, "which", lambda _: str(spy))
    rank = start(SCRIPT)
    await until(lambda: (seen := main_thread.look(rank.pid)) is not None and seen.state == "S")
    (text,) = (await stacks.take([rank])).values()
    assert main_frames(text) == ["    main (train.py:12)"]


async def test_the_stack_of_a_rank_that_died_meanwhile_is_not_missed(start: Callable[[str], Rank]) -> None:
    rank = start("")
    rank.process.wait()
    assert await stacks.take([rank]) == {rank.pid: "the process is gone"}
