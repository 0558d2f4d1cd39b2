"""The stream between agent and operator, and the socket between rank and agent.

Both directions of the stream are level-based: a `Report` is the agent's whole present state, an `Assignment` the
whole of what its pod should be doing. A message that is lost, doubled, late or out of order changes nothing.
JSON objects, one per WebSocket text frame (or per line on the socket). Unknown keys are ignored, so that versions can
differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum

from disttrain_contract.decode import build, parse_object
from disttrain_contract.failures import FailureClass
from disttrain_contract.stall import Stall

VERSION = 1
MAX_MESSAGE_BYTES = 64 * 1024
"""A report is about 1 KB; anything larger is a mistake or an attack and closes the stream."""
MAX_TRACEBACK = 6000
MAX_TEXT = 1000
"""Any other text: one line for a condition, a path, a digest."""
MAX_METRICS = 32
"""Per report, so that status stays small."""
MAX_METRIC_NAME = 64
MAX_SKIPPED = 8
"""Checkpoints that a restore passed over, newest first: enough to see a pattern."""

HEARTBEAT_SECONDS = 2.0
LEASE_SECONDS = 6.0
"""Three missed heartbeats: a busy node misses one, a dead one misses all."""
PROGRESS_SECONDS = 1.0
REASSIGN_WAIT_SECONDS = 60.0
"""How long an agent with a failed rank keeps its pod and waits for a newer incarnation before it gives up and exits."""
VICTIM_SECONDS = 1.0
"""How long a victim's word is kept back while others of its group, or of its pod, have not spoken. The culprit's death is
known within milliseconds, but its peers notice its closed connections first, and the news of two agents overtake each other."""


class AgentState(StrEnum):
    """What the ranks of a pod are doing."""

    IDLE = "idle"
    RUNNING = "running"
    FAILED = "failed"
    FINISHED = "finished"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Straggler:
    """A rank that holds the others up."""

    rank: int
    factor: float
    """How many times the median rank's time its own part of a step takes, when that was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Why training ended well before its last step."""

    reason: str
    """CamelCase: TargetEpsilonReached, EarlyStop."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best evaluation so far, by the job's own measure."""

    metric: str
    value: float
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where training is. Rank 0 reports it."""

    step: int
    total_steps: int | None = None
    epoch: int | None = None
    loss: float | None = None
    samples_per_second: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    straggler: Straggler | None = None
    best: Best | None = None
    ended: Ending | None = None


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
    stalled_seconds: float = 0.0
    """What training has waited for checkpoints in this incarnation, all of them together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointProblem:
    """Saving failed; training went on."""

    step: int
    reason: str
    """CamelCase: DiskFull, ReadOnly, IOError, Fenced, WriterDied, StateChanged."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteCopy:
    """What became of copying a committed checkpoint to the second tier. Training went on."""

    step: int
    url: str
    digest: str = ""
    reason: str = ""
    """Empty: the copy is there and verified. CamelCase: RemoteDenied, RemoteUnreachable, RemoteFenced, MirrorDied…"""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """What the incarnation started from."""

    step: int
    source: str
    """`survivor` (the memory of another rank), `buddy` (copies of a split model's parts in memory), `volume`, `remote` (the
    second tier), or `none` for a fresh start."""
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
    stall: Stall | None = None
    """Of a hang: where the rank stood, which tells culprits from victims."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A rank lives on without a group."""

    incarnation: int
    """Whose group is broken. When the agent has told the rank of a newer one, that is no news and nobody's failure."""
    failure: Failure
    """What the rank saw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Agent → operator: the whole present state of one pod."""

    incarnation: int
    """The newest it has accepted, 0 before the first; while older ranks are still being stopped, theirs."""
    state: AgentState
    processes: int = 1
    progress: Progress | None = None
    checkpoint: Checkpoint | None = None
    checkpoint_problem: CheckpointProblem | None = None
    remote_copy: RemoteCopy | None = None
    restore: Restore | None = None
    failure: Failure | None = None
    stall: Stall | None = None
    """All ranks of the pod have made no progress for too long; of the one furthest behind."""
    waiting: bool | None = None
    """Whether all ranks of the pod have been waiting for others for a while. None: they show no signs of life to tell by."""
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
    group_rank: int | None = None
    """The pod's position in the group. None: its worker index, or it is not a member."""
    version: int = VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Agent → rank: the incarnation that the rank belongs to now. Its group of any older one is over."""

    incarnation: int
    environment: Mapping[str, str] | None = None
    """The rank's place in the new group, as the variables that a rank is started with. None: hold, and wait for it."""


class RankEvent(StrEnum):
    """What a rank tells its agent."""

    PROGRESS = "progress"
    CHECKPOINT = "checkpoint"
    CHECKPOINT_PROBLEM = "checkpointProblem"
    REMOTE_COPY = "remoteCopy"
    RESTORE = "restore"
    FAILURE = "failure"
    """It cannot go on and ends."""
    HOLDING = "holding"
    """Its group is broken. It lives, keeps its state and waits for an `Order`; the body says what it saw."""


