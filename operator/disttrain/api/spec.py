"""`DistTrainJob.spec`: what a user asks for. Field descriptions are the text of `kubectl explain`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from disttrain.api.pod import EnvVar, PodTemplate, Resources, Toleration, Volume
from disttrain.api.recovery import Recovery
from disttrain.api.schema import MAX_WORKERS, ApiModel, DnsName, Quantity, Rule, immutable, not_implemented, rules
from disttrain.api.strategy import Strategy
from disttrain_contract import env
from disttrain_contract.remote import URL_PATTERN

MAX_PROCESSES = 64
"""Ranks in one pod: four times the GPUs of today's largest machines."""


class RuntimeRef(ApiModel):
    """A template made by an administrator."""

    kind: Literal["TrainRuntime", "ClusterTrainRuntime"] = Field(
        description="TrainRuntime (of this namespace) or ClusterTrainRuntime."
    )
    name: DnsName = Field(description="Name of the template.")


class Elastic(ApiModel):
    """How far the group may shrink when pods are lost, and how far spec.workers may be changed while the job runs."""

    min_workers: int = Field(
        ge=1,
        le=MAX_WORKERS,
        description="With at least this many workers the job goes on while lost ones are made again.",
    )
    max_workers: int = Field(ge=1, le=MAX_WORKERS, description="spec.workers may be raised to this.")


class CheckpointVolume(ApiModel):
    """Where checkpoints live: a claim that exists, or one made for the job."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule("has(self.claimName) != has(self.size)", "set exactly one of claimName (an existing claim) and size (a claim is made for the job)"),
            Rule("!has(self.claimName) || (!has(self.storageClassName) && !has(self.accessModes))", "storageClassName and accessModes belong to a claim made for the job: set them with size, not with claimName"),
        )
    )  # fmt: skip
    claim_name: DnsName | None = Field(None, description="An existing PersistentVolumeClaim of this namespace.")
    size: Quantity | None = Field(
        None,
        description="Make a claim of this size, named JOB-checkpoints. It is kept when the job is deleted: remove it with "
        "`kubectl delete pvc`. A job of the same name goes on from what it holds.",
    )
    storage_class_name: DnsName | None = Field(
        None, description="StorageClass of the claim that is made; the cluster's default if unset."
    )
    access_modes: list[Literal["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"]] | None = Field(
        None,
        min_length=1,
        max_length=3,
        description="Access modes of the claim that is made; [ReadWriteMany] if unset, so that workers may sit on any node.",
    )


class CheckpointSpec(ApiModel):
    """When state is saved, and how much is kept."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!(has(self.everySteps) && has(self.everySeconds))", "set one of everySteps and everySeconds, not both"
            )
        )
    )
    volume: CheckpointVolume = Field(description="The volume that holds checkpoints and logs.")
    every_steps: int | None = Field(
        None, ge=1, description="Save after this many steps. Default: every 60 seconds instead."
    )
    every_seconds: int | None = Field(
        None, ge=1, description="Save when this many seconds have passed, at the next step boundary."
    )
    keep: int = Field(
        3,
        ge=1,
        le=1000,
        description="How many committed checkpoints stay. The newest one that verifies is never deleted.",
    )
    asynchronous: bool = Field(
        True, alias="async", description="Training stalls for a memory copy only; files are written in the background."
    )
    remote: str | None = Field(
        None,
        max_length=1024,
        pattern=URL_PATTERN,
        description="A second tier: every committed checkpoint is also copied below this place (s3, gs, az, abfs or file), in "
        "NAMESPACE/JOB, and fetched from there when the volume has none that verifies. Credentials and endpoint come from spec.env.",
    )


class EarlyStop(ApiModel):
    """When to end training because it gains nothing more."""

    patience: int = Field(ge=1, le=10_000, description="Stop after this many evaluations in a row that were no better.")
    min_delta: float = Field(0.0, ge=0, description="What the metric must gain to count as better.")


