"""Certificates once, a listening hub for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.channel.rig import Certificates, Rig, make_certificates


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def rig(certificates: Certificates) -> AsyncIterator[Rig]:
    rig = Rig(certificates)
    await rig.start()
    yield rig
    await rig.stop()
