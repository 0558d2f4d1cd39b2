"""Objects as an API server sends them, with only what matters to a story."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from typing import Any

from disttrain_contract import labels
from disttrain_operator.core.model import Job
from disttrain_operator.manifests import meta
from disttrain_operator.shell import observe

CREATED = "2030-01-01T00:00:00Z"
NOW = datetime(2030, 1, 1, tzinfo=UTC)
Raw = dict[str, Any]

_versions = count(1000)


def a_raw_job(name: str = "mnist", *, uid: str = "job-uid", version: str | None = None, status: Raw | None = None, **spec: Any) -> Raw:  # fmt: skip
    """Defaults as the CRD sets them."""
    defaults = {"image": "trainer:1", "command": ["python", "train.py"], "workers": 3, "seed": 0, "suspend": False}
    found: Raw = {
        "apiVersion": labels.API_VERSION,
        "kind": labels.KIND,
        "metadata": {
            "name": name, "namespace": "team", "uid": uid, "generation": 1, "creationTimestamp": CREATED,
            "resourceVersion": version or str(next(_versions)),
        },
        "spec": {k: v for k, v in (defaults | spec).items() if v is not None},
    }  # fmt: skip
    return found | ({"status": status} if status is not None else {})


def a_seen_job(name: str = "mnist", **more: Any) -> Job:
    """As the planner gets it."""
    return observe.job(a_raw_job(name, **more))


def a_raw_pod(
    index: int = 0, *, job: str = "mnist", uid: str | None = None, owner: str | None = "job-uid", version: str | None = None, phase: str = "Running",
    container: Raw | None = None, deleting: bool = False, **status: Any,
) -> Raw:  # fmt: skip
    """A worker pod; `container` is the state of its container."""
    metadata: Raw = {
        "name": f"{job}-{index}", "namespace": "team", "uid": uid or f"uid-{index}", "resourceVersion": version or str(next(_versions)),
        "labels": {labels.JOB: job, labels.WORKER_INDEX: str(index), labels.INCARNATION: "1"},
    }  # fmt: skip
    if owner is not None:
        metadata["ownerReferences"] = [meta.owner(a_seen_job(job, uid=owner))]
    if deleting:
        metadata["deletionTimestamp"] = CREATED
    found: Raw = {"phase": phase, "podIP": f"198.18.0.{index + 1}"} | status
    if container is not None:
        found["containerStatuses"] = [{"name": "trainer", "state": container}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"nodeName": "node-1"}, "status": found}


def ended(code: int, reason: str = "Error", message: str = "") -> Raw:
    """A terminated container."""
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


def waiting(reason: str, message: str = "") -> Raw:
    """A container that does not start."""
    return {"waiting": {"reason": reason, "message": message}}
