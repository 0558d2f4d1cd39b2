"""What the agent does next, as a function of what it knows. Pure: no clock, no process, no socket.

`decide(rules, agent, event, now)` returns the agent after an event and the actions that follow from it. Assignments
are levels: one that is old, doubled or of another job changes nothing, and no incarnation is started twice.

Ranks of a task (`Rules.regroups`) outlive their group: they hold their state and are told their place in the next one.
Ranks of a program that is not ours know nothing of that: they are ended, and started anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

from disttrain_contract.exits import Exit
from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import (
    REASSIGN_WAIT_SECONDS,
    VICTIM_SECONDS,
    AgentState,
    Assignment,
    Failure,
    Membership,
)

ABANDON_SECONDS = 2.0
"""From SIGTERM to SIGKILL for ranks whose group is broken. They cannot go on; two seconds let an asynchronous
checkpoint that is almost there land, and every further second would be a second of training lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What stays the same for the life of the pod."""

    job_uid: str
    worker_index: int
    stop_seconds: float
    """From SIGTERM to SIGKILL for ranks that are told to stop: time to checkpoint."""
    alone: bool = False
    """No operator: nobody will ever send another incarnation."""
    task: bool = False
    """The ranks are ours, and can hold."""

    @property
    def regroups(self) -> bool:
        """A broken group is no reason to end its ranks."""
        return self.task and not self.alone


class Ending(Enum):
    """Why live ranks are being stopped."""

    ABANDON = auto()
    """A newer incarnation exists."""
    FAILURE = auto()
    """A local rank failed, so its group is broken."""
    STOP = auto()
    """The pod must go: SIGTERM, or the operator says so. Nothing undoes this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """All that decisions depend on."""

    state: AgentState = AgentState.IDLE
    incarnation: int = 0
    wanted: Assignment | None = None
    """The newest assignment that was accepted."""
    started: int = 0
    """The newest incarnation whose ranks were started."""
    live: frozenset[int] = frozenset()
    """Local ranks that have a process."""
    failing: frozenset[int] = frozenset()
    """Those of them that have said that they cannot go on: they end by themselves, and belong to no further group."""
    ending: Ending | None = None
    kill_at: float | None = None
    give_up_at: float | None = None
    failure: Failure | None = None
    failed_at: float = 0.0
    spoken: frozenset[int] = frozenset()
    """Local ranks that have said that something is wrong with their group, or with them."""
    tell_at: float | None = None
    """When the failure is told. Set while only victims have spoken and a rank beside them has not: it may be the one that
    dies, and who is killed closes its connections a moment before anybody can see that it is dead."""
    leaving: int | None = None
    """The exit code, once it is decided."""

    @property
    def told_state(self) -> AgentState:
        """The state that the operator hears of."""
        return self.state if self.tell_at is None else AgentState.RUNNING

    def wake_at(self) -> float | None:
        """When a `Tick` is due although nothing happens."""
        return min((t for t in (self.kill_at, self.give_up_at, self.tell_at) if t is not None), default=None)


@dataclass(frozen=True, slots=True)
class Assigned:
    """The operator spoke."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class RankFailed:
    """A rank says that it failed; its process is still there."""

    local_rank: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class RankHolds:
    """A rank's group is broken. It waits for the next one."""

    local_rank: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class RankEnded:
    """A rank's process is gone. `failure` is None when it ended well, or of nothing but our own signal."""

    local_rank: int
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class Terminated:
    """The agent got SIGTERM."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = Assigned | RankFailed | RankHolds | RankEnded | Terminated | Tick


@dataclass(frozen=True, slots=True)
class Start:
    """Bring the ranks of this membership about: tell those that live their new place, start the others."""

    members: Membership
    group_rank: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Tell the live ranks that their group is over: its connections are cut at once, so that every peer notices."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class Terminate:
    """SIGTERM to every live rank, but not to one that is already ending by itself."""

    spare: int | None = None


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL to these local ranks, or to every live one."""

    only: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Leave:
    """Report, write the termination message, exit."""

    code: int


