"""The only file that imports kopf: it keeps the watches. Every handler puts what it sees into the cache and a key into the
queue. No finalizer, no annotation, no event of kopf's own: nothing is written by this file."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import kopf

from disttrain_contract import labels
from disttrain_operator.shell.cache import Cache, Key
from disttrain_operator.shell.cluster import Credentials

SERVER_TIMEOUT = 600
"""Seconds after which a watch is asked for anew: bounds the harm of a connection that hangs in a way nobody knew."""
REQUEST_TIMEOUT = 60.0
CONNECT_TIMEOUT = 10.0
IDLE_TIMEOUT = 0.05
"""kopf keeps a task and a queue (20 KB) per object for this long after its last event; our handlers are done at once."""
ERROR_BACKOFFS = (0.5, 1.0, 2.0, 4.0, 8.0, *(15.0,) * 20)
"""Five minutes. kopf tries again after every refusal, also when watching is forbidden; then the process ends, says why, and
is started again. (A connection that cannot be made does not count: that is tried for ever.)"""


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
            self._cache.job_gone(key, found["metadata"].get("uid", ""))
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


def settings(*, streaming: bool = True) -> kopf.OperatorSettings:
    """kopf's, for watches only. `streaming`: the listing comes through the watch (Kubernetes ≥ 1.34)."""
    made = kopf.OperatorSettings()
    made.posting.enabled = False
    made.scanning.disabled = True
    made.watching.initial_streaming = streaming
    made.watching.chunk_size = 500
    made.watching.server_timeout = SERVER_TIMEOUT  # a whole number: the API server refuses 600.0
    made.watching.label_selectors["", "v1", "pods"] = labels.JOB
    made.queueing.idle_timeout = IDLE_TIMEOUT
    made.networking.request_timeout = REQUEST_TIMEOUT
    made.networking.connect_timeout = CONNECT_TIMEOUT
    made.networking.error_backoffs = ERROR_BACKOFFS
    made.process.ultimate_exiting_timeout = None  # the kubelet kills what does not end
    # Not used by event handlers; ours in case that ever changes.
    made.persistence.finalizer = f"{labels.GROUP}/finalizer"
    return made


async def watch_forever(
    made: kopf.OperatorRegistry,
    namespaces: Sequence[str],
    *,
    started: asyncio.Event,
    with_settings: kopf.OperatorSettings | None = None,
) -> None:
    """Until cancelled, or until a watch dies, which raises: an operator that sees nothing must not look alive."""
    await kopf.operator(
        registry=made,
        settings=with_settings or settings(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=tuple(namespaces),
        ready_flag=started,
    )
