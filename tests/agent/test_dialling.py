"""Agent and hub together, over TLS, through everything that can happen between them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
from tests.agent.harness import AgentProcess, alive, go, python, until
from tests.channel.rig import TO_AGENT, TO_HUB, Proxy, Rig, make_certificates, pod
from websockets.asyncio.server import ServerConnection, serve

from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import AgentState, Assignment, Report, encode
from support.limits import no_descriptor_left, own_group

Dialling = Callable[..., AgentProcess]
SLEEPER = python("import time; print('up', flush=True); time.sleep(100)")
REPORTER = python(
    "import os, time\n"
    "from disttrain_contract import env, messages as m\n"
    "def say(event, body): os.write(int(os.environ[env.REPORT_FD]), m.encode_rank_message(event, body))\n"
    "step = 0\n"
    "while True:\n"
    "    step += 1\n"
    "    say(m.RankEvent.PROGRESS, m.Progress(step=step, loss=1 / step))\n"
    "    time.sleep(0.01)\n"
)
UID = pod("a").uid


def report(rig: Rig) -> Report:
    """The newest; one that no agent sends while there is none."""
    return rig.view("a").report or Report(incarnation=-1, state=AgentState.IDLE)


async def reported(rig: Rig, state: AgentState, incarnation: int) -> Report:
    await rig.until(lambda: (report(rig).state, report(rig).incarnation) == (state, incarnation))
    return report(rig)


async def running(rig: Rig, agent: AgentProcess, incarnation: int = 1) -> list[int]:
    """Assigned and started; the ranks' pids."""
    await rig.until(lambda: rig.hub.assign(UID, go(incarnation)))
    await reported(rig, AgentState.RUNNING, incarnation)
    await until(lambda: len(agent.ranks) == 2)
    return agent.ranks


async def test_from_hello_to_the_end(rig: Rig, dialling: Dialling) -> None:
    agent = dialling(python("print('trained')")).start()
    assert await reported(rig, AgentState.IDLE, 0) == Report(incarnation=0, state=AgentState.IDLE, processes=2)
    rig.hub.assign(UID, Assignment(job_uid="job-uid", incarnation=1))
    await reported(rig, AgentState.IDLE, 1)
    rig.hub.assign(UID, go(1))
    await reported(rig, AgentState.FINISHED, 1)
    assert await agent.ended() == 0
    assert agent.last_words.state is AgentState.FINISHED and agent.output.count("trained") == 2


async def test_after_a_failure_the_next_incarnation_starts_in_the_same_pod(rig: Rig, dialling: Dialling) -> None:
    program = (
        "import os, time\n"
        "if os.environ['DISTTRAIN_INCARNATION'] == '1' and os.environ['RANK'] == '1': raise ValueError('no')\n"
        "time.sleep(100 if os.environ['DISTTRAIN_INCARNATION'] == '1' else 0)\n"
    )
    agent = dialling(python(program)).start()
    await rig.until(lambda: rig.hub.assign(UID, go(1)))
    failure = (await reported(rig, AgentState.FAILED, 1)).failure
    assert failure and (failure.rank, failure.message) == (1, "ValueError: no")
    assert "ValueError: no" in failure.traceback and failure.seconds_ago < 20
    rig.hub.assign(UID, go(2))
    await reported(rig, AgentState.FINISHED, 2)
    assert await agent.ended() == 0


async def test_a_killed_rank_is_reported_and_its_neighbour_does_not_live_on(rig: Rig, dialling: Dialling) -> None:
    agent = dialling(SLEEPER).start()
    ranks = await running(rig, agent)
    os.kill(ranks[0], signal.SIGKILL)
    failure = (await reported(rig, AgentState.FAILED, 1)).failure
    assert failure and failure.failure_class is FailureClass.SIGNAL and failure.exit_code == 137
    await until(lambda: not any(map(alive, ranks)))


