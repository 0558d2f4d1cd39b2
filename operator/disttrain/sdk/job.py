"""A job, its workers and its events as read from the API server: thin views over raw objects.

They forgive what they do not know, so that an older CLI can look at a newer operator's jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from disttrain.api.status import Condition, DistTrainJobStatus
from disttrain.sdk.visible import all_visible, visible
from disttrain_contract import labels, names

Raw = Mapping[str, Any]
GPU_SUFFIX = "/gpu"


@dataclass(frozen=True)
class Job:
    """One DistTrainJob."""

    raw: Raw

    @property
    def name(self) -> str:
        """metadata.name"""
        return str(self.raw["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """metadata.namespace"""
        return str(self.raw["metadata"].get("namespace", ""))

    @property
    def uid(self) -> str:
        """metadata.uid"""
        return str(self.raw["metadata"].get("uid", ""))

    @property
    def spec(self) -> Raw:
        """spec, raw."""
        return self.raw.get("spec") or {}

    @property
    def created(self) -> datetime | None:
        """When it was submitted."""
        return parse_time(self.raw["metadata"].get("creationTimestamp"))

    @property
    def deleting(self) -> bool:
        """It is being deleted."""
        return "deletionTimestamp" in self.raw["metadata"]

    @cached_property
    def status(self) -> DistTrainJobStatus:
        """status, typed and safe to show; fields of a newer operator are left out."""
        return DistTrainJobStatus.model_validate(all_visible(self.raw.get("status") or {}), extra="ignore")

    @property
    def state(self) -> str:
        """One word for people."""
        return "Deleting" if self.deleting else self.status.state or "Pending"

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type."""
        return next((c for c in self.status.conditions or () if c.type == kind), None)

    def holds(self, kind: str) -> bool:
        """Whether that condition is True."""
        found = self.condition(kind)
        return found is not None and found.status == "True"

    @property
    def succeeded(self) -> bool:
        """It reached its end."""
        return self.holds("Succeeded")

    @property
    def failed(self) -> bool:
        """It will not be tried again."""
        return self.holds("Failed")

    @property
    def finished(self) -> bool:
        """Nothing more will happen."""
        return self.succeeded or self.failed

    @property
    def suspended(self) -> bool:
        """Its workers are gone and it waits for a resume."""
        return self.holds("Suspended")

    @property
    def workers(self) -> int:
        """spec.workers"""
        return int(self.spec.get("workers") or 1)

    @property
    def standby(self) -> int:
        """spec.standby"""
        return int(self.spec.get("standby") or 0)

    @property
    def seats(self) -> tuple[int, ...]:
        """Group position → worker index of the pod that holds it now."""
        return tuple(self.status.seats or range(self.workers))

    @property
    def processes(self) -> int:
        """Ranks per worker, as the spec says; auto is one per GPU, else one."""
        asked = self.spec.get("processesPerWorker", "auto")
        if isinstance(asked, int):
            return asked
        limits = (self.spec.get("resources") or {}).get("limits") or {}
        gpus = sum(int(n) for name, n in limits.items() if name.endswith(GPU_SUFFIX) and str(n).isdigit())
        return max(1, gpus)

    def can_have_run(self, worker: int, rank: int) -> bool:
        """Whether that pod's log can hold lines of the rank. Places move when a standby takes one: then any pod may have had it."""
        moved = self.standby > 0 or self.seats != tuple(range(self.workers))
        return moved or worker == rank // self.processes


@dataclass(frozen=True)
class Worker:
    """One worker pod."""

    raw: Raw

    @property
    def name(self) -> str:
        """The pod's name."""
        return str(self.raw["metadata"]["name"])

    @property
    def uid(self) -> str:
        """Another pod of the same name has another one."""
        return str(self.raw["metadata"].get("uid", ""))

    @property
    def index(self) -> int:
        """Worker index."""
        text = (self.raw["metadata"].get("labels") or {}).get(labels.WORKER_INDEX, "")
        return int(text) if text.isdigit() else -1

    @property
    def incarnation(self) -> str:
        """The incarnation that it was created for."""
        return str((self.raw["metadata"].get("labels") or {}).get(labels.INCARNATION, "?"))

    @property
    def node(self) -> str:
        """Where it runs; empty until it is scheduled."""
        return str((self.raw.get("spec") or {}).get("nodeName") or "")

    @property
    def created(self) -> datetime | None:
        """When the pod was made."""
        return parse_time(self.raw["metadata"].get("creationTimestamp"))

    @property
    def container(self) -> Raw:
        """The trainer container's status."""
        found = (self.raw.get("status") or {}).get("containerStatuses") or ()
        return next((c for c in found if c.get("name") == names.CONTAINER), {})

    @property
    def started(self) -> bool:
        """Its container has run, so that there may be a log."""
        state = self.container.get("state") or {}
        return "running" in state or "terminated" in state

    @property
    def ended(self) -> bool:
        """Its container will not print any more."""
        phase = (self.raw.get("status") or {}).get("phase")
        return phase in ("Succeeded", "Failed")

    @property
    def summary(self) -> str:
        """What `kubectl get pods` would say, with the reason when it waits or has failed."""
        return visible(self._summary())

    def _summary(self) -> str:
        if "deletionTimestamp" in self.raw["metadata"]:
            return "Terminating"
        status = self.raw.get("status") or {}
        state = self.container.get("state") or {}
        if waiting := state.get("waiting"):
            return str(waiting.get("reason") or "Waiting")
        if ended := state.get("terminated"):
            code = ended.get("exitCode")
            return f"{ended.get('reason') or 'Ended'} ({code})" if code else "Completed"
        return str(status.get("reason") or unschedulable(status) or status.get("phase") or "Pending")


def unschedulable(status: Raw) -> str:
    """`Unschedulable` when the scheduler says so."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("reason") or "")
    return ""


@dataclass(frozen=True)
class Happening:
    """A Kubernetes Event about the job or one of its pods."""

    raw: Raw

    @property
    def reason(self) -> str:
        """One CamelCase word."""
        return visible(str(self.raw.get("reason") or ""))

    @property
    def message(self) -> str:
        """The sentence."""
        return visible(str(self.raw.get("message") or "").strip())

    @property
    def warning(self) -> bool:
        """Somebody should look."""
        return self.raw.get("type") == "Warning"

    @property
    def about(self) -> str:
        """`DistTrainJob/mnist`, `Pod/mnist-0`."""
        thing = self.raw.get("involvedObject") or {}
        return f"{thing.get('kind', '')}/{thing.get('name', '')}"

    @property
    def time(self) -> datetime | None:
        """When it was last seen."""
        series = self.raw.get("series") or {}
        stamps = (series.get("lastObservedTime"), self.raw.get("lastTimestamp"), self.raw.get("eventTime"))
        first = next((s for s in stamps if s), self.raw["metadata"].get("creationTimestamp"))
        return parse_time(first)


def parse_time(text: object) -> datetime | None:
    """RFC 3339, as the API server writes it; None when there is none."""
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
