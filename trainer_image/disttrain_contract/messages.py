"""The stream between agent and operator, and the pipe between rank and agent.

Both directions of the stream are level-based: a `Report` is the agent's whole present state, an `Assignment` the
whole of what its pod should be doing. A message that is lost, doubled, late or out of order changes nothing.
JSON objects, one per WebSocket text frame (or per line on the pipe). Unknown keys are ignored so that versions can differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, TypeVar

from disttrain_contract.failures import FailureClass

VERSION = 1
MAX_MESSAGE_BYTES = 64 * 1024
"""A report is about 1 KB; anything larger is a mistake or an attack and closes the stream."""
MAX_TRACEBACK = 6000
MAX_METRICS = 32
"""Per report, so that status stays small."""

HEARTBEAT_SECONDS = 2.0
LEASE_SECONDS = 6.0
"""Three missed heartbeats: a busy node misses one, a dead one misses all."""
PROGRESS_SECONDS = 1.0
REASSIGN_WAIT_SECONDS = 60.0
"""How long an agent with a failed rank keeps its pod and waits for a newer incarnation before it gives up and exits."""


class AgentState(StrEnum):
    """What the ranks of a pod are doing."""

    IDLE = "idle"
    RUNNING = "running"
    FAILED = "failed"
    FINISHED = "finished"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where training is. Rank 0 reports it."""

    step: int
    total_steps: int | None = None
    epoch: int | None = None
    loss: float | None = None
    samples_per_second: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A committed checkpoint: its manifest exists and verifies."""

    step: int
    digest: str
    path: str
    incarnation: int
    time: str
    """RFC 3339, from the pod's clock; for people only, nothing is decided by it."""
    bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointProblem:
    """Saving failed; training went on."""

    step: int
    reason: str
    """CamelCase: DiskFull, ReadOnly, IOError, Fenced."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """What the incarnation started from."""

    step: int
    source: str
    """`volume`, or `none` for a fresh start."""
    digest: str = ""
    skipped: tuple[str, ...] = ()
    """One sentence for each newer checkpoint that did not verify, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The first failing rank of this pod in this incarnation."""

    rank: int
    local_rank: int
    exit_code: int
    failure_class: FailureClass
    message: str
    """One line: the traceback's last line, or what killed it."""
    traceback: str = ""
    step: int | None = None
    seconds_ago: float = 0.0
    """Age of the failure when the report was sent: clocks of two machines are never compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Agent → operator: the whole present state of one pod."""

    incarnation: int
    """The one its ranks belong to; 0 before the first."""
    state: AgentState
    processes: int = 1
    progress: Progress | None = None
    checkpoint: Checkpoint | None = None
    checkpoint_problem: CheckpointProblem | None = None
    restore: Restore | None = None
    failure: Failure | None = None
    version: int = VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """The group of one incarnation."""

    incarnation: int
    workers: int
    processes_per_worker: int
    master_addr: str
    master_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Operator → agent: the whole of what this pod should do now."""

    job_uid: str
    incarnation: int
    """The job's present incarnation. Ranks of an older one are stopped at once."""
    membership: Membership | None = None
    """None: not everybody is there yet, wait."""
    stop: str | None = None
    """A reason: end the ranks (they checkpoint first) and exit."""
    version: int = VERSION


class RankEvent(StrEnum):
    """What a rank tells its agent."""

    PROGRESS = "progress"
    CHECKPOINT = "checkpoint"
    CHECKPOINT_PROBLEM = "checkpointProblem"
    RESTORE = "restore"
    FAILURE = "failure"


T = TypeVar("T")


def encode(message: Report | Assignment) -> str:
    """One frame."""
    return json.dumps(asdict(message), separators=(",", ":"))


def encode_rank_message(event: RankEvent, body: Progress | Checkpoint | CheckpointProblem | Restore | Failure) -> bytes:
    """One line on the pipe."""
    return json.dumps({"event": event, "body": asdict(body)}, separators=(",", ":")).encode() + b"\n"


def decode_rank_message(line: bytes | str) -> tuple[RankEvent, Progress | Checkpoint | CheckpointProblem | Restore | Failure]:
    """Raises ValueError when it is not one of ours."""
    raw = _object(line)
    match RankEvent(raw.get("event")):
        case RankEvent.PROGRESS as event:
            return event, _build(Progress, raw.get("body"))
        case RankEvent.CHECKPOINT as event:
            return event, _build(Checkpoint, raw.get("body"))
        case RankEvent.CHECKPOINT_PROBLEM as event:
            return event, _build(CheckpointProblem, raw.get("body"))
        case RankEvent.RESTORE as event:
            return event, _restore(raw.get("body"))
        case RankEvent.FAILURE as event:
            return event, _failure(raw.get("body"))


def decode_report(text: str | bytes) -> Report:
    """Raises ValueError: an agent is never trusted to be well-formed."""
    raw = _object(text)
    try:
        return replace(
            _build(Report, {k: raw[k] for k in ("incarnation", "processes", "version") if k in raw} | {"state": AgentState(raw["state"])}),
            progress=_optional(Progress, raw.get("progress")),
            checkpoint=_optional(Checkpoint, raw.get("checkpoint")),
            checkpoint_problem=_optional(CheckpointProblem, raw.get("checkpoint_problem")),
            restore=_restore(raw["restore"]) if raw.get("restore") else None,
            failure=_failure(raw["failure"]) if raw.get("failure") else None,
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"malformed report: {error}") from error


def decode_assignment(text: str | bytes) -> Assignment:
    """Raises ValueError when malformed."""
    raw = _object(text)
    members = _optional(Membership, raw.pop("membership", None))
    return replace(_build(Assignment, raw), membership=members)


def termination_message(report: Report, limit: int) -> str:
    """The last report, trimmed to what the kubelet keeps: the tail of the traceback goes first, then all of it."""
    for keep in (MAX_TRACEBACK, 1500, 500, 0):
        failure = report.failure
        if failure is not None:
            failure = replace(failure, traceback=failure.traceback[-keep:] if keep else "", message=failure.message[:500])
        text = encode(replace(report, failure=failure))
        if len(text.encode()) <= limit:
            return text
    return encode(Report(incarnation=report.incarnation, state=report.state, processes=report.processes))


def _object(text: str | bytes) -> dict[str, Any]:
    raw = json.loads(text)
    if not isinstance(raw, dict):
        raise ValueError("not a JSON object")
    return raw


def _build(kind: type[T], raw: Any) -> T:
    if not isinstance(raw, dict):
        raise ValueError(f"{kind.__name__}: not an object")
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    try:
        return kind(**{k: v for k, v in raw.items() if k in known})
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}") from error


def _optional(kind: type[T], raw: Any) -> T | None:
    return _build(kind, raw) if raw else None


def _restore(raw: Any) -> Restore:
    built = _build(Restore, raw)
    return replace(built, skipped=tuple(str(s) for s in built.skipped))


def _failure(raw: Any) -> Failure:
    built = _build(Failure, raw)
    return replace(built, failure_class=FailureClass(built.failure_class))
