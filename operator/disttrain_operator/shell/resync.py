"""Compares the cache with a listing of its own: finds what a watch never tells.

A watch that had to start over lists what is there but says nothing of what went meanwhile; and a watch that hangs says
nothing at all. So from time to time the names, UIDs and versions are listed (metadata only): what is not there is dropped,
and what stays different for too long means that the watch is blind, which the liveness probe reports.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from disttrain_contract import labels
from disttrain_operator.shell.cache import Cache, Key
from disttrain_operator.shell.errors import ClusterError, NotFound
from disttrain_operator.shell.kinds import JOBS, PODS, Api, Kind

log = logging.getLogger(__name__)

EVERY_SECONDS = 300.0
"""A listing of 5,000 objects is about 10 MB on the wire."""
AFTER_RELIST_SECONDS = 5.0
"""A watch that started over is compared soon: deletions were missed only then. The wait lets its events arrive."""
FIRST_SECONDS = 0.2
"""How often it is seen, at the start, whether the watches have delivered what the first listing showed."""
FIRST_LOOKS = 100
"""After twenty seconds it is listed anew: what is missing may have gone before the watches began."""
REACH_SECONDS = 2.0
BLIND_SECONDS = 60.0
"""A change that a watch has not delivered after this long will not come."""


class Resync:
    """`exists` is set when jobs can be listed at all, `synced` when the watches have delivered what was there then."""

    def __init__(
        self,
        api: Api,
        cache: Cache,
        namespaces: Sequence[str],
        on_change: Callable[[Key], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._cache = cache
        self._namespaces: Sequence[str | None] = namespaces or [None]
        self._on_change = on_change
        self._clock = clock
        self._wanted = asyncio.Event()
        self._different: dict[str, tuple[str | None, float]] = {}
        self.exists = asyncio.Event()
        self.synced = asyncio.Event()

    def relisted(self) -> None:
        """A watch has started over."""
        if self.synced.is_set():
            self._wanted.set()

    @property
    def missed(self) -> int:
        """Objects that differ from the last listing."""
        return len(self._different)

    async def _reach(self) -> None:
        """The CustomResourceDefinition may come after the operator."""
        while not self.exists.is_set():
            try:
                async for _ in self._api.listing(JOBS, self._namespaces[0], ""):
                    break
                self.exists.set()
                return
            except NotFound:
                log.warning("there is no CustomResourceDefinition of %s yet: waiting for it", labels.KIND)
            except ClusterError as error:
                log.warning("cannot list jobs, trying again: %s", error)
            await asyncio.sleep(REACH_SECONDS)

    def problem(self) -> str | None:
        """A sentence when a watch is blind."""
        oldest = min((since for _, since in self._different.values()), default=None)
        if oldest is None or self._clock() - oldest < BLIND_SECONDS:
            return None
        return f"the watches have missed changes of {len(self._different)} objects for {self._clock() - oldest:.0f} s"

    async def run(self) -> None:
        """Catch up, then compare until cancelled."""
        await self.catch_up()
        while True:
            await self._pause()
            try:
                await self.compare()
            except ClusterError as error:
                log.warning("cannot list: %s", error)

    async def catch_up(self) -> None:
        """Returns when the watches have delivered everything that was there."""
        await self._reach()
        while not self.synced.is_set():
            try:
                missing = set(await self._listed(JOBS, "")) | set(await self._listed(PODS, labels.JOB))
            except ClusterError as error:
                log.warning("cannot list, trying again: %s", error)
                await asyncio.sleep(REACH_SECONDS)
                continue
            for _ in range(FIRST_LOOKS):
                missing = {uid for uid in missing if not self._cache.has_met(uid)}
                if not missing:
                    log.info("the watches have delivered everything that was there at the start")
                    self.synced.set()
                    return
                await asyncio.sleep(FIRST_SECONDS)

    async def _pause(self) -> None:
        wait = AFTER_RELIST_SECONDS if self._different else EVERY_SECONDS
        try:
            await asyncio.wait_for(self._wanted.wait(), wait)
        except TimeoutError:
            return
        self._wanted.clear()
        await asyncio.sleep(AFTER_RELIST_SECONDS)

    async def compare(self) -> None:
        """One look at everything."""
        different = await self._compare(JOBS, "", self._cache.job_versions, self._job_gone)
        different |= await self._compare(PODS, labels.JOB, self._cache.pod_versions, self._pod_gone)
        now = self._clock()
        # Different in the same way as at the last look: since then. Otherwise events flow, and the count starts afresh.
        self._different = {
            uid: known if (known := self._different.get(uid)) is not None and known[0] == version else (version, now)
            for uid, version in different.items()
        }

    async def _listed(self, kind: Kind, selector: str) -> dict[str, str]:
        """UID → version, as it is."""
        found: dict[str, str] = {}
        for namespace in self._namespaces:
            async for item in self._api.listing(kind, namespace, selector):
                found[item.uid] = item.version
        return found

    async def _compare(
        self, kind: Kind, selector: str, versions: Callable[[], dict[str, str]], gone: Callable[[str], None]
    ) -> dict[str, str | None]:
        """UID → the version in the cache (None: not there), for what differs from the listing. Drops what has gone."""
        before = versions()
        listed = await self._listed(kind, selector)
        for uid in before.keys() - listed.keys():
            gone(uid)
        after = versions()
        # Only what has stood still since before the listing can be compared with it.
        return {
            uid: after.get(uid)
            for uid, version in listed.items()
            if after.get(uid) != version and after.get(uid) == before.get(uid)
        }

    def _job_gone(self, uid: str) -> None:
        if (key := self._cache.job_gone(uid)) is not None:
            log.warning("job %s/%s has gone without a word of the watch", *key)
            self._on_change(key)

    def _pod_gone(self, uid: str) -> None:
        if (key := self._cache.pod_gone(uid)) is not None:
            log.warning("a pod of job %s/%s has gone without a word of the watch", *key)
            self._on_change(key)
