"""`spec.recovery`: what counts as a failure, what is done about it, and how often."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from disttrain.api.schema import ApiModel, Rule, not_implemented, only, rules

FailureReason = Literal[
    "CodeError",
    "EntrypointError",
    "OutOfMemory",
    "Signal",
    "Storage",
    "Hang",
    "NonFinite",
    "Divergence",
    "Network",
    "Node",
    "PodLost",
    "Image",
]


class RecoveryRule(ApiModel):
    """The first rule that matches a failure decides."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "[has(self.onExitCodes), has(self.onReason), has(self.onLog)].filter(x, x).size() == 1",
                "set exactly one of onExitCodes, onReason, onLog",
            )
        )
    )
    on_exit_codes: list[Annotated[int, Field(ge=1, le=255)]] | None = Field(
        None, min_length=1, max_length=64, description="Exit codes of a rank."
    )
    on_reason: FailureReason | None = Field(None, description="Class of the failure, as in status.recovery.last.class.")
    on_log: str | None = Field(
        None, max_length=256, description="A pattern in the log.", json_schema_extra=not_implemented()
    )
    action: Literal["Fail", "RestartWorker", "RestartGroup", "Ignore"] = Field(
        description="Fail: the job fails at once. RestartGroup: charge the budget and restart. Ignore: restart without charging the budget. "
        "RestartWorker: restart the failed worker alone.",
        json_schema_extra=only("Fail", "RestartGroup", "Ignore"),
    )


class Budget(ApiModel):
    """How many failures a job may have."""

    failures: int = Field(
        5,
        ge=0,
        le=1000,
        description="The job fails at the failure after this many. Node loss, preemption and deleted pods do not count.",
    )
    window_seconds: int | None = Field(
        None, ge=1, description="Only failures within this time count; all of them if unset."
    )
    refill_on_progress: bool = Field(True, description="A newer committed checkpoint forgives the failures before it.")


class Recovery(ApiModel):
    """What to do when workers fail."""

    rules: list[RecoveryRule] | None = Field(
        None, max_length=32, description="Tried in order; without a match: RestartGroup, and Fail for EntrypointError."
    )
    budget: Budget = Field(
        default_factory=lambda: Budget.model_validate({}), description="How many failures a job may have."
    )
    avoid_marked_nodes: bool = Field(
        True,
        description="New pods prefer nodes on which no job has failed of late through what may be the node's fault. "
        "false: they go wherever there is room. May be changed at any time.",
    )
    hang_timeout_seconds: int | None = Field(
        None,
        ge=1,
        description="A rank of a task that makes no progress within a step for this long has hung: its stack is kept, and it is killed. If unset: "
        "2 s or five times the 99th percentile of its steps, whichever is longer, and 60 s while it loads data. "
        "Starting, the first steps, saving and evaluating are given more time. Of the ranks of a command only that one is stopped "
        "(SIGSTOP) is seen: that is borne for this long, or 2 s.",
    )
    buddy_every_steps: int | None = Field(
        None,
        ge=0,
        description="A rank of a split model (strategy.parallelism) leaves a copy of its part in the memory of another worker every so many "
        "steps, unless replicas hold that part anyway. If unset: as often as it costs less than 3 % of the time. 0: never, "
        "and a rank that dies sends all back to the volume. Needs four times a part's memory on each rank.",
    )
