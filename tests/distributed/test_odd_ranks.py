"""Whole agents with real groups of three ranks: one is odd without being dead or hung. It leaves too early, or is slow."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from tests.agent.harness import until
from tests.channel.rig import Rig

from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import AgentState
from support.limits import own_group
from support.whole_agents import UID, Start, assignment, dial, rank_processes, said

pytestmark = [pytest.mark.torch, pytest.mark.timeout(180)]


@pytest.mark.parametrize(("fault", "blamed"), [("leaves", FailureClass.NETWORK), ("exits", FailureClass.CODE)])
async def test_a_rank_that_ends_well_too_early_is_no_success_and_starts_again_with_the_others(
    start: Start, rig: Rig, fault: str, blamed: FailureClass
) -> None:
    """Exit code 0, the first time without a word, the second time by sys.exit within a step."""
    agent = dial(start, rig, f"--fault={fault}")
    await until(lambda: rig.hub.assign(UID, assignment(1)), "the agent")
    await until(lambda: (r := said(rig, 1)) and r.failure, "the failure", seconds=90)
    report = said(rig, 1)
    assert report is not None and report.failure is not None and report.state is AgentState.FAILED
    assert report.failure.failure_class is blamed, report.failure
    rig.hub.assign(UID, assignment(2))
    await until(lambda: (r := said(rig, 2)) and r.restore, "the next group", seconds=60)
    report = said(rig, 2)
    assert report is not None and report.restore is not None
    assert (report.restore.source, report.restore.step) == ("survivor", 30), "nothing is lost"
    await until(lambda: "leaving: " in agent.output, "the end", seconds=60)
    assert await agent.ended() == 0, agent.output


async def test_a_rank_that_gets_a_twentieth_of_a_core_is_named_and_neither_hung_nor_ended(
    start: Start, rig: Rig
) -> None:
    agent = start("--steps=1000000", url=f"wss://localhost:{rig.port}", ca=rig.certificates.ca)
    await until(lambda: rig.hub.assign(UID, assignment(1)), "the agent")
    await until(lambda: "] step 1/" in agent.output, "the first step", seconds=90)
    slow = rank_processes(agent)[1]
    with own_group() as group:
        group.enter(slow)
        group.processor(0.05)
        await until(lambda: (r := said(rig, 1)) and r.progress and r.progress.straggler, "a straggler", seconds=90)
        report = said(rig, 1)
        assert report is not None and report.progress is not None and report.progress.straggler is not None
        assert report.progress.straggler.rank == 1 and report.progress.straggler.factor >= 1.5
        assert report.state is AgentState.RUNNING and report.failure is None and report.stall is None
        agent.cleanup()
