"""Somebody else keeps the real API server, or the very object, busy."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest

from disttrain_operator.shell.errors import NotFound
from disttrain_operator.shell.kinds import PODS
from support.own_apiserver import ApiServer
from support.real_stage import Stage

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

CONFLICTS = 'api_requests_total{code="409",resource="disttrainjobs",verb="update"}'
REJECTED = 'api_requests_total{code="429",resource="pods",verb="create"}'


async def test_a_writer_that_never_rests_cannot_stop_a_job(stage: Stage) -> None:
    operator = stage.operator()
    await stage.submit("mnist")
    numbers = count(1)

    async def scribble() -> None:
        while True:
            await stage.player.annotate("mnist", last=str(next(numbers)))
            await asyncio.sleep(0.01)

    writing = [asyncio.create_task(scribble()) for _ in range(3)]
    try:
        agents = await stage.agents_of("mnist")
        for incarnation in range(1, 3):
            await stage.formed("mnist", agents, incarnation)
            stage.fails(agents[incarnation % 2], incarnation)
        await stage.formed("mnist", agents, 3)
    finally:
        for task in writing:
            task.cancel()
        await asyncio.gather(*writing, return_exceptions=True)
    assert operator.count(CONFLICTS) > 0, "they did meet"
    job = await stage.player.job("mnist")
    assert (job["status"]["attempts"], job["status"]["recovery"]["count"]) == (2, 2), "each failure counts once"
    assert int(job["metadata"]["annotations"]["last"]) > 0


def nothing_for(user: str, *, verb: str, resource: str) -> list[dict[str, Any]]:
    """A flow with no share of the server: one request of it at a time, and who comes meanwhile is told 429, with a time."""
    api = "flowcontrol.apiserver.k8s.io/v1"
    limited = {
        "nominalConcurrencyShares": 0,
        "lendablePercent": 0,
        "borrowingLimitPercent": 0,
        "limitResponse": {"type": "Reject"},
    }
    rule = {"verbs": [verb], "apiGroups": [""], "resources": [resource], "namespaces": ["team"]}
    return [
        {
            "apiVersion": api, "kind": "PriorityLevelConfiguration", "metadata": {"name": "nothing"},
            "spec": {"type": "Limited", "limited": limited},
        },
        {
            "apiVersion": api, "kind": "FlowSchema", "metadata": {"name": "nothing"},
            "spec": {
                "priorityLevelConfiguration": {"name": "nothing"}, "matchingPrecedence": 2,
                "rules": [{"subjects": [{"kind": "User", "user": {"name": user}}], "resourceRules": [rule]}],
            },
        },
    ]  # fmt: skip


@asynccontextmanager
async def seat_taken(server: ApiServer) -> AsyncIterator[None]:
    """By a request that has begun and whose body does not come."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=trusting)
    writer.write(
        b"POST /api/v1/namespaces/team/pods?dryRun=All HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer operator-token\r\n"
        b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    )
    await writer.drain()
    try:
        yield
    finally:
        writer.close()


async def turned_away(stage: Stage) -> bool:
    """Whether the server's new rule is at work: it would not even look at a pod that is none."""
    url = f"{stage.player.api._configuration.host}{PODS.path('team')}?dryRun=All"
    headers = {"Content-Type": "application/json", "Authorization": "Bearer operator-token"}
    reply = await stage.player.api._rest.request("POST", url, headers, {"apiVersion": "v1", "kind": "Pod"})  # type: ignore[no-untyped-call]
    return bool(reply.status == 429)


async def test_what_the_servers_fair_queueing_turns_away_is_asked_again(stage: Stage) -> None:
    operator = stage.operator()
    agents = await stage.running("mnist")
    stage.server.apply(*nothing_for("operator", verb="create", resource="pods"))
    try:
        async with seat_taken(stage.server):
            await stage.player.until(lambda: turned_away(stage))
            old = await stage.player.api.get(PODS, "team", "mnist-1")
            await stage.player.api.delete(PODS, "team", "mnist-1", old["metadata"]["uid"], grace=0)
            await stage.player.until(lambda: operator.count(REJECTED) >= 2, 60)
            with pytest.raises(NotFound):
                await stage.player.api.get(PODS, "team", "mnist-1")
            assert operator.leads and agents[0].told is not None and agents[0].told.incarnation == 2, "all else goes on"
        await stage.player.until(lambda: stage.player.api.get(PODS, "team", "mnist-1"))
        assert operator.process.poll() is None
    finally:
        stage.server.kubectl("delete", "flowschema,prioritylevelconfiguration", "nothing")
