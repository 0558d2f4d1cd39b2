"""The operator's process: its parts wired together, run until told to stop or until one of them ends."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from datetime import datetime

from disttrain_operator import handlers, watching
from disttrain_operator.channel import AgentHub, PodIdentity, StreamServer
from disttrain_operator.core import marks
from disttrain_operator.manifests.pod import Stream
from disttrain_operator.reconciler import Reconciler
from disttrain_operator.settings import Settings
from disttrain_operator.shell import logs
from disttrain_operator.shell.apply import Applier
from disttrain_operator.shell.cache import Cache, Key
from disttrain_operator.shell.cluster import Cluster
from disttrain_operator.shell.health import HealthServer
from disttrain_operator.shell.leader import Leader
from disttrain_operator.shell.lookups import Lookups
from disttrain_operator.shell.metrics import Metrics
from disttrain_operator.shell.recorder import Recorder
from disttrain_operator.shell.resync import Resync
from disttrain_operator.shell.tls import Certificates
from disttrain_operator.shell.tokens import authenticator
from disttrain_operator.workqueue import Handled, WorkQueue

log = logging.getLogger(__name__)

STUCK_SECONDS = 300.0
"""A pass is a handful of requests of at most 30 s each; a job that waits for longer than this will not move by itself."""
EVERYWHERE = "0.0.0.0"


class Operator:
    """All parts. To be made inside the event loop that runs them."""

    def __init__(self, settings: Settings, cluster: Cluster, metrics: Metrics, now: Callable[[], datetime]) -> None:
        self.settings = settings
        self.cluster = cluster
        self.metrics = metrics
        self.certificates = Certificates(settings.tls_dir) if settings.tls_dir is not None else None
        self.cache = Cache()
        self.leader = Leader(
            cluster, namespace=settings.namespace, name=settings.lease_name, identity=settings.pod, now=now
        )
        self.hub = AgentHub(authenticate=authenticator(cluster), is_leader=self.leader, on_change=self._agent_changed)
        self._now = now
        self.reconciler = self._reconciler(now)
        self.queue: WorkQueue[Key] = WorkQueue(
            self.reconciler.reconcile,
            on_add=lambda: metrics.count("workqueue_adds"),
            on_handled=self._handled,
            context=lambda key: logs.about(namespace=key[0], job=key[1]),
        )
        self.resync = Resync(cluster, self.cache, settings.watch_namespaces, self.queue.add)
        self.streams = StreamServer(self.hub, self.certificates.context if self.certificates is not None else None)
        self.health = HealthServer(metrics, live=self._live(), ready={"watches": self._unsynced})
        metrics.on_scrape(self._gauges)

    def _reconciler(self, now: Callable[[], datetime]) -> Reconciler:
        lookups = Lookups(self.cluster)
        return Reconciler(
            api=self.cluster,
            cache=self.cache,
            lookups=lookups,
            applier=Applier(self.cluster, self.cache, lookups, self.hub.assign, self._stream),
            recorder=Recorder(self.cluster, self.settings.pod),
            metrics=self.metrics,
            heard=self.hub.report_of,
            leading_seconds=lambda: self.hub.leading_seconds,
            is_leader=self.leader,
            now=now,
            trusted=self.settings.trusted_nodes,
        )

    async def run(self, stop: asyncio.Event, started: asyncio.Event) -> None:
        """Returns when `stop` is set; raises what ended a part that should not end. `started`: the watches are on."""
        await self.health.start(EVERYWHERE, self.settings.health_port)
        await self.streams.start(EVERYWHERE, self.settings.stream_port)
        watching = asyncio.create_task(self._watch(started), name="watch")
        working = [
            asyncio.create_task(self.resync.run(), name="resync"),
            asyncio.create_task(self._lead(), name="lead"),
            asyncio.create_task(self._renew_certificates(), name="certificates"),
        ]
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait({watching, stopping, *working}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()
                raise RuntimeError(f"{task.get_name()} has ended")
        finally:
            await _cancel(stopping, *working)
            await self.leader.release()
            await self.streams.stop()
            await _cancel(watching)  # the last: kopf cancels whatever was started after it
            await self.health.stop()

    async def _watch(self, started: asyncio.Event) -> None:
        watch = handlers.Watch(
            self.cache,
            self.queue.add,
            on_pod_gone=self.hub.forget,
            on_event=self._event,
            on_relist=self.resync.relisted,
        )
        made = handlers.registry(watch, self.cluster.credentials)
        await self.resync.exists.wait()
        chosen = watching.settings(await self.cluster.minor_version())
        await handlers.watch_forever(made, self.settings.watch_namespaces, started=started, chosen=chosen)

    async def _lead(self) -> None:
        """Only who sees everything may lead: a plan for half a world would restart jobs that are well."""
        await self.resync.synced.wait()
        await self.leader.acquire()
        for seen in list(self.cache.jobs()):
            self.queue.add((seen.job.namespace, seen.job.name))
        passing = asyncio.create_task(self.queue.run(), name="queue")
        try:
            await self.leader.hold()
        finally:
            await _cancel(passing)

    async def _renew_certificates(self) -> None:
        if self.certificates is not None:
            await self.certificates.run()
        await asyncio.Event().wait()

    def _stream(self) -> Stream:
        return Stream(url=self.settings.stream_url, ca=self.certificates.ca if self.certificates is not None else "")

    def _agent_changed(self, pod: PodIdentity) -> None:
        if (key := self.cache.key_of_pod(pod.uid)) is not None:
            self.queue.add(key)

    def _event(self, resource: str) -> None:
        self.metrics.count("watch_events", resource)
        self.metrics.stamp("watch_last_event_timestamp_seconds", resource)

    def _handled(self, handled: Handled) -> None:
        self.metrics.count("reconcile", handled.result)
        if handled.result != "success":
            self.metrics.count("workqueue_retries")
        self.metrics.observe("reconcile_duration_seconds", handled.took)
        self.metrics.observe("workqueue_queue_duration_seconds", handled.waited)

    def _gauges(self) -> None:
        self.metrics.set("workqueue_depth", self.queue.depth)
        self.metrics.set("workqueue_oldest_seconds", self.queue.oldest_seconds)
        self.metrics.set("watch_missed_objects", self.resync.missed)
        self.metrics.set("leader", self.leader())
        self.metrics.set("agents_connected", self.hub.connected)
        self.metrics.set_all("jobs", Counter(seen.job.status.state or "New" for seen in self.cache.jobs()))
        found = marks.marks(self.cache.node_failures(), self._now(), self.settings.trusted_nodes)
        self.metrics.set_all("node_mark", {m.node: round(m.score, 3) for m in found})

    def _live(self) -> dict[str, Callable[[], str | None]]:
        return {"watches": self.resync.problem, "queue": self._stuck, "lease": self.leader.problem}

    def _stuck(self) -> str | None:
        age = self.queue.oldest_seconds if self.leader() else 0.0
        return f"a job has waited for its pass for {age:.0f} s" if age > STUCK_SECONDS else None

    def _unsynced(self) -> str | None:
        return None if self.resync.synced.is_set() else "the watches have not delivered everything yet"


async def _cancel(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