async def test_told_to_stop_it_says_so_and_goes(rig: Rig, dialling: Dialling) -> None:
    agent = dialling(SLEEPER).start()
    await running(rig, agent)
    rig.hub.assign(UID, replace(go(1), stop="suspended"))
    await reported(rig, AgentState.STOPPED, 1)
    assert await agent.ended() == 143


async def test_progress_flows_at_most_once_a_second(rig: Rig, dialling: Dialling) -> None:
    agent = dialling(REPORTER).start()
    await running(rig, agent)
    seen: set[int] = set()
    began = asyncio.get_running_loop().time()
    while len(seen) < 3:
        await rig.until(lambda: (progress := report(rig).progress) and progress.step not in seen)
        progress = report(rig).progress
        assert progress is not None
        seen.add(progress.step)
    assert asyncio.get_running_loop().time() - began > 1.5
    assert agent.ranks


async def test_doubled_late_and_foreign_assignments_start_nothing(rig: Rig, dialling: Dialling) -> None:
    agent = dialling(SLEEPER).start()
    ranks = await running(rig, agent, incarnation=3)
    late = [go(3, per=1), go(2), replace(go(9), job_uid="another"), replace(go(2), stop="old"), go(3)]
    for assignment in late:
        rig.hub.assign(UID, assignment)
    rig.hub.assign(UID, replace(go(3), stop=None, membership=None))
    rig.hub.assign(UID, go(4))  # the only one that counts; what came before it has been read
    await reported(rig, AgentState.RUNNING, 4)
    assert agent.output.count("started") == 2
    assert not any(map(alive, ranks))


async def test_training_goes_on_without_an_operator_and_is_reported_to_the_next(rig: Rig, dialling: Dialling) -> None:
    agent = dialling(REPORTER).start()
    ranks = await running(rig, agent)
    await rig.stop()
    await until(lambda: "no stream to the operator" in agent.output)
    assert agent.ranks == ranks
    await rig.start(rig.port)
    before = await reported(rig, AgentState.RUNNING, 1)
    assert agent.ranks == ranks, "the same processes"
    rig.hub.assign(UID, go(1))  # a new operator says what it thinks should be
    await rig.until(lambda: report(rig).progress != before.progress)
    assert agent.ranks == ranks and agent.output.count("started") == 1


async def test_a_failure_while_nobody_listened_is_told_afterwards(rig: Rig, dialling: Dialling) -> None:
    agent = dialling(SLEEPER).start()
    ranks = await running(rig, agent)
    await rig.stop()
    os.kill(ranks[1], signal.SIGKILL)
    await until(lambda: "failed" in agent.output)
    await rig.start(rig.port)
    failure = (await reported(rig, AgentState.FAILED, 1)).failure
    assert failure and failure.rank == 1 and failure.seconds_ago > 0


async def test_the_token_is_read_again_at_every_dial(rig: Rig, dialling: Dialling) -> None:
    agent = dialling(SLEEPER)
    agent.token("expired")
    agent.start()
    await until(lambda: "HTTP 401" in agent.output)
    assert rig.hub.connected == 0
    agent.token("token-of-a")
    await reported(rig, AgentState.IDLE, 0)


async def test_an_operator_with_a_foreign_certificate_gets_no_token(
    rig: Rig, dialling: Dialling, tmp_path_factory: Any
) -> None:
    foreign = make_certificates(tmp_path_factory.mktemp("foreign"))
    agent = dialling(SLEEPER).change(operator_ca=foreign.ca).start()
    await until(lambda: "certificate verify failed" in agent.output)
    assert rig.reviews == 0


async def test_it_dials_on_until_it_reaches_the_leader(rig: Rig, dialling: Dialling) -> None:
    rig.leader = False
    agent = dialling(SLEEPER).start()
    await until(lambda: "not the leader" in agent.output)
    rig.leader = True
    await reported(rig, AgentState.IDLE, 0)