RankBody = Progress | Checkpoint | CheckpointProblem | RemoteCopy | Restore | Failure | Holding

BODIES: dict[RankEvent, type[RankBody]] = {
    RankEvent.PROGRESS: Progress,
    RankEvent.CHECKPOINT: Checkpoint,
    RankEvent.CHECKPOINT_PROBLEM: CheckpointProblem,
    RankEvent.REMOTE_COPY: RemoteCopy,
    RankEvent.RESTORE: Restore,
    RankEvent.FAILURE: Failure,
    RankEvent.HOLDING: Holding,
}


def encode(message: Report | Assignment) -> str:
    """One frame."""
    return json.dumps(asdict(message), separators=(",", ":"))


def encode_rank_message(event: RankEvent, body: RankBody) -> bytes:
    """One line on the rank's socket."""
    return json.dumps({"event": event, "body": asdict(body)}, separators=(",", ":")).encode() + b"\n"


def decode_rank_message(line: bytes | str) -> tuple[RankEvent, RankBody]:
    """Raises ValueError when it is not one of ours."""
    raw = parse_object(line)
    event = RankEvent(str(raw.get("event")))
    return event, build(BODIES[event], raw.get("body"))


def encode_order(order: Order) -> bytes:
    """One line on the rank's socket."""
    return json.dumps(asdict(order), separators=(",", ":")).encode() + b"\n"


def decode_order(line: bytes | str) -> Order:
    """Raises ValueError when it is not one of ours."""
    return build(Order, parse_object(line))


def decode_report(text: str | bytes) -> Report:
    """Raises ValueError: an agent is never trusted to be well-formed, nor to be brief."""
    return bounded(build(Report, parse_object(text)))


def decode_assignment(text: str | bytes) -> Assignment:
    """Raises ValueError when malformed."""
    return build(Assignment, parse_object(text))


def bounded(report: Report) -> Report:
    """The same report with every text and list cut to its limit, so that it fits one frame and a status."""
    progress, restore, failure = report.progress, report.restore, report.failure
    checkpoint, problem, copy = report.checkpoint, report.checkpoint_problem, report.remote_copy
    if progress is not None:
        few = list(progress.metrics.items())[:MAX_METRICS]
        progress = replace(progress, metrics={name[:MAX_METRIC_NAME]: value for name, value in few})
        if (best := progress.best) is not None:
            progress = replace(progress, best=replace(best, metric=best.metric[:MAX_METRIC_NAME]))
        if (end := progress.ended) is not None:
            end = Ending(reason=end.reason[:MAX_METRIC_NAME], message=end.message[:MAX_TEXT])
            progress = replace(progress, ended=end)
    if checkpoint is not None:
        texts = {name: getattr(checkpoint, name)[:MAX_TEXT] for name in ("digest", "path", "time")}
        checkpoint = replace(checkpoint, **texts)
    if problem is not None:
        problem = replace(problem, reason=problem.reason[:MAX_METRIC_NAME], message=problem.message[:MAX_TEXT])
    if copy is not None:
        texts = {name: getattr(copy, name)[:MAX_TEXT] for name in ("url", "digest", "message")}
        copy = replace(copy, reason=copy.reason[:MAX_METRIC_NAME], **texts)
    if restore is not None:
        skipped = tuple(text[:MAX_TEXT] for text in restore.skipped[:MAX_SKIPPED])
        texts = {"source": restore.source[:MAX_TEXT], "digest": restore.digest[:MAX_TEXT]}
        restore = replace(restore, skipped=skipped, **texts)
    if failure is not None:
        failure = replace(failure, message=failure.message[:MAX_TEXT], traceback=failure.traceback[-MAX_TRACEBACK:])
    return replace(
        report,
        progress=progress,
        checkpoint=checkpoint,
        checkpoint_problem=problem,
        remote_copy=copy,
        restore=restore,
        failure=failure,
    )


def encode_within(report: Report, limit: int) -> str:
    """A report in so many bytes: a frame, or what the kubelet keeps. The one-line cause of a failure goes last."""
    text = ""
    for shorter in _shorter(bounded(report)):
        text = encode(shorter)
        if len(text) <= limit:  # JSON text is ASCII: one byte a character
            break
    return text


def _shorter(report: Report) -> Iterator[Report]:
    """The report, then with less and less in it."""
    yield report
    lean = report
    for keep in (1500, 500, 0):
        if report.failure is not None:
            traceback = report.failure.traceback[-keep:] if keep else ""
            lean = replace(report, failure=replace(report.failure, traceback=traceback))
            yield lean
    if lean.restore is not None:
        lean = replace(lean, restore=replace(lean.restore, skipped=()))
    if lean.progress is not None:
        lean = replace(lean, progress=replace(lean.progress, metrics={}))
    yield lean
    lean = Report(incarnation=report.incarnation, state=report.state, processes=report.processes, failure=lean.failure)
    yield lean
    if lean.failure is not None:
        yield replace(lean, failure=replace(lean.failure, message=lean.failure.message[:100]))