class Evaluation(ApiModel):
    """When a task is evaluated while it trains (entrypoint jobs), and what follows from it."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule("!has(self.earlyStop) || (has(self.metric) && has(self.everySteps))", "evaluation.earlyStop needs evaluation.metric, which says what is better, and evaluation.everySteps"),
            Rule("!has(self.mode) || self.mode == 'min' || has(self.metric)", "evaluation.mode belongs to evaluation.metric: name the metric"),
        )
    )  # fmt: skip
    every_steps: int | None = Field(
        None, ge=1, description="Evaluate after this many steps. The end of training is always evaluated."
    )
    metric: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        None,
        description="The metric that tells better from worse: evalLoss, or one of the task's. The checkpoint of the best evaluation is kept beside the newest ones.",
    )
    mode: Literal["min", "max"] = Field("min", description="Whether less or more of the metric is better.")
    early_stop: EarlyStop | None = Field(None, description="End training well when it gains nothing more.")


NO_CADENCE = (
    "!has(self.checkpoint.everySteps)",
    "!has(self.checkpoint.everySeconds)",
    "(!has(self.checkpoint.keep) || self.checkpoint.keep == 3)",
    "(!has(self.checkpoint.async) || self.checkpoint.async)",
)
"""A volume and nothing else. Defaults are let through: the API server has filled them in before its rules are asked, and into the
jobs that are stored already."""
_RIGID = "(has(self.strategy) && has(self.strategy.parallelism) && (self.strategy.parallelism.tensor > 1 || has(self.strategy.parallelism.pipeline)))"
_GRID = "(self.strategy.parallelism.tensor * (has(self.strategy.parallelism.pipeline) ? self.strategy.parallelism.pipeline.stages : 1))"
_HYBRID = "(has(self.strategy) && has(self.strategy.parallelism) && has(self.strategy.parallelism.shard) && self.strategy.parallelism.shard == 'hybrid')"
_SEVERAL = "(has(self.processesPerWorker) && type(self.processesPerWorker) != string ? self.processesPerWorker >= 2 : has(self.resources) && has(self.resources.limits) && self.resources.limits.exists(k, k.endsWith('/gpu') && !(string(self.resources.limits[k]) in ['0', '1'])))"
"""In CEL: a worker has more than one rank. auto is one for each GPU that it asks for."""
_BY_WORKER = "(has(self.strategy) && has(self.strategy.privacy) && has(self.strategy.privacy.unit) && self.strategy.privacy.unit == 'worker')"

SPEC_RULES = (
    Rule("!has(self.strategy) || !has(self.strategy.privacy) || (has(self.entrypoint) && has(self.checkpoint))", "strategy.privacy needs an entrypoint, whose samples the runtime draws, and spec.checkpoint: without a volume a restart would forget what was spent"),
    Rule(f"!{_BY_WORKER} || !has(self.elastic)", "strategy.privacy.unit worker counts what each worker has told about its part of the data, and with another number of workers the parts would be others: leave elastic out"),
    Rule(f"!{_BY_WORKER} || (has(self.processesPerWorker) && type(self.processesPerWorker) != string && self.processesPerWorker == 1)", "strategy.privacy.unit worker hides what one process has trained on: set processesPerWorker to 1 (auto is one for each GPU)"),
    Rule("!has(self.elastic) || (self.elastic.minWorkers <= self.workers && self.workers <= self.elastic.maxWorkers)", "spec.workers must be between spec.elastic.minWorkers and spec.elastic.maxWorkers"),
    Rule(f"!{_RIGID} || !has(self.elastic)", "a job with tensor or pipeline cannot be elastic: only whole replicas of the model could come and go, and that is not built"),
    Rule(f"!{_RIGID} || !has(self.processesPerWorker) || type(self.processesPerWorker) == string || self.workers * self.processesPerWorker % {_GRID} == 0", "tensor × pipeline.stages must divide workers × processesPerWorker, the number of ranks"),
    Rule(f"!{_HYBRID} || {_SEVERAL}", "strategy.parallelism.shard hybrid cuts the model over the ranks of a worker: set processesPerWorker to 2 or more (auto is one for each GPU in resources.limits, else one), or shard: full"),
    Rule("has(self.entrypoint) != (has(self.command) && size(self.command) > 0)", "set exactly one of entrypoint (package.module:build) and command (a torchrun-style program)"),
    Rule("!has(self.checkpoint) || !has(self.checkpoint.remote) || has(self.entrypoint)", "spec.checkpoint.remote belongs to jobs with an entrypoint: a plain command saves its state by itself"),
    Rule("!has(self.evaluation) || has(self.entrypoint)", "spec.evaluation belongs to jobs with an entrypoint: a plain command evaluates by itself"),
    Rule("!has(self.strategy) || has(self.entrypoint)", "spec.strategy belongs to jobs with an entrypoint: a plain command spreads the work and exchanges gradients by itself"),
    Rule("!has(self.recovery) || !has(self.recovery.buddyEverySteps) || has(self.strategy) && has(self.strategy.parallelism)", "spec.recovery.buddyEverySteps copies the parts of a model that spec.strategy.parallelism cuts; without it every rank has the whole model in memory already"),
    Rule("!has(self.seed) || self.seed == 0 || has(self.entrypoint)", "spec.seed belongs to jobs with an entrypoint: hand a plain command its seed with spec.args or spec.env"),
    Rule(f"!has(self.checkpoint) || has(self.entrypoint) || ({' && '.join(NO_CADENCE)})", "spec.checkpoint.everySteps, everySeconds, keep and async belong to jobs with an entrypoint: a plain command saves by itself, when it wants and as much as it wants; spec.checkpoint.volume is its place"),
    Rule(f"!has(self.processesPerWorker) || type(self.processesPerWorker) == string || (self.processesPerWorker >= 1 && self.processesPerWorker <= {MAX_PROCESSES})", f"spec.processesPerWorker must be auto or a number from 1 to {MAX_PROCESSES}"),
    Rule(f"!has(self.env) || self.env.all(e, !e.name.startsWith('{env.PREFIX}') && !(e.name in {sorted(env.RESERVED)}))", "spec.env sets a name that the runtime sets itself (RANK, WORLD_SIZE, MASTER_ADDR, PET_*, DISTTRAIN_*…): remove it"),
)  # fmt: skip


class DistTrainJobSpec(ApiModel):
    """What to train, on how many workers, and what to do when something fails."""

    model_config = ConfigDict(json_schema_extra=rules(*SPEC_RULES))

    image: Annotated[str, Field(min_length=1, max_length=1024)] = Field(
        description="Container image with PyTorch, your code and the disttrain worker runtime.",
        json_schema_extra=immutable(),
    )
    runtime_ref: RuntimeRef | None = Field(
        None, description="Take defaults from an administrator's template.", json_schema_extra=not_implemented()
    )
    entrypoint: Annotated[str, Field(max_length=512, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = Field(
        None,
        description="package.module:build, a function that returns a disttrain Task; the runtime gives loop, sampler, checkpoints, evaluation.",
        json_schema_extra=immutable(),
    )
    command: list[Annotated[str, Field(max_length=4096)]] | None = Field(
        None, max_length=64, description="Any torchrun-style program, started once per rank with RANK, WORLD_SIZE, MASTER_ADDR… set. Not run in a shell.", json_schema_extra=immutable()
    )  # fmt: skip
    args: list[Annotated[str, Field(max_length=4096)]] | None = Field(
        None, max_length=256, description="Arguments of the entry point or the command.", json_schema_extra=immutable()
    )
    workers: int = Field(1, ge=1, le=MAX_WORKERS, description="Number of worker pods in the group.", json_schema_extra=immutable(without="elastic"))  # fmt: skip
    processes_per_worker: int | Literal["auto"] = Field(
        "auto",
        description="Ranks in each worker pod; auto: one per GPU, or one without GPU.",
        json_schema_extra=immutable(),
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of sample order, initialisation and randomness (entrypoint jobs).", json_schema_extra=immutable())  # fmt: skip
    elastic: Elastic | None = Field(
        None,
        description="Let the group go on smaller when a pod is lost and no standby is ready, and grow back to spec.workers when it "
        "is there again. Also lets spec.workers be changed while the job runs. The global batch and the order of samples stay "
        "the same; a task's learning rate needs no change. May be changed at any time.",
    )
    standby: int | None = Field(
        None,
        ge=0,
        le=64,
        description="Spare pods that wait with torch imported. When a worker's pod is lost, one of them takes its place at once and "
        "a new standby is made behind it. They ask for the same resources as workers. May be changed at any time.",
    )
    resources: Resources | None = Field(
        None, description="CPU, memory and GPUs of each worker, as in a container.", json_schema_extra=immutable()
    )
    shared_memory: Quantity | None = Field(
        None, description="Size of /dev/shm; it counts as memory of the pod. Default: half the memory limit, or 1Gi without a limit.", json_schema_extra=immutable()
    )  # fmt: skip
    volumes: list[Volume] | None = Field(None, max_length=16, description="More volumes for the workers, with their mount paths.", json_schema_extra=immutable())  # fmt: skip
    env: list[EnvVar] | None = Field(
        None, max_length=128, description="More environment variables.", json_schema_extra=immutable()
    )
    node_selector: dict[str, Annotated[str, Field(max_length=63)]] | None = Field(
        None, max_length=32, description="Labels that a worker's node must have.", json_schema_extra=immutable()
    )
    tolerations: list[Toleration] | None = Field(
        None, max_length=32, description="Taints that workers tolerate.", json_schema_extra=immutable()
    )
    priority_class_name: DnsName | None = Field(
        None, description="PriorityClass of the workers.", json_schema_extra=immutable()
    )
    pod_template: PodTemplate | None = Field(
        None, description="The few other pod settings that a job may choose.", json_schema_extra=immutable()
    )
    strategy: Strategy | None = Field(
        None,
        description="How the model and the work are spread, and how replicas stay in step.",
        json_schema_extra=immutable(),
    )
    checkpoint: CheckpointSpec | None = Field(
        None,
        description="Save state to a volume. Without it a failure that no rank survives starts training again from step 0.",
        json_schema_extra=immutable(),
    )
    recovery: Recovery = Field(
        default_factory=lambda: Recovery.model_validate({}), description="What to do when workers fail."
    )
    evaluation: Evaluation | None = Field(None, description="Evaluate while training.", json_schema_extra=immutable())
    suspend: bool = Field(
        False, description="true: workers save a checkpoint and their pods are removed; false: the job goes on from it."
    )
    active_deadline_seconds: int | None = Field(
        None, ge=1, description="The job fails when it has been active (not suspended) for longer."
    )
    startup_deadline_seconds: int | None = Field(
        None, ge=1, description="The job fails when it has never reached Running within this time."
    )
    ttl_seconds_after_finished: int | None = Field(
        None, ge=0, description="Delete the job this long after it finished. The checkpoint claim stays."
    )
    clean_pod_policy: Literal["Running", "All", "None"] = Field(
        "Running",
        description="Which pods are removed when the job finishes: the running ones (finished ones keep their logs), All, or None.",
    )
    queue_name: DnsName | None = Field(None, description="Kueue queue.", json_schema_extra=not_implemented())
    managed_by: Annotated[str, Field(max_length=63)] | None = Field(
        None, description="Who reconciles this job; the operator leaves it alone unless this is unset or disttrain.dev/operator.", json_schema_extra=immutable()
    )  # fmt: skip


__all__ = ["CheckpointSpec", "CheckpointVolume", "DistTrainJobSpec", "EarlyStop", "Evaluation", "MAX_WORKERS"]
