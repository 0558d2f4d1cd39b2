"""Whole agents with three ranks each, and a hub that stands for the operator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.agent.harness import AgentProcess
from tests.channel.rig import Rig, make_certificates

from disttrain_contract.env import CheckpointConfig, RunConfig
from support.whole_agents import Start


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """An agent; without a URL no operator has to tell it what to do."""
    agents: list[AgentProcess] = []

    def begin(*args: str, url: str = "", ca: str = "", timeout: float | None = None) -> AgentProcess:
        run = RunConfig(
            entrypoint="support.faulty_tasks:build", args=args, processes_per_worker=3, grace_seconds=6.0,
            checkpoint=CheckpointConfig(every_steps=10_000), hang_timeout_seconds=timeout,
        )  # fmt: skip
        agents.append(AgentProcess(tmp_path, run, url, ca, volume=tmp_path / "volume").start())
        return agents[-1]

    yield begin
    for agent in agents:
        agent.cleanup()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """Stands for the operator."""
    rig = Rig(make_certificates(tmp_path))
    await rig.start()
    yield rig
    await rig.stop()
