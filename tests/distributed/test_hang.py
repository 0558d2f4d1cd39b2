"""Whole agents with real groups of three ranks: one hangs, and the right one is found, shown and ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.agent.harness import AgentProcess, children, until

from disttrain_contract.env import CheckpointConfig, RunConfig
from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import AgentState, Failure
from disttrain_contract.stall import Phase

pytestmark = [pytest.mark.torch, pytest.mark.timeout(180)]

Start = Callable[..., AgentProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """An agent that no operator has to tell what to do."""
    agents: list[AgentProcess] = []

    def begin(*args: str) -> AgentProcess:
        run = RunConfig(
            entrypoint="support.faulty_tasks:build", args=args, processes_per_worker=3, grace_seconds=6.0,
            checkpoint=CheckpointConfig(every_steps=10_000),
        )  # fmt: skip
        agents.append(AgentProcess(tmp_path, run, volume=tmp_path / "volume").start())
        return agents[-1]

    yield begin
    for agent in agents:
        agent.cleanup()


async def failure_of(agent: AgentProcess) -> Failure:
    """How it ended."""
    await until(lambda: "failed: " in agent.output, "a failure", seconds=90)
    assert await agent.ended() == 137, agent.output
    words = agent.last_words
    assert words.state is AgentState.FAILED and words.failure is not None, agent.output
    assert words.failure.failure_class is FailureClass.HANG, agent.output
    return words.failure


def rank_processes(agent: AgentProcess) -> list[int]:
    """Their process numbers, in the order of their ranks: they were forked one after the other."""
    return sorted(p for p in children(agent.pid) if b"warm_parent" not in Path(f"/proc/{p}/cmdline").read_bytes())


def stacks(tmp_path: Path) -> str:
    return (tmp_path / "volume" / "mnist" / "logs" / "incarnation-0001" / "stacks.txt").read_text()


@pytest.mark.parametrize(
    ("fault", "function"),
    [("holds", "hold_the_interpreter"), ("loops", "loop_for_ever"), ("sleeps", "sleep_for_ever")],
)
async def test_the_rank_that_hangs_is_named_with_the_line_it_hangs_in(
    start: Start, tmp_path: Path, fault: str, function: str
) -> None:
    failure = await failure_of(start(f"--fault={fault}"))
    assert (failure.rank, failure.step) == (1, 30)
    assert failure.stall is not None and failure.stall.phase is Phase.FORWARD
    assert f"in {function} (faulty_tasks.py:" in failure.message
    assert failure.traceback.splitlines()[-1].endswith(f"in {function}")
    text = stacks(tmp_path)
    assert text.startswith("rank 1: hung after step 30") and "---- rank 0\n" in text and "---- rank 2\n" in text
    assert text.count("_engine_run_backward") == 2, "where the other two wait for it"


async def test_a_stopped_rank_is_named_and_the_ranks_that_wait_for_it_are_not(start: Start, tmp_path: Path) -> None:
    agent = start("--pause=0.01")
    await until(lambda: "] step 1/" in agent.output, "the first step", seconds=90)
    time.sleep(1.0)  # some steps: the first few are given more time
    os.kill(rank_processes(agent)[2], signal.SIGSTOP)
    failure = await failure_of(agent)
    assert failure.rank == 2 and failure.stall is not None and failure.stall.stopped
    assert "stopped (state T)" in failure.message
    assert "---- rank 2\n" in stacks(tmp_path), "py-spy's, or why there is none"


async def test_a_rank_that_computes_where_others_wait_for_it_is_named(start: Start) -> None:
    """All three are in their backward pass; one of them is busy."""
    failure = await failure_of(start("--fault=backward", "--rank=2"))
    assert failure.rank == 2 and failure.stall is not None and failure.stall.busy
    assert failure.stall.phase is Phase.BACKWARD and "in loop_for_ever" in failure.message


async def test_a_rank_that_is_stopped_for_a_second_goes_on(start: Start) -> None:
    agent = start("--steps=400", "--pause=0.01")
    await until(lambda: "] step 1/" in agent.output, "the first step", seconds=90)
    rank = rank_processes(agent)[1]
    os.kill(rank, signal.SIGSTOP)
    time.sleep(1.0)
    os.kill(rank, signal.SIGCONT)
    await until(lambda: "leaving: " in agent.output, "the end", seconds=90)
    assert await agent.ended() == 0, agent.output