async def test_an_agent_that_is_frozen_loses_its_lease_and_comes_back_by_itself(rig: Rig, dialling: Dialling) -> None:
    agent = dialling(SLEEPER).start()
    ranks = await running(rig, agent)
    agent.signal(signal.SIGSTOP)
    await rig.until(lambda: rig.view("a").lost and rig.hub.connected == 0)
    agent.signal(signal.SIGCONT)
    await rig.until(lambda: rig.view("a").connected)
    assert agent.ranks == ranks and (await reported(rig, AgentState.RUNNING, 1)).incarnation == 1


async def test_a_zombie_that_comes_back_obeys_the_newer_incarnation(rig: Rig, dialling: Dialling) -> None:
    agent = dialling(SLEEPER).start()
    ranks = await running(rig, agent)
    agent.signal(signal.SIGSTOP)
    await rig.until(lambda: rig.view("a").lost and rig.hub.connected == 0)
    agent.signal(signal.SIGCONT)
    await rig.until(lambda: rig.hub.assign(UID, Assignment(job_uid="job-uid", incarnation=2)))
    await reported(rig, AgentState.IDLE, 2)
    await until(lambda: not any(map(alive, ranks)))


@pytest.mark.parametrize("ways", [(), (TO_HUB,), (TO_AGENT,)], ids=["both ways", "to the operator", "to the agent"])
async def test_a_silent_network_is_noticed_and_dialled_around(
    rig: Rig, dialling: Dialling, ways: tuple[int, ...]
) -> None:
    """Also when it is cut one way only: each end counts the silence of the other."""
    proxy = Proxy(rig.port)
    agent = dialling(SLEEPER, port=await proxy.start()).start()
    ranks = await running(rig, agent)
    proxy.freeze(*ways)
    await until(lambda: proxy.dialled >= 2, "the agent to dial again")
    assert rig.view("a").lost or not rig.view("a").connected
    proxy.thaw()
    await rig.until(lambda: rig.view("a").connected)
    assert agent.ranks == ranks
    await proxy.stop()


async def test_on_a_slow_link_the_stream_holds_and_everything_arrives(rig: Rig, dialling: Dialling) -> None:
    """A few kilobytes a second, and a tenth of a second later: the same stream, from the hello to the last report."""
    proxy = Proxy(rig.port, delay=0.1)
    agent = dialling(REPORTER, port=await proxy.start()).start()
    ranks = await running(rig, agent)
    first = report(rig).progress
    await rig.until(lambda: report(rig).progress != first)
    os.kill(ranks[0], signal.SIGKILL)
    failure = (await reported(rig, AgentState.FAILED, 1)).failure
    assert failure and failure.exit_code == 137
    assert proxy.dialled == 1 and not rig.view("a").lost
    await proxy.stop()


async def test_a_second_agent_of_the_same_pod_replaces_the_first(
    rig: Rig, dialling: Dialling, tmp_path_factory: Any
) -> None:
    first = dialling(SLEEPER).start()
    await running(rig, first)
    second = AgentProcess(tmp_path_factory.mktemp("second"), SLEEPER, f"wss://localhost:{rig.port}")
    second.change(operator_ca=rig.certificates.ca).start()
    try:
        await reported(rig, AgentState.IDLE, 0)
        assert rig.hub.connected == 1
    finally:
        second.cleanup()


async def test_an_operator_that_talks_nonsense_is_not_obeyed_but_not_left(rig: Rig, dialling: Dialling) -> None:
    said: list[str | bytes] = ["nonsense", "[]", '{"job_uid": 1}', "[" * 5000, b"\x00", '{"incarnation": null}']
    heard: asyncio.Queue[str | bytes] = asyncio.Queue()

    async def operator(stream: ServerConnection) -> None:
        for junk in said:
            await stream.send(junk)
        await stream.send(encode(go(1)))
        async for message in stream:
            heard.put_nowait(message)

    async with serve(operator, "127.0.0.1", 0, ssl=rig.certificates.server()) as server:
        port = server.sockets[0].getsockname()[1]
        agent = dialling(SLEEPER, port=port).start()
        async with asyncio.timeout(20):
            while '"state":"running"' not in str(await heard.get()):
                pass
        assert agent.ranks
        agent.cleanup()


