"""One operator acts: a Lease says which.

Own code, because the election of `kubernetes.aio` (37.0) waits up to five minutes for a reply, so that its renew deadline
does not hold, and dies of a refused connection. Durations are measured on the monotonic clock; the times in the Lease are
for people and for other implementations, and are never compared with a clock of ours.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from disttrain_operator.manifests import raw
from disttrain_operator.shell.errors import ClusterError, NotFound
from disttrain_operator.shell.kinds import LEASES, Api, Raw

log = logging.getLogger(__name__)

LEASE_SECONDS = 15
"""A silent leader is replaced after this long."""
RENEW_DEADLINE = 10.0
"""A leader that could not renew for this long stops acting: well before anybody may replace it."""
RETRY_SECONDS = 2.0
"""Client-go's three numbers: the ones that clusters are tuned for."""

STALLED_SECONDS = 60.0
"""The loop comes round every 2 s, or 7 s while the API server is silent."""


class LeaseLost(Exception):
    """Somebody else may act by now: this process must end, whatever it was doing."""


class Leader:
    """`identity` should stay the same when the container restarts in its pod: then it goes on at once."""

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._namespace, self._name = namespace, name
        self.identity = identity
        self._clock = clock
        self._now = now
        self._seen: tuple[Any, float] | None = None
        self._lease: Raw | None = None
        self._until: float | None = None
        self._ticked: float | None = None

    def __call__(self) -> bool:
        """Whether this process may act now."""
        return self._until is not None and self._clock() < self._until

    def problem(self) -> str | None:
        """A sentence when the loop does not come round any more."""
        if self._ticked is None or self._clock() - self._ticked < STALLED_SECONDS:
            return None
        return f"the lease loop has not come round for {self._clock() - self._ticked:.0f} s"

    async def acquire(self) -> None:
        """Returns as the leader."""
        while not await self._try():
            await asyncio.sleep(RETRY_SECONDS * random.uniform(0.8, 1.2))
        log.info("leading as %s", self.identity)

    async def hold(self) -> None:
        """Renew until it cannot be renewed: raises LeaseLost."""
        while self():
            await asyncio.sleep(RETRY_SECONDS)
            await self._try()
        self._until = None
        raise LeaseLost(f"lease {self._namespace}/{self._name} could not be renewed for {RENEW_DEADLINE:.0f} s")

    async def release(self) -> None:
        """On an orderly end: the next one need not wait."""
        if self() and self._lease is not None:
            self._until = None
            try:
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._api.replace(LEASES, self._body(self._lease, holder=""))
            except (ClusterError, TimeoutError) as error:
                log.warning("lease not released: %s", error)

    async def _try(self) -> bool:
        self._ticked = started = self._clock()
        try:
            async with asyncio.timeout(RENEW_DEADLINE / 2):
                taken = await self._take()
        except (ClusterError, TimeoutError) as error:
            log.warning("lease: %s", str(error) or type(error).__name__)
            return False
        if taken:
            self._until = started + RENEW_DEADLINE  # counted from before the request: others count from its arrival
        return taken

    async def _take(self) -> bool:
        try:
            lease = await self._api.get(LEASES, self._namespace, self._name)
        except NotFound:
            self._lease = await self._api.create(LEASES, self._body(None, holder=self.identity))
            return True
        spec = raw.obj(lease, "spec")
        if not self._is_free(spec):
            return False
        self._lease = await self._api.replace(LEASES, self._body(lease, holder=self.identity))
        return True

    def _is_free(self, spec: Any) -> bool:
        """Ours, nobody's, or unchanged for its whole duration by our own clock."""
        holder = raw.text(spec, "holderIdentity")
        if holder is None or holder == self.identity:
            return True
        mark = (holder, spec.get("renewTime"), spec.get("leaseTransitions"))
        now = self._clock()
        if self._seen is None or self._seen[0] != mark:
            self._seen = (mark, now)
            return False
        return now - self._seen[1] >= (raw.number(spec, "leaseDurationSeconds") or LEASE_SECONDS)

    def _body(self, lease: Raw | None, *, holder: str) -> Raw:
        """Written over the very version that was read."""
        old = raw.obj(lease or {}, "spec")
        stamp = self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        same = raw.text(old, "holderIdentity") == holder
        transitions = raw.integer(old, "leaseTransitions") or 0
        meta: Raw = {"name": self._name, "namespace": self._namespace}
        if lease is not None:
            meta["resourceVersion"] = lease["metadata"].get("resourceVersion")
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": meta,
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": LEASE_SECONDS if holder else 1,
                "acquireTime": old.get("acquireTime", stamp) if same else stamp,
                "renewTime": stamp,
                "leaseTransitions": transitions + (0 if lease is None or same or not holder else 1),
            },
        }
