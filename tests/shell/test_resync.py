from __future__ import annotations

from disttrain_operator.shell.cache import Cache
from disttrain_operator.shell.kinds import JOBS, PODS
from disttrain_operator.shell.resync import BLIND_SECONDS, Resync
from support.fake_kube import FakeKube
from support.raw_objects import a_raw_job, a_raw_pod

KEY = ("team", "mnist")


class Rig:
    def __init__(self) -> None:
        self.kube, self.cache, self.woken, self.time = FakeKube(), Cache(), [], 0.0
        self.resync = Resync(self.kube, self.cache, (), self.woken.append, clock=lambda: self.time)
        self.kube.put(JOBS, a_raw_job())
        self.kube.put(PODS, a_raw_pod(0))

    async def after(self, seconds: float) -> str | None:
        self.time += seconds
        await self.resync.compare()
        return self.resync.problem()


async def test_synced_when_the_watches_have_told_everything() -> None:
    rig = Rig()
    await rig.resync.compare()
    assert not rig.resync.synced.is_set()
    rig.kube.deliver(rig.cache, 1)
    await rig.resync.compare()
    assert not rig.resync.synced.is_set(), "the pod is still missing"
    rig.kube.deliver(rig.cache)
    await rig.resync.compare()
    assert rig.resync.synced.is_set()


async def test_an_empty_cluster_is_synced_at_once() -> None:
    resync = Resync(FakeKube(), Cache(), (), lambda key: None)
    await resync.compare()
    assert resync.synced.is_set()


async def test_what_went_without_a_word_is_dropped_and_its_job_looked_at() -> None:
    rig = Rig()
    rig.kube.deliver(rig.cache)
    rig.kube.remove(PODS, "team", "mnist-0")
    rig.kube.told.clear()  # the watch started over just then
    await rig.resync.compare()
    assert rig.cache.pods(KEY, "job-uid") == () and rig.woken == [KEY]


async def test_a_job_that_went_without_a_word_is_dropped() -> None:
    rig = Rig()
    rig.kube.deliver(rig.cache)
    rig.kube.remove(JOBS, "team", "mnist")
    rig.kube.told.clear()
    await rig.resync.compare()
    assert rig.cache.job(KEY) is None and KEY in rig.woken


async def test_what_appears_while_it_lists_is_not_taken_for_gone() -> None:
    rig = Rig()
    rig.kube.deliver(rig.cache)
    await rig.resync.compare()
    late = a_raw_pod(1)
    listing = rig.kube.listing

    async def and_then(kind, *rest):  # type: ignore[no-untyped-def]
        async for item in listing(kind, *rest):
            yield item
        if kind == PODS:
            rig.cache.pod_seen(late)

    rig.kube.listing = and_then  # type: ignore[method-assign]
    await rig.resync.compare()
    assert {p.uid for p in rig.cache.pods(KEY, "job-uid")} == {"uid-0", "uid-1"}


async def test_a_watch_that_stays_behind_for_a_minute_is_blind() -> None:
    rig = Rig()
    rig.kube.deliver(rig.cache)
    assert await rig.after(0) is None
    rig.kube.change(PODS, "team", "mnist-0", lambda p: p["status"].update(phase="Failed"))
    assert await rig.after(5) is None
    assert await rig.after(BLIND_SECONDS - 1) is None
    problem = await rig.after(1)
    assert problem is not None and "1 objects" in problem
    rig.kube.deliver(rig.cache)
    assert await rig.after(0) is None


async def test_a_busy_object_is_not_a_blind_watch() -> None:
    rig = Rig()
    for _ in range(30):
        rig.kube.deliver(rig.cache)
        rig.kube.change(PODS, "team", "mnist-0", lambda p: p["metadata"].update(x="y"))
        assert await rig.after(10) is None, "always one event behind, but never the same one"


async def test_only_the_given_namespaces_are_listed() -> None:
    kube = FakeKube()
    kube.put(JOBS, a_raw_job())
    resync = Resync(kube, Cache(), ("elsewhere",), lambda key: None)
    await resync.compare()
    assert resync.synced.is_set()
