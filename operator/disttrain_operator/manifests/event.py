"""What `kubectl describe` shows below a job."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from disttrain_contract import labels
from disttrain_operator.core.actions import Event
from disttrain_operator.core.model import Job
from disttrain_operator.manifests.meta import Manifest

MAX_NOTE = 1024
"""The API server refuses a longer note."""


def event(job: Job, said: Event, *, transition: str, reporter: str, now: datetime) -> Manifest:
    """One event of one transition. The name is a function of what is said and of the status write it belongs to
    (`transition`: its resourceVersion), so that saying it twice is an AlreadyExists."""
    key = "\0".join((job.uid, transition, said.reason, said.message))
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{job.name}.{digest}", "namespace": job.namespace},
        "eventTime": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": f"{labels.GROUP}/operator",
        "reportingInstance": reporter[:128] or "operator",
        "action": said.reason,
        "reason": said.reason,
        "type": "Warning" if said.warning else "Normal",
        "note": clip(said.message),
        "regarding": {
            "apiVersion": labels.API_VERSION,
            "kind": labels.KIND,
            "namespace": job.namespace,
            "name": job.name,
            "uid": job.uid,
        },
    }


def clip(text: str, limit: int = MAX_NOTE) -> str:
    """By UTF-8 bytes, which is what the API server counts."""
    raw = text.encode()
    return text if len(raw) <= limit else raw[: limit - 3].decode(errors="ignore") + "…"
