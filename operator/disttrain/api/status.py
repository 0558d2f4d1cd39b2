"""`DistTrainJob.status`: what the operator has seen. Written by the operator only, once a pass."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from disttrain.api.schema import MAX_WORKERS, ApiModel

Text = Annotated[str, Field(max_length=32768)]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class Condition(ApiModel):
    """metav1.Condition."""

    type: Annotated[str, Field(max_length=316)] = Field(
        description="Admitted, WorkersReady, StandbyReady, Running, Restarting, Checkpointed, RemoteCopied, RestoreVerified, Straggler, Suspended, Succeeded or Failed."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    observed_generation: int | None = Field(
        None, ge=0, description="The generation of the spec that this was seen for."
    )
    last_transition_time: Time = Field(description="When status last changed.")
    reason: Annotated[str, Field(max_length=1024)] = Field(
        description="One CamelCase word; the event of the same moment carries it too."
    )
    message: Text = Field(description="What happened, and what to do.")


class Workers(ApiModel):
    """Counts of worker pods."""

    desired: int = Field(0, description="As asked for.")
    ready: int = Field(0, description="Pods whose agent is connected.")
    active: int = Field(0, description="Pods whose ranks are training.")
    succeeded: int = Field(0, description="Workers whose ranks all ended with exit code 0.")
    failed: int = Field(0, description="Workers that are failed now.")
    standby: int | None = Field(None, description="Connected pods that wait for a place (spec.standby).")
    summary: str | None = Field(None, description="ready/desired, for the printer column.")


class StandbyStatus(ApiModel):
    """Standbys that died while they waited. They are made again with back-off; the group and its budget are not touched."""

    failures: int | None = Field(None, description="How many in a row; ten quiet minutes end the row.")
    failed_at: Time | None = Field(None, description="When the last one was found dead.")
    cause: Text | None = Field(None, description="Why it died.")


class BestEvaluation(ApiModel):
    """The best evaluation by spec.evaluation.metric."""

    metric: str = Field(description="Its name.")
    value: float = Field(description="What it was.")
    step: int = Field(description="After which step. The checkpoint of that step is kept.")


class TrainingEnd(ApiModel):
    """Why training ended, well, before its last step."""

    reason: str = Field(description="EarlyStop or TargetEpsilonReached.")
    message: Text = Field(description="The sentence.")


class ProgressStatus(ApiModel):
    """Where training is, as rank 0 says. Updated every few seconds."""

    step: int = Field(0, description="Finished steps.")
    total_steps: int | None = Field(None, description="Steps of the whole training.")
    epoch: int | None = Field(None, description="Passes over the data, from 0.")
    loss: float | None = Field(None, description="Training loss.")
    samples_per_second: float | None = Field(None, description="Samples per second, all ranks together.")
    eta_seconds: int | None = Field(None, description="Time to the last step at the present speed.")
    metrics: dict[str, float] | None = Field(
        None, max_length=64, description="Latest evaluation, and what the strategy measures of itself."
    )
    best: BestEvaluation | None = Field(
        None, description="The best evaluation, if spec.evaluation.metric says what is best."
    )
    ended: TrainingEnd | None = Field(None, description="Why training ended before its last step, if it did.")


class CommittedCheckpoint(ApiModel):
    """A checkpoint that is safely on the volume."""

    step: int = Field(description="It holds the state after this step.")
    digest: str = Field(description="SHA-256 of its manifest, which holds the digests of all its files.")
    time: str | None = Field(None, description="When it was committed.")
    path: str | None = Field(None, description="Where it is on the volume.")
    incarnation: int | None = Field(None, description="Which incarnation wrote it.")
    size: int | None = Field(None, alias="bytes", description="Its size on the volume.")
    seconds: float | None = Field(None, description="How long the write took.")
    stalled_seconds: float | None = Field(
        None, description="How long training has waited for checkpoints in that incarnation, all together."
    )


class CheckpointStatus(ApiModel):
    """What could be restored."""

    last_committed: CommittedCheckpoint | None = Field(None, description="The newest one.")


class RecoveryEvent(ApiModel):
    """One failure and the way out of it."""

    incarnation: int | None = Field(None, description="The incarnation that failed.")
    cause: Text | None = Field(None, description="The first failing rank's own words.")
    failure_class: str | None = Field(None, alias="class", description="CodeError, OutOfMemory, Signal, Node, …")
    rank: int | None = Field(None, description="The first failing rank.")
    pod: str | None = Field(None, description="Its pod.")
    node: str | None = Field(None, description="Its node.")
    exit_code: int | None = Field(None, description="Its exit code.")
    traceback: Text | None = Field(None, description="The end of its traceback.")
    failed_at: Time | None = Field(None, description="When the operator heard of it.")
    step: int | None = Field(None, description="The last step seen before it.")
    restored_step: int | None = Field(None, description="The step that training went on from.")
    source: str | None = Field(
        None,
        description="Where the state came from: survivor (the memory of a living rank), buddy (copies of a split model's parts in memory), volume, remote (checkpoint.remote), or none for step 0.",
    )
    detect_seconds: float | None = Field(None, description="From the failure to the operator's decision.")
    recover_seconds: float | None = Field(None, description="From the failure to the first new step.")
    lost_steps: int | None = Field(None, description="Finished steps that had to be run again.")
    drill: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="The fault of the fire drill that it was (disttrain drill); unset: it was none."
    )


class NodeFailure(ApiModel):
    """A failure that speaks against the node on which it happened."""

    node: Annotated[str, Field(max_length=253)] = Field(description="The node.")
    failure_class: Annotated[str, Field(max_length=64)] = Field(
        alias="class", description="Node (it was lost), or what may be its fault: Signal, Hang, Storage, Divergence."
    )
    at: Time = Field(description="When.")


class RecoveryStatus(ApiModel):
    """Failures so far."""

    count: int = Field(0, description="Restarts of the group.")
    last: RecoveryEvent | None = Field(None, description="The newest one.")
    charged: list[Time] | None = Field(
        None, max_length=1001, description="When the failures happened that count against the budget."
    )
    charged_step: int | None = Field(None, description="Newest committed step at the last of them.")
    repeats: int | None = Field(None, description="How often in a row the last failure has happened in the same way.")
    node_failures: list[NodeFailure] | None = Field(
        None,
        max_length=64,
        description="The last failures that speak against a node. Those of all jobs together mark nodes, which new pods then avoid.",
    )


class Goodput(ApiModel):
    """Where the job's time went, in seconds. `current` has been running since `since` and is not in the sums yet."""

    current: str | None = Field(None, description="What the time is spent on now.")
    since: Time | None = Field(None, description="Since when.")
    ratio: float | None = Field(None, description="Productive share of all time but suspended time.")
    queued_seconds: float | None = Field(None, description="Not admitted yet.")
    suspended_seconds: float | None = Field(None, description="Suspended.")
    starting_seconds: float | None = Field(None, description="Pods, images, imports, up to the first step.")
    productive_seconds: float | None = Field(None, description="New steps.")
    checkpoint_stall_seconds: float | None = Field(None, description="Training waited for a checkpoint.")
    detecting_seconds: float | None = Field(None, description="From a failure to the operator's knowledge of it.")
    recovering_seconds: float | None = Field(None, description="From there until state is restored and steps are made.")
    recomputing_seconds: float | None = Field(None, description="Steps that had been finished before a failure.")


