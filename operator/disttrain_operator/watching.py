"""How kopf watches: much patience, no memory of its own, and never a write."""

from __future__ import annotations

from typing import Any

import kopf
from typing_extensions import override  # typing's own from Python 3.12 on; pydantic brings it

from disttrain_contract import labels

STREAMING_MINOR = 34
"""From Kubernetes 1.34 on every API server sends the first listing through the watch: no spike of memory on either side."""
SERVER_TIMEOUT = 600
"""Seconds after which a watch is asked for anew: bounds the harm of a connection that hangs in a way nobody knew."""
REQUEST_TIMEOUT = 60.0
CONNECT_TIMEOUT = 10.0
IDLE_TIMEOUT = 0.05
"""kopf keeps a task and a queue (20 KB) per object for this long after its last event; our handlers are done at once."""
ERROR_BACKOFFS = (0.5, 1.0, 2.0, 4.0, 8.0, *(15.0,) * 20)
"""Five minutes. kopf tries again after every refusal, also when watching is forbidden; then the process ends, says why, and
is started again. (A connection that cannot be made does not count: that is tried for ever.)"""


def settings(minor: int) -> kopf.OperatorSettings:
    """kopf's, for watches only, on Kubernetes 1.`minor`."""
    made = kopf.OperatorSettings()
    made.posting.enabled = False
    made.scanning.disabled = True
    made.watching.initial_streaming = minor >= STREAMING_MINOR
    made.watching.chunk_size = 500
    made.watching.server_timeout = SERVER_TIMEOUT  # a whole number: the API server refuses 600.0
    made.watching.label_selectors["", "v1", "pods"] = labels.JOB
    made.queueing.idle_timeout = IDLE_TIMEOUT
    made.networking.request_timeout = REQUEST_TIMEOUT
    made.networking.connect_timeout = CONNECT_TIMEOUT
    made.networking.error_backoffs = ERROR_BACKOFFS
    made.process.ultimate_exiting_timeout = None  # the kubelet kills what does not end
    made.persistence.finalizer = f"{labels.GROUP}/finalizer"  # not used by event handlers; ours in case that changes
    made.persistence.diffbase_storage = _NoDiffBase()
    made.persistence.progress_storage = _NoProgress()
    return made


class _NoDiffBase(kopf.DiffBaseStorage):
    """Event handlers need no diffs. kopf computes them all the same, by three deep copies of every object at every event:
    two thirds of the processor time of a start with 3,000 objects."""

    @override
    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:
        """Nothing is compared."""
        return kopf.BodyEssence({})

    @override
    def fetch(self, *, body: kopf.Body) -> None:
        """Nothing was stored."""

    @override
    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Nothing is stored."""


class _NoProgress(kopf.ProgressStorage):
    """Event handlers have none."""

    @override
    def fetch(self, *, key: Any, body: kopf.Body) -> None:
        """Nothing was stored."""

    @override
    def store(self, *, key: Any, record: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        """Nothing is stored."""

    @override
    def purge(self, *, key: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        """Nothing is there."""

    @override
    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: str | None) -> None:
        """Nothing is written."""

    @override
    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """Nothing to take out."""
        return essence
