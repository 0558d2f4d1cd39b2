"""What the ranks of this pod have told about themselves, and the report made of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from disttrain_contract.messages import (
    AgentState,
    Checkpoint,
    CheckpointProblem,
    Failure,
    Holding,
    Progress,
    RankBody,
    RemoteCopy,
    Report,
    Restore,
)
from disttrain_contract.stall import Stall
from disttrain_runtime.agent.decide import Agent


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The newest of each kind, for one incarnation."""

    progress: Progress | None = None
    checkpoint: Checkpoint | None = None
    checkpoint_problem: CheckpointProblem | None = None
    remote_copy: RemoteCopy | None = None
    restore: Restore | None = None
    failures: dict[int, Failure] = field(default_factory=dict)
    """By local rank: what a rank said before it died."""

    def hear(self, local_rank: int, body: RankBody) -> Told:
        """With one more message."""
        match body:
            case Progress():
                return replace(self, progress=body)
            case Checkpoint():  # a commit after a problem: the problem is over
                return replace(self, checkpoint=body, checkpoint_problem=None)
            case CheckpointProblem():
                return replace(self, checkpoint_problem=body)
            case RemoteCopy():
                return replace(self, remote_copy=body)
            case Restore():
                return replace(self, restore=body)
            case Holding():
                return self
            case Failure():
                return replace(self, failures={local_rank: body, **self.failures})

    def bury(self, local_rank: int) -> Told:
        """Its process is gone: what it said of itself is not true of the one that takes its place."""
        return replace(self, failures={r: said for r, said in self.failures.items() if r != local_rank})

    def next_incarnation(self) -> Told:
        """What is still true when new ranks start: the checkpoint is on the volume, and where else."""
        return Told(checkpoint=self.checkpoint, remote_copy=self.remote_copy)

    @property
    def step(self) -> int | None:
        """The last step that is known."""
        return self.progress.step if self.progress else None


def present(
    agent: Agent, told: Told, processes: int, now: float, stall: Stall | None = None, waiting: bool | None = None
) -> Report:
    """The whole present state of the pod."""
    failure, state = agent.failure, agent.told_state
    if state is not agent.state:
        failure = None
    if failure is not None:
        failure = replace(failure, seconds_ago=max(0.0, now - agent.failed_at))
    return Report(
        incarnation=agent.incarnation,
        state=state,
        processes=processes,
        progress=told.progress,
        checkpoint=told.checkpoint,
        checkpoint_problem=told.checkpoint_problem,
        remote_copy=told.remote_copy,
        restore=told.restore,
        failure=failure,
        stall=stall if state is AgentState.RUNNING else None,
        waiting=waiting if state is AgentState.RUNNING else None,
    )