class DistTrainJobStatus(ApiModel):
    """What the operator has seen."""

    observed_generation: int | None = Field(None, description="The generation of the spec that this status is for.")
    state: str | None = Field(None, description="One word for people; programs read the conditions.")
    conditions: list[Condition] | None = Field(
        None,
        max_length=32,
        description="The truth, one per type.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    incarnation: int | None = Field(None, description="The n-th group of workers; raised by every restart.")
    attempts: int | None = Field(None, description="Failures charged to spec.recovery.budget.")
    start_time: Time | None = Field(None, description="When the job last became active.")
    completion_time: Time | None = Field(None, description="When it finished.")
    restart_after: Time | None = Field(None, description="Back-off: the next incarnation starts no earlier.")
    replacing: list[Annotated[str, Field(max_length=64)]] | None = Field(
        None, max_length=4096, description="UIDs of failed pods that are being replaced."
    )
    seats: list[int] | None = Field(
        None,
        max_length=MAX_WORKERS,
        description="Which pod holds which place in the group of this incarnation: the n-th entry is the worker index of the pod "
        "with group rank n, so [0, 3, 2] says that pod JOB-3 has taken the place of JOB-1. Pods that are not listed stand by.",
    )
    standby: StandbyStatus | None = Field(None, description="The trouble that standbys have had; none as a rule.")
    workers: Workers | None = Field(None, description="Counts of worker pods.")
    progress: ProgressStatus | None = Field(None, description="Where training is.")
    checkpoint: CheckpointStatus | None = Field(None, description="What could be restored.")
    recovery: RecoveryStatus | None = Field(None, description="Failures so far.")
    goodput: Goodput | None = Field(None, description="Where the job's time went.")