async def test_the_last_report_reaches_the_operator_before_the_agent_goes(rig: Rig, dialling: Dialling) -> None:
    agent = dialling(replace(SLEEPER, command=(sys.executable, "-c", "import os; os._exit(9)"))).start()
    await rig.until(lambda: rig.hub.assign(UID, go(1)))
    await reported(rig, AgentState.FAILED, 1)
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 9
    await rig.until(lambda: not rig.view("a").connected)
    failure = report(rig).failure
    assert failure and failure.exit_code == 9 and agent.last_words.failure
    assert agent.last_words.failure.exit_code == 9


async def test_the_last_report_waits_a_moment_for_an_operator_that_restarts(rig: Rig, dialling: Dialling) -> None:
    program = "import os, time\nwhile not os.path.exists(os.environ['FOLDER'] + '/done'): time.sleep(0.01)"
    agent = dialling(python(program)).start()
    await running(rig, agent)
    await rig.stop()
    (agent.folder / "done").touch()
    await until(lambda: "leaving: finished" in agent.output)
    await rig.start(rig.port)
    await reported(rig, AgentState.FINISHED, 1)
    assert await agent.ended() == 0


async def test_with_the_operator_away_the_end_does_not_wait_for_it(rig: Rig, dialling: Dialling) -> None:
    agent = dialling(SLEEPER).start()
    await running(rig, agent)
    await rig.stop()
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 143
    assert agent.last_words.state is AgentState.STOPPED


@pytest.mark.parametrize("of", ["descriptors", "processes"])
async def test_an_agent_that_gets_no_more_is_tried_again_and_starts_when_there_are_some(
    rig: Rig, dialling: Dialling, of: str
) -> None:
    """The limit is the kernel's. It is no mistake of the job, which would end it for good."""
    agent = dialling(SLEEPER).start()
    await reported(rig, AgentState.IDLE, 0)
    with own_group() as group:
        group.enter(agent.pid)
        with no_descriptor_left(agent.pid) if of == "descriptors" else nullcontext():
            if of == "processes":
                group.no_more_processes()
            rig.hub.assign(UID, go(1))
            failure = (await reported(rig, AgentState.FAILED, 1)).failure
        assert failure and failure.failure_class is FailureClass.CODE, failure
        assert "cannot start" in failure.message and "the pod has used up" in failure.message
        group.any_number_of_processes()
        rig.hub.assign(UID, go(2))
        await reported(rig, AgentState.RUNNING, 2)
        assert len(agent.ranks) == 2
        agent.cleanup()


async def test_a_new_authority_shuts_out_who_trusts_the_old_one_only_and_training_goes_on(
    rig: Rig, dialling: Dialling, tmp_path_factory: pytest.TempPathFactory
) -> None:
    agent = dialling(SLEEPER).start()
    ranks = await running(rig, agent)
    rig.certificates = make_certificates(tmp_path_factory.mktemp("renewed"))
    await rig.restart()
    await until(lambda: "certificate verify failed" in agent.output)
    assert agent.ranks == ranks and rig.hub.connected == 0


async def test_who_was_given_both_authorities_never_notices_the_change(
    rig: Rig, dialling: Dialling, tmp_path_factory: pytest.TempPathFactory
) -> None:
    renewed = make_certificates(tmp_path_factory.mktemp("renewed"), "another")  # told apart by name, in one bundle
    agent = dialling(SLEEPER).change(operator_ca=rig.certificates.ca + renewed.ca).start()
    ranks = await running(rig, agent)
    rig.certificates = renewed
    await rig.restart()
    await reported(rig, AgentState.RUNNING, 1)
    assert agent.ranks == ranks
