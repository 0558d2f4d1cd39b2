"""The environment an agent starts in: written by the operator, read by the runtime. Said once, survives the trip."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from disttrain_contract.strategy import StrategyConfig, strategy_from_json

PREFIX = "DISTTRAIN_"
RUN = PREFIX + "RUN"
REPORT_FD = PREFIX + "REPORT_FD"
"""Inherited socket on which a rank sends NDJSON messages to its agent, and hears its `Order`s. Absent outside a job."""
PULSE = PREFIX + "PULSE"
"""A file in the agent's memory: where a rank leaves its signs of life, and its stacks when asked for them."""
INCARNATION = PREFIX + "INCARNATION"
SPARE = PREFIX + "SPARE"
"""Set for a rank that is started ahead of need: its first `Order` will tell it its place."""
JOB_DIR = PREFIX + "JOB_DIR"
"""The job's directory on the checkpoint volume, also given to plain scripts. Absent when the job has no volume."""

RESERVED = frozenset(
    {
        "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE",
        "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE",
        "MASTER_ADDR", "MASTER_PORT",
        "PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT",
        "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_RUN_ID",
    }
)  # fmt: skip
"""Names the runtime sets; a job that sets one itself is refused. So is every name that starts with PREFIX."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """When and how often state goes to the volume. Exactly one cadence is set."""

    every_steps: int | None = None
    every_seconds: float | None = None
    keep: int = 3
    asynchronous: bool = True
    remote: str | None = None
    """A second tier: the job's own place in a store, such as `s3://bucket/prefix/namespace/job`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """When the task is evaluated; the end of training is always evaluated if the task has evaluation data."""

    every_steps: int | None = None
    metric: str | None = None
    """What tells better from worse; without it there is no best evaluation."""
    mode: str = "min"
    """Whether less (min) or more (max) of it is better."""
    patience: int | None = None
    """Stop after so many evaluations that were no better; None: never."""
    min_delta: float = 0.0
    """What must be gained to be better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """What to run and how. `entrypoint` and `command` exclude each other."""

    entrypoint: str | None = None
    """`package.module:build`: a task of ours."""
    command: tuple[str, ...] = ()
    """A torchrun-style program, started once per rank."""
    args: tuple[str, ...] = ()
    processes_per_worker: int | None = None
    """None: one per visible GPU, else one."""
    seed: int = 0
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    hang_timeout_seconds: float | None = None
    """A rank without progress for this long has hung; None: it depends on how long its steps take."""
    buddy_every_steps: int | None = None
    """Steps between copies of a split model's parts in memory; None: as often as they cost little; 0: never."""
    grace_seconds: float = 30.0
    """The pod's termination grace period; ranks are given a little less to checkpoint and end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEnv:
    """Who this agent is, whom it calls, and what it runs."""

    job: str
    job_uid: str
    namespace: str
    pod_name: str
    pod_uid: str
    pod_ip: str
    node_name: str
    worker_index: int
    workers: int
    operator_url: str
    """`wss://service.namespace.svc:port`; empty: run alone (no operator), used by tests."""
    operator_ca: str = ""
    """PEM; empty for a plain ws:// URL."""
    checkpoint_mount: str = ""
    """Empty: the job has no volume."""
    run: RunConfig

    def to_env(self) -> dict[str, str]:
        """Environment variables; the run is one JSON value."""
        flat = asdict(self)
        run = flat.pop("run")
        return {PREFIX + k.upper(): str(v) for k, v in flat.items()} | {RUN: json.dumps(run, sort_keys=True)}

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> WorkerEnv:
        """The inverse of `to_env`. Raises LookupError that names every missing variable."""
        names = [f for f in cls.__dataclass_fields__ if f != "run"]
        missing = [name for name in (*(PREFIX + n.upper() for n in names), RUN) if name not in env]
        if missing:
            raise LookupError(f"not started by the operator: {', '.join(missing)} unset")
        text = {n: env[PREFIX + n.upper()] for n in names}
        whole = {"worker_index": int(text.pop("worker_index")), "workers": int(text.pop("workers"))}
        return cls(**text, **whole, run=run_from_json(env[RUN]))  # type: ignore[arg-type]


def run_from_json(text: str) -> RunConfig:
    """Rebuild a RunConfig; unknown keys raise TypeError (operator and image differ in version)."""
    raw = json.loads(text)
    raw["command"], raw["args"] = tuple(raw.get("command", ())), tuple(raw.get("args", ()))
    raw["checkpoint"] = CheckpointConfig(**raw.get("checkpoint", {}))
    raw["evaluation"] = EvaluationConfig(**raw.get("evaluation", {}))
    raw["strategy"] = strategy_from_json(raw.get("strategy", {}))
    return RunConfig(**raw)
