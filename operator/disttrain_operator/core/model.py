"""What the planner sees and says: frozen values, no Kubernetes types, no clocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from disttrain_contract.drill import Announcement
from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import Checkpoint, Progress, Report, Restore
from disttrain_operator.core.conditions import Condition
from disttrain_operator.core.goodput import Ledger


class Verdict(StrEnum):
    """What is done about a failure."""

    FAIL = "Fail"
    RESTART_GROUP = "RestartGroup"
    IGNORE = "Ignore"


class CleanPodPolicy(StrEnum):
    """Which pods are removed when the job finishes."""

    RUNNING = "Running"
    ALL = "All"
    NONE = "None"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A recovery rule: matches by exit code or by class."""

    action: Verdict
    exit_codes: frozenset[int] = frozenset()
    reason: FailureClass | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimSpec:
    """The checkpoint volume: `name` is the claim's name, `size` is set when the operator makes it."""

    name: str
    size: str | None = None
    storage_class: str | None = None
    access_modes: tuple[str, ...] = ("ReadWriteMany",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """The parts of the spec on which decisions hang; manifests read the rest from `Job.raw_spec`."""

    workers: int
    min_workers: int | None = None
    """How small the group may become; None: it keeps its size."""
    standby: int = 0
    processes: int | None = None
    suspend: bool = False
    active_deadline: timedelta | None = None
    startup_deadline: timedelta | None = None
    ttl: timedelta | None = None
    clean_pod_policy: CleanPodPolicy = CleanPodPolicy.RUNNING
    rules: tuple[Rule, ...] = ()
    max_failures: int = 5
    budget_window: timedelta | None = None
    refill_on_progress: bool = True
    claim: ClaimSpec | None = None
    keep: int = 3
    managed_by: str | None = None
    avoid_marked_nodes: bool = True
    """New pods prefer nodes that have not failed jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCounts:
    """Counts for the status."""

    desired: int = 0
    ready: int = 0
    active: int = 0
    succeeded: int = 0
    failed: int = 0
    standby: int | None = None
    """Connected pods that wait for a place; None: the job asks for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """One failure and the way out of it; the second half is filled in when training goes on."""

    incarnation: int
    cause: str
    failure_class: FailureClass
    failed_at: datetime
    rank: int | None = None
    pod: str | None = None
    node: str | None = None
    exit_code: int | None = None
    traceback: str | None = None
    step: int | None = None
    restored_step: int | None = None
    source: str | None = None
    detect_seconds: float | None = None
    recover_seconds: float | None = None
    lost_steps: int | None = None
    drill: str | None = None
    """The fault of the fire drill that it was."""


@dataclass(frozen=True, slots=True)
class NodeFailure:
    """A failure that speaks against the node on which it happened."""

    node: str
    failure_class: FailureClass
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyTrouble:
    """Standbys that died while they waited. It concerns nobody but them: no budget, no group."""

    failures: int
    """In a row: without a long quiet time between them."""
    failed_at: datetime
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The job's durable memory. Everything that must survive a crash of the operator is here."""

    conditions: tuple[Condition, ...] = ()
    state: str | None = None
    observed_generation: int | None = None
    incarnation: int = 0
    """0: never started."""
    attempts: int = 0
    """Incarnations that were charged, in the job's whole life."""
    charges: tuple[datetime, ...] = ()
    """When the failures happened that count against the budget now."""
    charged_step: int = 0
    """Newest committed step at the last charge."""
    repeats: int = 0
    """How often in a row the last failure has happened in the same way."""
    start_time: datetime | None = None
    completion_time: datetime | None = None
    restart_after: datetime | None = None
    replacing: tuple[str, ...] = ()
    """UIDs of dead pods whose failure has been charged: the next passes delete them."""
    seats: tuple[int, ...] = ()
    """Group position → worker index of the pod that holds it in this incarnation. Empty: in order, as in an older status."""
    standby_trouble: StandbyTrouble | None = None
    workers: WorkerCounts = field(default_factory=WorkerCounts)
    progress: Progress | None = None
    checkpoint: Checkpoint | None = None
    recoveries: int = 0
    last_recovery: Recovery | None = None
    node_failures: tuple[NodeFailure, ...] = ()
    """The last of them, oldest first: facts, from which all jobs together mark nodes (`marks`)."""
    goodput: Ledger = field(default_factory=Ledger)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A DistTrainJob as read from the API server."""

    namespace: str
    name: str
    uid: str
    generation: int
    created: datetime
    spec: Spec
    status: Status = field(default_factory=Status)
    deleting: bool = False
    invalid: str | None = None
    """The spec cannot be understood (an older or newer CRD): this sentence says why."""
    raw_spec: Mapping[str, object] = field(default_factory=dict)
    drill: Announcement | None = None
    """A fire drill that somebody has announced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentView:
    """What the stream knows about a pod's agent."""

    report: Report
    connected: bool
    silent_seconds: float = 0.0
    """Since the stream was lost; 0 while it is connected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How the trainer container ended."""

    exit_code: int
    reason: str = ""
    """The kubelet's word: Completed, Error, OOMKilled, ContainerCannotRun, Evicted…"""
    message: str = ""
    report: Report | None = None
    """The agent's last words, from the termination message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A worker pod. A pod with `foreign` has our name but is not ours."""

    name: str
    uid: str
    index: int
    incarnation: int
    """The one it was created for."""
    ip: str | None = None
    node: str | None = None
    deleting: bool = False
    exit: Exit | None = None
    """Set when the pod is Succeeded or Failed."""
    lost: str | None = None
    """Set when the pod was evicted, preempted or its node is gone: the reason's sentence."""
    unreachable: bool = False
    """It is lost because its node does not answer; nobody took it down on purpose."""
    waiting: tuple[str, str] | None = None
    """(reason, message) while the container cannot start: ImagePullBackOff, Unschedulable, CreateContainerConfigError…"""
    agent: AgentView | None = None
    foreign: bool = False

    @property
    def dead(self) -> bool:
        """Its container has ended other than by success, or it is lost."""
        return self.lost is not None or (self.exit is not None and self.exit.exit_code != 0)

    @property
    def report(self) -> Report | None:
        """The newest word of its agent, over the stream or at its end."""
        if self.exit is not None and self.exit.report is not None:
            return self.exit.report
        return self.agent.report if self.agent is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The checkpoint PersistentVolumeClaim as it is."""

    name: str
    phase: str = "Bound"
    access_modes: tuple[str, ...] = ()
    capacity_bytes: int | None = None
    deleting: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything a pass has observed about one job."""

    job: Job
    pods: tuple[Pod, ...] = ()
    claim: Claim | None = None
    """None: there is none of that name (or the job wants none)."""
    service_exists: bool = False
    refused: str | None = None
    """The API server would not make a worker pod (quota, admission, an invalid field): its words."""
    others: tuple[tuple[NodeFailure, ...], ...] = ()
    """What each of the other jobs has recorded against nodes."""
    trusted: frozenset[str] = frozenset()
    """Nodes whose marks the platform's team wants ignored."""


__all__ = [
    "AgentView", "Claim", "ClaimSpec", "CleanPodPolicy", "Exit", "Job", "NodeFailure", "Pod", "Recovery", "Restore", "Rule", "Spec",
    "StandbyTrouble", "Status", "Verdict", "WorkerCounts", "World",
]  # fmt: skip
