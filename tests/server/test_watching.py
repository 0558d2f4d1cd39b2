"""kopf, the cache, the queue and the client together, over HTTP, against an API server in memory (kmock).

kmock knows no resource versions and no status subresource; those are for the real API server (test_real_server.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import kmock
import pytest
from kubernetes.aio.client.configuration import Configuration
from tests.channel.rig import Proxy

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
        self.relists, self.time = 0, 0.0
        self.credentials = cluster.credentials
        """For the watches; the client has its own."""
        self.watch = handlers.Watch(
            self.cache, self.woken.append, on_pod_gone=self.gone.append, on_relist=self._relisted
        )  # fmt: skip
        self.resync = Resync(cluster, self.cache, (), self.woken.append, clock=lambda: self.time)

    def _relisted(self) -> None:
        self.relists += 1

    @asynccontextmanager
    async def watching(self, namespaces: tuple[str, ...] = (), minor: int = 33) -> AsyncIterator[Rig]:
        started = asyncio.Event()
        made = handlers.registry(self.watch, self.credentials)
        chosen = watching.settings(minor)
        task = asyncio.create_task(handlers.watch_forever(made, namespaces, started=started, chosen=chosen))
        await asyncio.wait_for(started.wait(), 20)
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def compared(self, seconds: float) -> str | None:
        """What the liveness probe says after a look at everything."""
        self.time += seconds
        await self.resync.compare()
        return self.resync.problem()

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


WATCH_JOBS = f"watch {JOBS}"


def bookmark(version: str) -> dict[str, Any]:
    meta = {"resourceVersion": version, "creationTimestamp": None}
    return {"type": "BOOKMARK", "object": {"kind": labels.KIND, "apiVersion": labels.API_VERSION, "metadata": meta}}


def watches(rig: Rig) -> list[dict[str, str]]:
    """What the watches of jobs asked for, one after the other."""
    return [dict(r.params) for r in rig.server if f"/{labels.PLURAL}" in str(r.url) and "watch" in r.params]


async def test_a_watch_that_has_expired_begins_anew_with_a_listing(rig: Rig) -> None:
    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version: 7 (9)"}
    again = asyncio.Event()

    async def expires() -> AsyncIterator[Any]:
        yield b""
        await again.wait()
        yield {"type": "ERROR", "object": gone}

    rig.server[WATCH_JOBS] << expires()  # the next one is a watch as usual
    async with rig.watching():
        await rig.until(lambda: watches(rig))
        await rig.cluster.create(kinds.JOBS, a_raw_job())
        await asyncio.sleep(0.2)
        assert rig.cache.job(KEY) is None and rig.relists == 0, "this watch says nothing any more"
        again.set()
        await rig.until(lambda: rig.cache.job(KEY))
        assert rig.relists == 1, "so that what went meanwhile is looked for"
        await rig.cluster.delete(kinds.JOBS, "team", "mnist", "job-uid")
        await rig.until(lambda: rig.cache.job(KEY) is None)


async def test_bookmarks_are_no_news_and_a_watch_that_brings_nothing_else_is_blind(rig: Rig) -> None:
    end = asyncio.Event()

    async def bookmarks() -> AsyncIterator[Any]:
        for version in ("2000", "2001", "2002"):
            yield bookmark(version)
        await end.wait()

    rig.server[WATCH_JOBS] << bookmarks()
    async with rig.watching():
        await rig.until(lambda: watches(rig))
        await rig.cluster.create(kinds.JOBS, a_raw_job())
        await asyncio.sleep(0.2)
        assert rig.woken == [] and rig.cache.job(KEY) is None
        assert await rig.compared(0) is None
        problem = await rig.compared(61)
        assert problem is not None and "missed changes of 1 objects for 61 s" in problem
        end.set()
        await rig.until(lambda: rig.cache.job(KEY))
        assert watches(rig)[1]["resourceVersion"] == "2002", "the next watch goes on behind the last bookmark"
        assert await rig.compared(1) is None


async def test_a_watch_on_whose_connection_no_byte_comes_is_found_by_comparing(rig: Rig) -> None:
    put(rig, a_raw_job(), JOBS)
    proxy = Proxy(int(str(rig.server.url).rstrip("/").rsplit(":", 1)[1]))
    port = await proxy.start()

    async def through_the_proxy() -> Any:
        return dataclasses.replace(await rig.cluster.credentials(), server=f"http://127.0.0.1:{port}")

    rig.credentials = through_the_proxy
    async with rig.watching():
        await rig.until(lambda: rig.cache.job(KEY))
        proxy.freeze()
        await rig.cluster.create(PODS, a_raw_pod(0))
        assert await rig.compared(0) is None, "it may be on its way"
        assert await rig.compared(59) is None
        problem = await rig.compared(1)
        assert problem is not None and "missed changes of 1 objects for 60 s" in problem
        assert rig.cache.pods(KEY, "job-uid") == ()
        proxy.thaw()
        await rig.until(lambda: rig.cache.pods(KEY, "job-uid"))
        assert await rig.compared(1) is None
    await proxy.stop()
