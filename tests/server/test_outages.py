"""The real API server, or the etcd behind it, is silent, goes away, comes back, or comes back as it was before."""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path

import pytest

from disttrain_operator.shell.kinds import Raw
from support.own_apiserver import ApiServer
from support.real_stage import Stage

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


def uids(pods: list[Raw]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


async def test_an_api_server_that_is_silent_for_a_moment_costs_that_moment(stage: Stage) -> None:
    operator = stage.operator()
    agents = await stage.running("mnist")
    stage.server.api.signal(signal.SIGSTOP)
    stage.fails(agents[1], incarnation=1)
    await asyncio.sleep(2.5)
    assert agents[0].told is not None and agents[0].told.incarnation == 1, "nobody is told what is not written"
    stage.server.api.signal(signal.SIGCONT)
    await stage.formed("mnist", agents, incarnation=2)
    assert operator.process.poll() is None and operator.leads, "the same operator"
    assert (await stage.player.job("mnist"))["status"]["attempts"] == 1


async def test_an_api_server_that_is_away_ends_the_operator_and_no_training(stage: Stage) -> None:
    first = stage.operator()
    agents = await stage.running("mnist")
    before = uids(await stage.player.pods("mnist"))
    stage.server.api.kill()
    assert await asyncio.to_thread(first.process.wait, 60) == 1, "it gives up its lease by its own clock"
    assert "could not be renewed" in first.log.read_text()
    second = stage.operator()
    await stage.player.until(lambda: "cannot list jobs, trying again" in second.log.read_text())
    assert second.get("/healthz") == "ok\n" and not second.leads, "it waits"
    assert agents[0].told is not None and agents[0].told.stop is None
    stage.server.api.start()
    await asyncio.to_thread(stage.server.ready)
    second = await stage.led()
    await stage.player.until(lambda: second.count("agents_connected") == 2)
    status = (await stage.player.job("mnist"))["status"]
    assert (status["incarnation"], status.get("recovery", {}).get("count", 0)) == (1, 0)
    assert uids(await stage.player.pods("mnist")) == before
    stage.fails(agents[1], incarnation=1)
    await stage.formed("mnist", agents, incarnation=2)


async def test_an_etcd_that_hangs_and_one_that_starts_again_cost_a_job_nothing_but_time(stage: Stage) -> None:
    stage.operator()
    agents = await stage.running("mnist")
    stage.server.etcd.signal(signal.SIGSTOP)
    stage.fails(agents[1], incarnation=1)
    await asyncio.sleep(2.5)
    stage.server.etcd.signal(signal.SIGCONT)
    await stage.led()
    await stage.formed("mnist", agents, incarnation=2)
    stage.server.etcd.kill()
    stage.fails(agents[0], incarnation=2)
    stage.server.etcd.start()
    await asyncio.to_thread(stage.server.ready)
    await stage.led()
    await stage.formed("mnist", agents, incarnation=3)
    status = (await stage.player.job("mnist"))["status"]
    assert (status["incarnation"], status["attempts"], status["recovery"]["count"]) == (3, 2, 2), "each once"


def restored(server: ApiServer, copy: Path) -> None:
    """As the manual of etcd says: nobody may talk to it meanwhile, and the API server forgets what it has cached."""
    server.api.kill()
    server.etcd.kill()
    shutil.rmtree(server.data)
    shutil.copytree(copy, server.data)
    server.etcd.start()
    server.api.start()
    server.ready()


def copied(server: ApiServer, copy: Path) -> None:
    server.etcd.kill()
    shutil.copytree(server.data, copy)
    server.etcd.start()
    server.ready()


async def test_a_job_gets_out_of_an_etcd_that_was_restored_from_an_old_copy(stage: Stage, tmp_path: Path) -> None:
    stage.operator()
    agents = await stage.running("mnist")
    await asyncio.to_thread(copied, stage.server, tmp_path / "copy")
    await stage.led()
    stage.fails(agents[1], incarnation=1)
    await stage.formed("mnist", agents, incarnation=2)
    stage.operators[-1].end()
    await asyncio.to_thread(restored, stage.server, tmp_path / "copy")
    job = await stage.player.until(lambda: stage.player.job("mnist"))
    assert job["status"]["incarnation"] == 1
    await stage.led()
    await stage.formed("mnist", agents, incarnation=3)
    assert "StatusPutBack" in stage.server.kubectl("get", "events", "-n", "team")
