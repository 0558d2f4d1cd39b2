"""Prometheus metrics: one table of names. Shaped after controller-runtime's; never a job's name or a user's as a label."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from disttrain_operator.core.model import Status

FAST = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
RECOVERY = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800)

TABLE: tuple[tuple[str, type, str, tuple[str, ...]], ...] = (
    ("reconcile", Counter, "Passes.", ("result",)),
    ("reconcile_duration_seconds", Histogram, "How long a pass takes.", ()),
    ("workqueue_depth", Gauge, "Jobs that wait for a pass.", ()),
    ("workqueue_adds", Counter, "Jobs put into the queue.", ()),
    ("workqueue_retries", Counter, "Passes that failed and are tried again.", ()),
    ("workqueue_queue_duration_seconds", Histogram, "How long a job waits for its pass.", ()),
    ("workqueue_oldest_seconds", Gauge, "How long the slowest job waits for its pass or its end.", ()),
    ("api_requests", Counter, "Requests to the API server; code 0: no reply.", ("verb", "resource", "code")),
    ("watch_events", Counter, "Events that the watches delivered.", ("resource",)),
    ("watch_last_event_timestamp_seconds", Gauge, "When the last one came.", ("resource",)),
    ("watch_missed_objects", Gauge, "Objects whose change no watch has delivered.", ()),
    ("leader", Gauge, "1 while this replica acts.", ()),
    ("agents_connected", Gauge, "Worker agents with an open stream.", ()),
    ("jobs", Gauge, "Jobs by state.", ("state",)),
    ("node_mark", Gauge, "What recorded failures hold against a node; from 0.5 on new pods avoid it.", ("node",)),
    ("job_recoveries", Counter, "Restarts of a group of workers, by the class of the failure.", ("reason",)),
    ("job_recovery_seconds", Histogram, "From a failure to the first new step.", ()),
    ("job_lost_steps", Counter, "Finished steps that had to be run again.", ()),
    ("jobs_finished", Counter, "Jobs that came to their end.", ("result",)),
)
"""Name without the prefix (Prometheus adds _total to counters), kind, help, labels."""

PREFIX = "disttrain_"

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nobody reads


class Metrics:
    """Gauges are read when somebody asks for them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._all = {name: self._make(name, kind, text, found) for name, kind, text, found in TABLE}
        self._refresh: list[Callable[[], None]] = []

    def _make(self, name: str, kind: type, text: str, label_names: tuple[str, ...]) -> Counter | Gauge | Histogram:
        if kind is Histogram:
            buckets = RECOVERY if name.startswith("job_") else FAST
            return Histogram(PREFIX + name, text, label_names, registry=self._registry, buckets=buckets)
        made: Counter | Gauge = kind(PREFIX + name, text, label_names, registry=self._registry)
        return made

    def count(self, name: str, *values: str, by: float = 1) -> None:
        """Raise a counter."""
        metric = self._all[name]
        assert isinstance(metric, Counter)
        (metric.labels(*values) if values else metric).inc(by)

    def observe(self, name: str, value: float) -> None:
        """Add to a histogram."""
        metric = self._all[name]
        assert isinstance(metric, Histogram)
        metric.observe(value)

    def set(self, name: str, value: float, *values: str) -> None:
        """Set a gauge."""
        metric = self._all[name]
        assert isinstance(metric, Gauge)
        (metric.labels(*values) if values else metric).set(value)

    def stamp(self, name: str, *values: str) -> None:
        """Set a gauge to the present time."""
        metric = self._all[name]
        assert isinstance(metric, Gauge)
        (metric.labels(*values) if values else metric).set_to_current_time()

    def set_all(self, name: str, found: Mapping[str, float]) -> None:
        """Set a gauge for each label value; those not named vanish."""
        metric = self._all[name]
        assert isinstance(metric, Gauge)
        metric.clear()
        for label, value in found.items():
            metric.labels(label).set(value)

    def on_scrape(self, refresh: Callable[[], None]) -> None:
        """Bring gauges up to date before they are read."""
        self._refresh.append(refresh)

    def transition(self, old: Status, new: Status) -> None:
        """What a status write says about recoveries and ends."""
        last = new.last_recovery
        if new.recoveries > old.recoveries and last is not None:
            self.count("job_recoveries", str(last.failure_class), by=new.recoveries - old.recoveries)
        before = old.last_recovery
        if last is not None and last.recover_seconds is not None and (before is None or before.recover_seconds is None):
            self.observe("job_recovery_seconds", last.recover_seconds)
            self.count("job_lost_steps", by=last.lost_steps or 0)
        if new.completion_time is not None and old.completion_time is None:
            self.count("jobs_finished", new.state or "Unknown")

    def text(self) -> bytes:
        """The exposition format."""
        for refresh in self._refresh:
            refresh()
        return generate_latest(self._registry)