Action = Start | Hold | Terminate | Kill | Leave
Step = tuple[Agent, tuple[Action, ...]]


def decide(rules: Rules, agent: Agent, event: Event, now: float) -> Step:
    """The agent after the event, and what to do."""
    if agent.leaving is not None:
        return agent, ()
    agent, actions = _decide(rules, agent, event, now)
    return replace(agent, tell_at=_tell_at(agent, now)), actions


def _decide(rules: Rules, agent: Agent, event: Event, now: float) -> Step:
    match event:
        case Assigned(assignment):
            return _assigned(rules, agent, assignment, now)
        case RankFailed(local_rank, failure):
            return _failing(rules, _having_heard(agent, local_rank), local_rank, failure, now)
        case RankHolds(local_rank, failure):
            return _failed(rules, _having_heard(agent, local_rank), failure, now)
        case RankEnded(local_rank, ended):
            return _ended(rules, agent, local_rank, ended, now)
        case Terminated():
            return _stop(rules, agent, now)
        case Tick():
            return _tick(rules, agent, now)


def _having_heard(agent: Agent, local_rank: int) -> Agent:
    return replace(agent, spoken=agent.spoken | {local_rank})


def _tell_at(agent: Agent, now: float) -> float | None:
    if agent.state is not AgentState.FAILED or not _is_victim(agent.failure) or agent.leaving is not None:
        return None
    due = agent.failed_at + VICTIM_SECONDS
    return due if agent.live - agent.spoken and now < due else None


def _is_victim(failure: Failure | None) -> bool:
    return failure is not None and failure.failure_class is FailureClass.NETWORK


def started(agent: Agent, local_ranks: frozenset[int]) -> Agent:
    """The agent once the ranks of a `Start` have processes."""
    return replace(agent, live=local_ranks)


def _assigned(rules: Rules, agent: Agent, new: Assignment, now: float) -> Step:
    if new.job_uid != rules.job_uid or new == agent.wanted:
        return agent, ()
    if agent.wanted is not None and new.incarnation < agent.wanted.incarnation:
        return agent, ()
    if new.membership is not None and new.membership.incarnation != new.incarnation:
        return agent, ()  # not made by one pass over one job
    agent = replace(agent, wanted=new)
    return _stop(rules, agent, now) if new.stop is not None else _pursue(rules, agent, now)


def _pursue(rules: Rules, agent: Agent, now: float) -> Step:
    """Towards the wanted incarnation: end or hold what is older, then start what is there to start."""
    wanted = agent.wanted
    if wanted is None or agent.ending is Ending.STOP:
        return agent, ()
    members, position = wanted.membership, _position(rules, wanted)
    hold: tuple[Action, ...] = ()
    if wanted.incarnation > agent.incarnation:
        left_out = members is not None and position >= members.workers
        if agent.live and (left_out or agent.ending is not None or not rules.regroups):
            return _end(agent, Ending.ABANDON, now + ABANDON_SECONDS)
        hold = (Hold(wanted.incarnation),) if agent.live else ()
        agent = replace(
            agent, state=AgentState.IDLE, incarnation=wanted.incarnation, failure=None, spoken=frozenset(), ending=None,
            give_up_at=None,
        )  # fmt: skip
    if agent.failing:
        return agent, hold  # their places are free when they are gone
    if members is None or wanted.incarnation <= agent.started or position >= members.workers:
        return agent, hold
    return replace(agent, state=AgentState.RUNNING, started=wanted.incarnation), (*hold, Start(members, position))


def _position(rules: Rules, wanted: Assignment) -> int:
    return wanted.group_rank if wanted.group_rank is not None else rules.worker_index


def _stop(rules: Rules, agent: Agent, now: float) -> Step:
    if agent.live:
        return _end(agent, Ending.STOP, now + rules.stop_seconds)
    return _leave(agent)


