"""Whole agents of task jobs: their ranks come from the warm parent, and nobody outside notices but by the time it takes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.agent.harness import AgentProcess, alive, children, go, until
from tests.agent.test_alone import memory_cgroup
from tests.channel.rig import Rig, pod

from disttrain_contract.env import RunConfig
from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import AgentState

FAKE = """
from disttrain_runtime.agent import app, launch
launch.WORKER_MODULE = "tests.support.fake_rank"
app.PRELOAD = (launch.WORKER_MODULE,)
"""
TASK = RunConfig(entrypoint="stands.for:a_task", processes_per_worker=2, grace_seconds=6.0)
UID = pod("a").uid
SLEEP = "import os, time; print('up', os.getpid(), flush=True); time.sleep(100)"


def task(alone: Callable[[RunConfig], AgentProcess], program: str, **options: object) -> AgentProcess:
    os.environ["DISTTRAIN_PROGRAM"] = program
    try:
        return alone(TASK).start(before=FAKE, **options)  # type: ignore[arg-type]
    finally:
        del os.environ["DISTTRAIN_PROGRAM"]


def parent_of(agent: AgentProcess) -> list[int]:
    """The warm parent, by its command line."""
    return [p for p in children(agent.pid) if b"warm_parent" in Path(f"/proc/{p}/cmdline").read_bytes()]


async def test_all_ranks_of_a_task_are_forked(alone: Callable[[RunConfig], AgentProcess]) -> None:
    agent = task(alone, "import os; print('child of', os.getppid(), os.environ['LOCAL_RANK'])")
    assert await agent.ended() == 0, agent.output
    assert "tests.support.fake_rank is imported, in " in agent.output and "executed" not in agent.output
    assert f"[rank 0] child of {agent.pid} 0\n" in agent.output and f"[rank 1] child of {agent.pid} 1\n" in agent.output


async def test_sigterm_ends_the_parent_with_the_pod(alone: Callable[[RunConfig], AgentProcess]) -> None:
    agent = task(alone, SLEEP)
    await until(lambda: agent.output.count("] up ") == 2)
    family = children(agent.pid)
    assert len(family) == 3 and parent_of(agent)
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 143
    await until(lambda: not any(map(alive, family)))
    assert agent.last_words.state is AgentState.STOPPED and agent.last_words.failure is None


async def test_neither_parent_nor_forked_rank_outlives_the_agent(alone: Callable[[RunConfig], AgentProcess]) -> None:
    agent = task(alone, SLEEP)
    await until(lambda: agent.output.count("] up ") == 2)
    family = children(agent.pid)
    agent.signal(signal.SIGKILL)
    await agent.ended()
    await until(lambda: not any(map(alive, family)), "the kernel to end them")


async def test_a_rank_that_runs_out_of_memory_is_still_told_so(alone: Callable[[RunConfig], AgentProcess]) -> None:
    hungry = "import os, time\nif os.environ['RANK'] == '1': x = b'x' * (1 << 30)\ntime.sleep(100)"
    with memory_cgroup(200 * 2**20) as group:
        agent = task(alone, hungry, wrap=("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"))
        assert await agent.ended() == 137, agent.output
        await until(lambda: not (group / "cgroup.procs").read_text())
    failure = agent.last_words.failure
    assert failure and failure.failure_class is FailureClass.OOM and failure.rank == 1


async def test_a_parent_that_dies_under_running_ranks_disturbs_nobody(
    alone: Callable[[RunConfig], AgentProcess],
) -> None:
    agent = task(alone, SLEEP)
    await until(lambda: agent.output.count("] up ") == 2)
    os.kill(parent_of(agent)[0], signal.SIGKILL)
    await until(lambda: agent.output.count("is imported") == 2, "a new parent")
    ranks = [pid for pid in agent.ranks if pid not in parent_of(agent)]
    assert len(ranks) == 2 and agent.output.count("] up ") == 2
    os.kill(ranks[0], signal.SIGKILL)
    assert await agent.ended() == 137
    failure = agent.last_words.failure
    assert failure and failure.failure_class is FailureClass.SIGNAL


async def test_a_restart_in_place_forks_from_the_same_parent(dialling: Callable[..., AgentProcess], rig: Rig) -> None:
    agent = task(dialling, SLEEP)
    parents: set[int] = set()
    for incarnation in (1, 2, 3):
        await rig.until(lambda n=incarnation: rig.hub.assign(UID, go(n)))  # type: ignore[misc]
        await until(lambda n=incarnation: agent.output.count("] up ") == 2 * n)  # type: ignore[misc]
        parents.update(parent_of(agent))
        assert len(children(agent.pid)) == 3
    assert len(parents) == 1 and "executed" not in agent.output
