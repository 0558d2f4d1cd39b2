"""Raw worker pods → what the planner sees. Total, as `observe`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from disttrain_contract import labels, messages, names
from disttrain_contract.messages import Report
from disttrain_operator.core.model import Exit, Pod
from disttrain_operator.manifests import raw

Raw = Mapping[str, Any]

TAKES_ITS_COURSE = frozenset({"ContainerCreating", "PodInitializing"})
"""Waiting reasons of every healthy start."""
NO_INDEX = -1
MAX_MESSAGE = 1000
UNREACHABLE = frozenset({"NodeLost"})
DISRUPTIONS = frozenset({"Evicted", "Preempting", "Preempted", "NodeLost", "Shutdown", "NodeShutdown", "Terminated"})
"""`status.reason` of a pod that the cluster took down, not its program."""


def pod(found: Raw) -> Pod:
    """A worker pod. Whether it is foreign also depends on the job: see `Cache`."""
    meta, state = raw.obj(found, "metadata"), raw.obj(found, "status")
    marks = raw.obj(meta, "labels")
    index = _number(marks.get(labels.WORKER_INDEX))
    name = raw.text(meta, "name") or ""
    ended = _exit(state)
    return Pod(
        name=name,
        uid=raw.text(meta, "uid") or "",
        index=index if index is not None else NO_INDEX,
        incarnation=_number(marks.get(labels.INCARNATION)) or 0,
        ip=raw.text(state, "podIP"),
        node=raw.text(raw.obj(found, "spec"), "nodeName"),
        deleting="deletionTimestamp" in meta,
        exit=ended,
        lost=_lost(name, state),
        unreachable=_does_not_answer(state),
        waiting=_waiting(state) if ended is None else None,
        foreign=index is None or name != names.pod_name(raw.text(marks, labels.JOB) or "", index),
    )


def _number(value: object) -> int | None:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10 else None


def _container(state: Raw) -> Raw:
    return next((c for c in raw.objects(state, "containerStatuses") if c.get("name") == names.CONTAINER), {})


def _exit(state: Raw) -> Exit | None:
    """From the container, which never restarts; else from the phase."""
    ended = raw.obj(raw.obj(_container(state), "state"), "terminated")
    if ended:
        message = raw.text(ended, "message") or ""
        report = _last_words(message)
        code = raw.integer(ended, "exitCode")
        return Exit(
            exit_code=code if code is not None else 1,
            reason=raw.text(ended, "reason") or "",
            message="" if report is not None else message[-MAX_MESSAGE:],
            report=report,
        )
    if state.get("phase") == "Succeeded":
        return Exit(exit_code=0, reason="Completed")
    if state.get("phase") == "Failed":
        return Exit(exit_code=1, reason=raw.text(state, "reason") or "", message=raw.text(state, "message") or "")
    return None


def _last_words(message: str) -> Report | None:
    """The agent's termination message; a plain text is somebody else's."""
    try:
        return messages.decode_report(message) if message.startswith("{") else None
    except ValueError:
        return None


def _lost(name: str, state: Raw) -> str | None:
    """Ended by the cluster, or on a node that is gone. A pod that is still on its way out has time to save: not yet lost."""
    reason, phase = raw.text(state, "reason") or "", state.get("phase")
    if _does_not_answer(state):
        return f"pod {name}: its node does not answer ({reason or 'Unknown'})"
    if phase != "Failed":
        return None
    disruption = _condition(state, "DisruptionTarget")
    why = raw.text(disruption, "message") or raw.text(state, "message") or ""
    if disruption:
        return _sentence(name, raw.text(disruption, "reason") or reason, why)
    if reason in DISRUPTIONS:
        return _sentence(name, reason, why)
    if not raw.obj(raw.obj(_container(state), "state"), "terminated"):
        return _sentence(name, reason or "NodeRefused", why)  # the kubelet turned it away before it ran
    return None


def _does_not_answer(state: Raw) -> bool:
    return state.get("phase") == "Unknown" or raw.text(state, "reason") in UNREACHABLE


def _sentence(name: str, reason: str, why: str) -> str:
    return f"pod {name} was taken down by the cluster: {reason}{': ' + why[:MAX_MESSAGE] if why else ''}"


def _condition(state: Raw, kind: str) -> Raw:
    """The condition of that type when it is True."""
    return next(
        (c for c in raw.objects(state, "conditions") if c.get("type") == kind and c.get("status") == "True"), {}
    )


def _waiting(state: Raw) -> tuple[str, str] | None:
    """Why the container cannot start, in the words of scheduler or kubelet."""
    stuck = raw.obj(raw.obj(_container(state), "state"), "waiting")
    reason = raw.text(stuck, "reason")
    if reason is not None:
        return None if reason in TAKES_ITS_COURSE else (reason, (raw.text(stuck, "message") or "")[:MAX_MESSAGE])
    for condition in raw.objects(state, "conditions"):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            message = raw.text(condition, "message") or ""
            return raw.text(condition, "reason") or "Unschedulable", message[:MAX_MESSAGE]
    return None
