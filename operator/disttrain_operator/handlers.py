"""kopf keeps the watches (only this file and `watching` import it). Every handler puts what it sees into the cache and a key
into the queue. No finalizer, no annotation, no event of kopf's own: nothing is written by this file."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import kopf

from disttrain_contract import labels
from disttrain_operator.shell.cache import Cache, Key
from disttrain_operator.shell.cluster import Credentials


class Watch:
    """What the watches call. `on_pod_gone` is for the agents' hub, `on_event` for metrics, `on_relist` for the resync."""

    def __init__(
        self,
        cache: Cache,
        add: Callable[[Key], None],
        *,
        on_pod_gone: Callable[[str], None] = lambda uid: None,
        on_event: Callable[[str], None] = lambda resource: None,
        on_relist: Callable[[], None] = lambda: None,
    ) -> None:
        self._cache = cache
        self._add = add
        self._on_pod_gone = on_pod_gone
        self._on_event = on_event
        self._on_relist = on_relist

    async def job(self, event: kopf.RawEvent, **_: Any) -> None:
        """A DistTrainJob was seen."""
        found = self._told(labels.PLURAL, event)
        key = (found["metadata"].get("namespace", ""), found["metadata"]["name"])
        if event["type"] == "DELETED":
            self._cache.job_gone(found["metadata"].get("uid", ""))
        else:
            self._cache.job_seen(found)
        self._add(key)

    async def pod(self, event: kopf.RawEvent, **_: Any) -> None:
        """A worker pod was seen."""
        found = self._told("pods", event)
        if event["type"] == "DELETED":
            uid = found["metadata"].get("uid", "")
            key = self._cache.pod_gone(uid)
            self._on_pod_gone(uid)
        else:
            key = self._cache.pod_seen(found)
        if key is not None:
            self._add(key)

    def _told(self, resource: str, event: kopf.RawEvent) -> dict[str, Any]:
        self._on_event(resource)
        if event["type"] is None:  # part of a listing: the watch has begun, or begun anew
            self._on_relist()
        return dict(event["object"])


def registry(watch: Watch, credentials: Callable[[], Awaitable[Credentials]]) -> kopf.OperatorRegistry:
    """Two event handlers and a login."""
    made = kopf.OperatorRegistry()

    async def login(**_: Any) -> kopf.ConnectionInfo:
        found = await credentials()
        return kopf.ConnectionInfo(
            server=found.server,
            ca_path=found.ca_path,
            certificate_path=found.certificate_path,
            private_key_path=found.private_key_path,
            token=found.token,
            insecure=found.insecure,
            proxy_url=found.proxy,
        )

    kopf.on.login(registry=made, id="login")(login)
    kopf.on.event(labels.GROUP, labels.VERSION, labels.PLURAL, registry=made, id="job")(watch.job)
    kopf.on.event("", "v1", "pods", registry=made, id="pod")(watch.pod)
    return made


async def watch_forever(
    made: kopf.OperatorRegistry,
    namespaces: Sequence[str],
    *,
    started: asyncio.Event,
    chosen: kopf.OperatorSettings,
) -> None:
    """Until cancelled, or until a watch dies, which raises: an operator that sees nothing must not look alive."""
    await kopf.operator(
        registry=made,
        settings=chosen,
        standalone=True,
        clusterwide=not namespaces,
        namespaces=tuple(namespaces),
        ready_flag=started,
    )
