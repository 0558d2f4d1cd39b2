"""kopf, the cache, the queue and the client together, over HTTP, against an API server in memory (kmock).

kmock knows no resource versions and no status subresource; those are for the real API server (test_real_server.py).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import kmock
import pytest
from kubernetes.aio.client.configuration import Configuration

from disttrain_contract import labels
from disttrain_operator import handlers, watching
from disttrain_operator.shell import kinds
from disttrain_operator.shell.cache import Cache, Key
from disttrain_operator.shell.cluster import Cluster
from disttrain_operator.shell.kinds import PODS
from disttrain_operator.shell.resync import Resync
from support.raw_objects import a_raw_job, a_raw_pod

JOBS = f"{labels.API_VERSION}/{labels.PLURAL}"
KEY = ("team", "mnist")


class Rig:
    """The operator's watching half."""

    def __init__(self, server: kmock.RawHandler, cluster: Cluster) -> None:
        self.server, self.cluster, self.cache = server, cluster, Cache()
        self.woken: list[Key] = []
        self.gone: list[str] = []
        self.relists = 0
        self.watch = handlers.Watch(
            self.cache, self.woken.append, on_pod_gone=self.gone.append, on_relist=self._relisted
        )  # fmt: skip
        self.resync = Resync(cluster, self.cache, (), self.woken.append)

    def _relisted(self) -> None:
        self.relists += 1

    @asynccontextmanager
    async def watching(self, namespaces: tuple[str, ...] = (), minor: int = 33) -> AsyncIterator[Rig]:
        started = asyncio.Event()
        made = handlers.registry(self.watch, self.cluster.credentials)
        chosen = watching.settings(minor)
        task = asyncio.create_task(handlers.watch_forever(made, namespaces, started=started, chosen=chosen))
        await asyncio.wait_for(started.wait(), 20)
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, what: Callable[[], Any], seconds: float = 30) -> None:
        async with asyncio.timeout(seconds):
            while not what():
                await asyncio.sleep(0.02)


@pytest.fixture
async def rig(kmock: Any) -> AsyncIterator[Rig]:
    kmock.resources.load_bundled()
    kmock.resources[JOBS] = {
        "namespaced": True, "kind": labels.KIND, "singular": labels.SINGULAR,
        "verbs": ["list", "watch", "get", "delete", "patch", "update"], "subresources": ["status"],
    }  # fmt: skip
    async with Cluster(Configuration(host=str(kmock.url).rstrip("/"))) as cluster:
        yield Rig(kmock, cluster)


def put(rig: Rig, found: dict[str, Any], resource: str) -> None:
    meta = found["metadata"]
    rig.server.objects[resource, meta["namespace"], meta["name"]] = found


async def test_what_is_there_and_what_comes_is_seen(rig: Rig) -> None:
    put(rig, a_raw_job(), JOBS)
    put(rig, a_raw_pod(0), "v1/pods")
    async with rig.watching():
        await rig.until(lambda: rig.cache.job(KEY) and rig.cache.pods(KEY, "job-uid"))
        await rig.cluster.create(PODS, a_raw_pod(1))
        await rig.until(lambda: len(rig.cache.pods(KEY, "job-uid")) == 2)
        await rig.cluster.delete(PODS, "team", "mnist-0", "uid-0")
        await rig.until(lambda: rig.gone == ["uid-0"])
        await rig.cluster.delete(kinds.JOBS, "team", "mnist", "job-uid")
        await rig.until(lambda: rig.cache.job(KEY) is None)
    assert set(rig.woken) == {KEY}


async def test_watching_writes_nothing(rig: Rig) -> None:
    put(rig, a_raw_job(), JOBS)
    put(rig, a_raw_pod(0), "v1/pods")
    async with rig.watching():
        await rig.until(lambda: rig.cache.job(KEY) and rig.cache.pods(KEY, "job-uid"))
        await asyncio.sleep(0.3)
    methods = Counter(str(request.method) for request in rig.server)
    assert set(methods) == {"method.GET"} or set(methods) == {"GET"}, methods
    assert "annotations" not in rig.server.objects[JOBS, "team", "mnist"]["metadata"]


async def test_only_worker_pods_are_asked_for(rig: Rig) -> None:
    async with rig.watching():
        await rig.until(lambda: any("/pods" in str(r.url) for r in rig.server))
        pods = [dict(r.params) for r in rig.server if "/pods" in str(r.url)]
    assert pods and all(p.get("labelSelector") == labels.JOB for p in pods)


async def test_only_the_given_namespaces_are_watched(rig: Rig) -> None:
    put(rig, a_raw_job(), JOBS)
    elsewhere = a_raw_job(uid="other")
    elsewhere["metadata"]["namespace"] = "elsewhere"
    put(rig, elsewhere, JOBS)
    async with rig.watching(namespaces=("elsewhere",)):
        await rig.until(lambda: rig.cache.job(("elsewhere", "mnist")))
        await asyncio.sleep(0.2)
        assert rig.cache.job(KEY) is None
    assert not [
        r for r in rig.server if "customresourcedefinitions" in str(r.url) or str(r.url).endswith("/namespaces")
    ]


async def test_synced_when_the_watches_have_caught_up_with_a_listing(rig: Rig) -> None:
    put(rig, a_raw_job(), JOBS)
    put(rig, a_raw_pod(0), "v1/pods")
    catching_up = asyncio.create_task(rig.resync.catch_up())
    await asyncio.sleep(0.5)
    assert not rig.resync.synced.is_set()
    async with rig.watching():
        await asyncio.wait_for(catching_up, 30)


async def test_a_watch_that_may_not_watch_ends_the_operator(rig: Rig) -> None:
    rig.server["list v1/pods"] << 403
    made = handlers.registry(rig.watch, rig.cluster.credentials)
    chosen = watching.settings(33)
    chosen.networking.error_backoffs = (0.01, 0.01)
    endless = handlers.watch_forever(made, (), started=asyncio.Event(), chosen=chosen)
    with pytest.raises(Exception) as caught:
        await asyncio.wait_for(endless, 30)
    assert type(caught.value).__name__ == "APIForbiddenError"
