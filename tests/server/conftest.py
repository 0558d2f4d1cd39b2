"""One real API server for all stories, and a clean stage for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support import own_apiserver
from support.own_apiserver import ApiServer
from support.real_stage import Stage


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    own_apiserver.needed()
    with own_apiserver.running(tmp_path_factory.mktemp("apiserver")) as made:
        yield made


@pytest.fixture
async def stage(server: ApiServer, tmp_path: Path) -> AsyncIterator[Stage]:
    made = Stage(server, tmp_path)
    yield made
    for agent in made.agents:
        await agent.stop()
    for operator in made.operators:
        operator.end()
    await made.player.api.__aexit__()
    server.kubectl(
        "delete", "dtj,pods,svc,pvc,events", "--all", "-n", "team", "--grace-period=0", "--force", check=False
    )
    server.kubectl("delete", "lease", "--all", "-n", "disttrain-system")
