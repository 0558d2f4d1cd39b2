"""Whole agents with real groups of three ranks: one hangs, and the right one is found, shown and ended."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.agent.harness import AgentProcess, until
from tests.channel.rig import Rig

from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import AgentState, Failure
from disttrain_contract.stall import Phase
from support.whole_agents import UID, Start, assignment, dial, rank_processes, said

pytestmark = [pytest.mark.torch, pytest.mark.timeout(180)]


async def failure_of(agent: AgentProcess) -> Failure:
    """How it ended."""
    await until(lambda: "failed: " in agent.output, "a failure", seconds=90)
    assert await agent.ended() == 137, agent.output
    words = agent.last_words
    assert words.state is AgentState.FAILED and words.failure is not None, agent.output
    assert words.failure.failure_class is FailureClass.HANG, agent.output
    return words.failure


def loader_of(rank: int) -> int:
    """The process that fetches its batches: the rank's only child, as long as it is not rank 0."""
    found = [p for task in Path(f"/proc/{rank}/task").iterdir() for p in (task / "children").read_text().split()]
    (loader,) = map(int, found)
    return loader


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


async def test_a_rank_whose_loader_is_stuck_is_named(start: Start) -> None:
    """Without a limit of the job's own that takes a minute: the storage of the data may be slow."""
    agent = start("--loaders=1", "--pause=0.01", timeout=3.0)
    await until(lambda: "] step 1/" in agent.output, "the first step", seconds=90)
    os.kill(loader_of(rank_processes(agent)[2]), signal.SIGSTOP)
    failure = await failure_of(agent)
    assert failure.rank == 2 and failure.stall is not None and failure.stall.phase is Phase.LOADING


async def test_a_loader_that_is_killed_is_the_failure_of_its_rank(start: Start) -> None:
    agent = start("--loaders=1", "--pause=0.01")
    await until(lambda: "] step 1/" in agent.output, "the first step", seconds=90)
    loader = loader_of(rank_processes(agent)[1])
    os.kill(loader, signal.SIGKILL)
    await until(lambda: "failed: " in agent.output, "a failure", seconds=90)
    assert await agent.ended() == 1, agent.output
    failure = agent.last_words.failure
    assert failure is not None and (failure.rank, failure.failure_class) == (1, FailureClass.CODE)
    assert f"DataLoader worker (pid {loader}) is killed by signal: Killed" in failure.traceback


async def test_a_rank_that_is_stopped_for_a_second_goes_on(start: Start) -> None:
    agent = start("--steps=400", "--pause=0.01")
    await until(lambda: "] step 1/" in agent.output, "the first step", seconds=90)
    rank = rank_processes(agent)[1]
    os.kill(rank, signal.SIGSTOP)
    time.sleep(1.0)
    os.kill(rank, signal.SIGCONT)
    await until(lambda: "leaving: " in agent.output, "the end", seconds=90)
    assert await agent.ended() == 0, agent.output


async def test_after_a_hang_the_group_goes_on_from_the_memory_of_those_who_waited(start: Start, rig: Rig) -> None:
    agent = dial(start, rig, "--fault=loops")
    await until(lambda: rig.hub.assign(UID, assignment(1)), "the agent")
    await until(lambda: (r := said(rig, 1)) and r.failure, "the failure", seconds=90)
    report = said(rig, 1)
    assert report is not None and report.failure is not None
    assert report.failure.failure_class is FailureClass.HANG and report.failure.rank == 1
    rig.hub.assign(UID, assignment(2))
    await until(lambda: (r := said(rig, 2)) and r.restore, "the next group", seconds=60)
    report = said(rig, 2)
    assert report is not None and report.restore is not None
    assert (report.restore.source, report.restore.step) == ("survivor", 30)
    await until(lambda: "leaving: " in agent.output, "the end", seconds=60)
    assert await agent.ended() == 0, agent.output


async def test_a_group_whose_culprit_cannot_be_told_is_ended_by_the_operator_and_then_it_can(
    start: Start, rig: Rig
) -> None:
    """All three are in their backward pass and seem to wait; one of them will not even hear that its group is over."""
    agent = dial(start, rig, "--fault=deaf")
    await until(lambda: rig.hub.assign(UID, assignment(1)), "the agent")
    await until(lambda: (r := said(rig, 1)) and r.stall, "the stall", seconds=90)
    report = said(rig, 1)
    assert report is not None and report.failure is None
    assert report.stall is not None and report.stall.waits and report.stall.step == 30
    rig.hub.assign(UID, assignment(2))
    await until(lambda: said(rig, 2), "the next incarnation")
    report = said(rig, 2)
    assert report is not None and report.stall is None and not report.waiting, "what it waited for was the last group's"
    await until(lambda: (r := said(rig, 2)) and r.failure, "the failure", seconds=60)
    report = said(rig, 2)
    assert report is not None and report.failure is not None
    assert report.failure.failure_class is FailureClass.HANG and report.failure.rank == 1
    rig.hub.assign(UID, assignment(3))
    await until(lambda: "leaving: " in agent.output, "the end", seconds=60)
    assert await agent.ended() == 0, agent.output
