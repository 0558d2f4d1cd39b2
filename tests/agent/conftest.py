"""Agents in a folder of their own, and a hub for them to dial."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.agent.harness import AgentProcess
from tests.channel.rig import Certificates, Rig, make_certificates

from disttrain_contract.env import RunConfig

StartAlone = Callable[[RunConfig], AgentProcess]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def rig(certificates: Certificates) -> AsyncIterator[Rig]:
    rig = Rig(certificates)
    await rig.start()
    yield rig
    await rig.stop()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[StartAlone]:
    """An agent without an operator, not started yet."""
    made: list[AgentProcess] = []

    def make(run: RunConfig) -> AgentProcess:
        made.append(AgentProcess(tmp_path, run, volume=tmp_path / "volume"))
        return made[-1]

    yield make
    for agent in made:
        agent.cleanup()


@pytest.fixture
def dialling(tmp_path: Path, rig: Rig) -> Iterator[Callable[..., AgentProcess]]:
    """An agent that dials the hub, not started yet; `port` for a proxy between them."""
    made: list[AgentProcess] = []

    def make(run: RunConfig, port: int = 0) -> AgentProcess:
        url = f"wss://localhost:{port or rig.port}"
        made.append(AgentProcess(tmp_path, run, url, rig.certificates.ca, volume=tmp_path / "volume"))
        return made[-1]

    yield make
    for agent in made:
        agent.cleanup()
