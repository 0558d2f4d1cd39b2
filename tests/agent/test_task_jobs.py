"""Whole agents of task jobs: their ranks come from the warm parent, and nobody outside notices but by the time it takes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.agent.harness import AgentProcess, alive, children, go, until
from tests.agent.test_alone import memory_cgroup
from tests.channel.rig import Rig, pod

from disttrain_contract.env import RunConfig
from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import AgentState

FAKE = """
from disttrain_runtime.agent import launch
launch.WORKER_MODULE = "tests.support.fake_rank"
launch.PRELOAD = (launch.WORKER_MODULE,)
"""
TASK = RunConfig(entrypoint="stands.for:a_task", processes_per_worker=2, grace_seconds=6.0)
UID = pod("a").uid
SLEEP = "import os, time; print('up', os.getpid(), flush=True); time.sleep(100)"


def task(alone: Callable[[RunConfig], AgentProcess], program: str, **options: object) -> AgentProcess:
    os.environ["DISTTRAIN_PROGRAM"] = program
    try:
        before = FAKE + (SOON if options.pop("soon", False) else "")
        return alone(TASK).start(before=before, **options)  # type: ignore[arg-type]
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


OBEDIENT = """
import json, os, socket
mine = socket.socket(fileno=os.dup(int(os.environ['DISTTRAIN_REPORT_FD'])))
print('up', os.getpid(), flush=True)
for line in mine.makefile():
    order = json.loads(line)
    print('told', order['incarnation'], (order['environment'] or {}).get('RANK'), os.getpid(), flush=True)
"""
SOON = "from disttrain_runtime.agent import app; app.SPARE_SECONDS = 0.1\n"


def said(agent: AgentProcess, start: str) -> list[str]:
    """What follows these words in its output, line by line."""
    return [line.removeprefix(start).strip() for line in agent.output.splitlines() if line.startswith(start)]


async def test_ranks_that_live_are_told_their_next_place_and_keep_their_process(
    dialling: Callable[..., AgentProcess], rig: Rig
) -> None:
    agent = task(dialling, OBEDIENT)
    await rig.until(lambda: rig.hub.assign(UID, go(1)))
    await until(lambda: agent.output.count("] up ") >= 2)
    pids = {rank: said(agent, f"[rank {rank}] up")[0] for rank in (0, 1)}
    await rig.until(lambda: rig.hub.assign(UID, go(2)))
    for rank, pid in pids.items():
        await until(lambda r=rank, p=pid: f"2 {r} {p}" in said(agent, f"[rank {r}] told"))  # type: ignore[misc]


async def test_a_dead_rank_is_replaced_by_the_spare_and_another_spare_is_made_behind_it(
    dialling: Callable[..., AgentProcess], rig: Rig
) -> None:
    agent = task(dialling, OBEDIENT, soon=True)
    await rig.until(lambda: rig.hub.assign(UID, go(1)))
    await until(lambda: said(agent, "[spare] up"), "the first spare")
    spare = said(agent, "[spare] up")[0]
    os.kill(int(said(agent, "[rank 1] up")[0]), signal.SIGKILL)
    await until(lambda: rig.hub.report_of(UID).report.state is AgentState.FAILED)
    await rig.until(lambda: rig.hub.assign(UID, go(2)))
    await until(lambda: f"2 1 {spare}" in said(agent, "[rank 1] told"), "the spare to take the place")
    await until(lambda: len(said(agent, "[spare] up")) == 2, "the next spare")


async def test_a_spare_that_dies_disturbs_nobody(dialling: Callable[..., AgentProcess], rig: Rig) -> None:
    agent = task(dialling, OBEDIENT, soon=True)
    await rig.until(lambda: rig.hub.assign(UID, go(1)))
    await until(lambda: said(agent, "[spare] up"))
    os.kill(int(said(agent, "[spare] up")[0]), signal.SIGKILL)
    await until(lambda: not alive(int(said(agent, "[spare] up")[0])))
    report = rig.hub.report_of(UID).report
    assert report.state is AgentState.RUNNING and report.failure is None


async def test_a_standby_has_ranks_ready_before_it_gets_a_place(
    dialling: Callable[..., AgentProcess], rig: Rig
) -> None:
    agent = task(lambda run: dialling(run).change(worker_index=3, workers=3), OBEDIENT, soon=True)
    await until(lambda: len(said(agent, "[spare] up")) == 2, "a spare for each of its ranks")
    spares = set(said(agent, "[spare] up"))
    seat = replace(go(1), group_rank=0)
    await rig.until(lambda: rig.hub.assign(UID, seat))
    await until(lambda: len(said(agent, "[rank 0] told") + said(agent, "[rank 1] told")) == 2, "both to take a place")
    told = [line.split()[-1] for rank in (0, 1) for line in said(agent, f"[rank {rank}] told")]
    assert set(told) == spares


LATE = """
import os, socket
from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import Failure, RankEvent, encode_rank_message
if os.environ['DISTTRAIN_INCARNATION'] == '2':
    os._exit(0)
mine = socket.socket(fileno=os.dup(int(os.environ['DISTTRAIN_REPORT_FD'])))
print('up', os.getpid(), flush=True)
mine.makefile().readline()
if os.environ['RANK'] == '1':
    os._exit(0)
failure = Failure(rank=0, local_rank=0, exit_code=1, failure_class=FailureClass.CODE, message='stumbled when the group was over')
mine.send(encode_rank_message(RankEvent.FAILURE, failure))
os._exit(1)
"""


async def test_what_a_rank_said_before_it_died_is_not_held_against_the_one_that_took_its_place(
    dialling: Callable[..., AgentProcess], rig: Rig
) -> None:
    """It fails when the group that it was in is over already, and its successor ends well."""
    agent = task(dialling, LATE)
    await rig.until(lambda: rig.hub.assign(UID, go(1)))
    await until(lambda: agent.output.count("] up ") >= 2)
    await rig.until(lambda: rig.hub.assign(UID, replace(go(2), membership=None)))
    await until(lambda: not [p for p in agent.ranks if p not in parent_of(agent)], "both ranks to end")
    await rig.until(lambda: rig.hub.assign(UID, go(2)))
    await until(lambda: "incarnation 2: started 2" in agent.output)
    await until(lambda: rig.hub.report_of(UID).report.state is not AgentState.RUNNING, "the second two to end")
    assert rig.hub.report_of(UID).report.state is AgentState.FINISHED, agent.output
    assert await agent.ended() == 0 and agent.last_words.failure is None