def _end(agent: Agent, why: Ending, kill_at: float, spare: int | None = None) -> Step:
    """Ranks are signalled once: a second SIGTERM could cut short what the first one asked for."""
    if agent.ending is None:
        return replace(agent, ending=why, kill_at=kill_at), (Terminate(spare),)
    return (agent if agent.ending is Ending.STOP else replace(agent, ending=why)), ()


def _failing(rules: Rules, agent: Agent, local_rank: int, failure: Failure, now: float) -> Step:
    """It ends by itself, and is given the time for it once."""
    if not rules.regroups:
        return _failed(rules, agent, failure, now, spare=local_rank)
    agent, actions = _failed(rules, agent, failure, now)
    if agent.ending is None:
        agent = replace(agent, failing=agent.failing | {local_rank}, kill_at=agent.kill_at or now + ABANDON_SECONDS)
    return agent, actions


def _failed(rules: Rules, agent: Agent, failure: Failure, now: float, spare: int | None = None) -> Step:
    if agent.ending is None and agent.state is AgentState.RUNNING:
        agent = replace(agent, state=AgentState.FAILED, failure=failure, failed_at=now)
        if rules.regroups:
            return replace(agent, give_up_at=now + REASSIGN_WAIT_SECONDS), ()
        return _end(agent, Ending.FAILURE, now + ABANDON_SECONDS, spare)
    still = agent.ending is Ending.FAILURE or (rules.regroups and agent.state is AgentState.FAILED)
    if still and _is_victim(agent.failure) and not _is_victim(failure):
        return replace(agent, failure=failure), ()  # the first one only noticed that this one was dying
    return agent, ()


def _ended(rules: Rules, agent: Agent, local_rank: int, failure: Failure | None, now: float) -> Step:
    gone = frozenset({local_rank})
    agent = replace(agent, live=agent.live - gone, failing=agent.failing - gone)
    if not agent.failing and agent.ending is None:
        agent = replace(agent, kill_at=None)
    actions: tuple[Action, ...] = ()
    if failure is not None:
        agent, actions = _failed(rules, agent, failure, now)
    if agent.live:
        agent, more = _pursue(rules, agent, now) if rules.regroups else (agent, ())
        return agent, actions + more
    agent, more = _all_gone(rules, agent, now)
    return agent, tuple(a for a in actions if not isinstance(a, Terminate)) + more


def _all_gone(rules: Rules, agent: Agent, now: float) -> Step:
    agent = replace(agent, kill_at=None)
    match agent.ending:
        case None if agent.state is AgentState.RUNNING:
            return _leave(replace(agent, state=AgentState.FINISHED))
        case None:
            return _pursue(rules, agent, now)
        case Ending.STOP:
            return _leave(agent)
        case Ending.FAILURE if rules.alone:
            return _leave(agent)
        case Ending.FAILURE:
            return replace(agent, ending=None, give_up_at=now + REASSIGN_WAIT_SECONDS), ()
        case Ending.ABANDON:
            return _pursue(rules, replace(agent, ending=None), now)


def _tick(rules: Rules, agent: Agent, now: float) -> Step:
    if agent.kill_at is not None and now >= agent.kill_at:
        return replace(agent, kill_at=None), (Kill(agent.failing if agent.ending is None else None),)
    if agent.give_up_at is not None and now >= agent.give_up_at:
        return _stop(rules, replace(agent, give_up_at=None), now)
    return agent, ()


def _leave(agent: Agent) -> Step:
    """A failure outlives a stop: the pod's last word is what went wrong."""
    if agent.state is AgentState.FINISHED:
        code = int(Exit.DONE)
    elif agent.failure is not None:
        code = agent.failure.exit_code
    else:
        agent, code = replace(agent, state=AgentState.STOPPED), int(Exit.STOPPED)
    return replace(agent, leaving=code, kill_at=None, give_up_at=None), (Leave(code),)
