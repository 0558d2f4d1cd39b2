"""A drill inside a pod of a whole agent: the rank that is meant dies, and the agent says what a drill waits for."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from tests.agent.harness import AgentProcess, children, until
from tests.agent.test_task_jobs import SLEEP, TASK, parent_of, task

from disttrain_contract.drill import Exit, Fault
from disttrain_contract.env import RunConfig
from disttrain_contract.failures import FailureClass
from disttrain_runtime.drill import main, ranks

Alone = Callable[[RunConfig], AgentProcess]


async def test_of_a_tasks_processes_the_forked_ranks_are_found_and_the_warm_parent_is_not(alone: Alone) -> None:
    agent = task(alone, SLEEP)
    await until(lambda: agent.output.count("] up ") == 2)
    (parent,) = parent_of(agent)
    found = {r.rank: r.pid for r in ranks(agent.pid)}
    assert set(found) == {0, 1} and set(found.values()) == set(children(agent.pid)) - {parent}


@pytest.mark.parametrize("kind", ["task", "command"])
async def test_the_rank_that_a_drill_kills_is_the_one_that_the_agent_names(alone: Alone, kind: str) -> None:
    command = RunConfig(
        command=("sh", "-c", "echo up; sleep 100"), processes_per_worker=2, grace_seconds=TASK.grace_seconds
    )
    agent = task(alone, SLEEP) if kind == "task" else alone(command).start()
    await until(lambda: agent.output.count("] up") == 2)
    assert main([Fault.KILL_RANK, "--rank", "1"], {}, agent.pid) == Exit.DONE
    assert await agent.ended() == 128 + signal.SIGKILL
    failure = agent.last_words.failure
    assert failure and (failure.rank, failure.failure_class) == (1, FailureClass.SIGNAL)
