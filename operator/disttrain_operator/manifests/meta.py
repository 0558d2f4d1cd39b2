"""Metadata that all children share, and how times are spelled."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from disttrain_contract import labels
from disttrain_operator.core.model import Job

Manifest = dict[str, Any]


def owner(job: Job) -> Manifest:
    """The job owns the child: deleting the job deletes it, and nobody else may adopt it."""
    return {
        "apiVersion": labels.API_VERSION,
        "kind": labels.KIND,
        "name": job.name,
        "uid": job.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def child_labels(job: Job) -> dict[str, str]:
    """On everything that belongs to a job."""
    return {labels.JOB: job.name, labels.MANAGED_BY: labels.MANAGER}


def controller_uid(raw: Mapping[str, Any]) -> str | None:
    """Who owns an object; None: nobody."""
    references = raw.get("metadata", {}).get("ownerReferences")
    if not isinstance(references, list):
        return None
    return next((str(r.get("uid")) for r in references if isinstance(r, dict) and r.get("controller")), None)


def rfc3339(moment: datetime, *, fraction: bool = False) -> str:
    """UTC. metav1.Time has whole seconds; `fraction` is for fields of ours that durations are computed from."""
    moment = moment.astimezone(UTC)
    if fraction:
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(value: object) -> datetime | None:
    """None when it is not a time."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
