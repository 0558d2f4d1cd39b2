"""What the agent does next, told as stories. Pure: an agent here is a value and time a number."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import REASSIGN_WAIT_SECONDS, AgentState, Assignment, Failure, Membership
from disttrain_runtime.agent.decide import (
    ABANDON_SECONDS,
    Action,
    Agent,
    Assigned,
    Event,
    Kill,
    Leave,
    RankEnded,
    RankFailed,
    RankHolds,
    Rules,
    Start,
    Terminate,
    Terminated,
    Tick,
    decide,
    started,
)

RULES = Rules(job_uid="job", worker_index=0, stop_seconds=27.0)


def members(incarnation: int, workers: int = 2, per: int = 2) -> Membership:
    return Membership(
        incarnation=incarnation, workers=workers, processes_per_worker=per, master_addr="m", master_port=29500
    )


def wait(incarnation: int) -> Assigned:
    """Not everybody is there yet."""
    return Assigned(Assignment(job_uid="job", incarnation=incarnation))


def go(incarnation: int, **kwargs: int) -> Assigned:
    return Assigned(Assignment(job_uid="job", incarnation=incarnation, membership=members(incarnation, **kwargs)))


def stop(incarnation: int) -> Assigned:
    return Assigned(Assignment(job_uid="job", incarnation=incarnation, stop="suspended"))


def failure(rank: int = 0, kind: FailureClass = FailureClass.CODE, code: int = 1) -> Failure:
    return Failure(rank=rank, local_rank=rank, exit_code=code, failure_class=kind, message="no")


class Story:
    """An agent and what it did so far."""

    def __init__(self, rules: Rules = RULES) -> None:
        self.rules = rules
        self.agent = Agent()
        self.now = 100.0
        self.killed = False
        """All ranks of the group have been sent SIGKILL: the kernel ends them, whatever the agent waits for."""

    def then(self, event: Event, after: float = 0.0) -> tuple[Action, ...]:
        """One event later; what was done. A start gives every local rank a process."""
        self.now += after
        self.agent, actions = decide(self.rules, self.agent, event, self.now)
        for action in actions:
            if isinstance(action, Start):
                self.agent = started(self.agent, frozenset(range(action.members.processes_per_worker)))
                self.killed = False
            self.killed |= action == Kill()
        return actions

    def possible(self, event: Event) -> bool:
        """Only a process that is there can say something, or end."""
        return not isinstance(event, RankEnded | RankFailed | RankHolds) or event.local_rank in self.agent.live

    def end(self) -> None:
        """After SIGTERM, ranks that die when killed, and enough time, the agent leaves."""
        self.then(Terminated())
        for _ in range(9):
            if self.agent.leaving is not None:
                return
            wake_at = self.agent.wake_at()
            assert wake_at is not None, "somebody is waiting for nothing"
            self.then(Tick(), after=max(0.0, wake_at - self.now))
            for rank in sorted(self.agent.live) if self.killed else ():
                self.then(RankEnded(rank, None))
        raise AssertionError("it never leaves")

    @property
    def state(self) -> AgentState:
        return self.agent.state


def running(incarnation: int = 1, rules: Rules = RULES) -> Story:
    story = Story(rules)
    assert story.then(go(incarnation)) == (Start(members(incarnation), 0),)
    assert story.state is AgentState.RUNNING
    return story


def failed() -> Story:
    """Rank 0 failed and its neighbour has been stopped."""
    story = running()
    assert story.then(RankEnded(0, failure())) == (Terminate(),)
    assert story.then(RankEnded(1, None)) == ()
    assert story.state is AgentState.FAILED
    return story


def test_it_waits_until_the_group_is_complete_then_starts_its_ranks() -> None:
    story = Story()
    assert story.then(wait(1)) == ()
    assert (story.state, story.agent.incarnation) == (AgentState.IDLE, 1)
    assert story.then(go(1)) == (Start(members(1), 0),)


def test_a_doubled_assignment_starts_nothing_twice() -> None:
    story = running()
    assert story.then(go(1)) == ()
    assert story.then(wait(1)) == () and story.then(go(1)) == ()
    assert story.then(go(1, workers=3)) == (), "not even with other members"


def test_it_obeys_only_its_own_job() -> None:
    story = Story()
    for assigned in (go(1), stop(1)):
        assert story.then(Assigned(replace(assigned.assignment, job_uid="another of the same name"))) == ()
    assert story.agent == Agent()


def test_an_older_incarnation_is_history() -> None:
    story = running(incarnation=3)
    before = story.agent
    for late in (go(2), wait(1), stop(2)):
        assert story.then(late) == ()
    assert story.agent == before


def test_a_membership_of_another_incarnation_is_nobodys_plan() -> None:
    story = Story()
    mixed = replace(go(2).assignment, membership=members(1))
    assert story.then(Assigned(mixed)) == () and story.agent == Agent()


def test_a_worker_outside_the_membership_stands_by() -> None:
    story = Story(replace(RULES, worker_index=2))
    assert story.then(go(1, workers=2)) == () and story.state is AgentState.IDLE
    assert story.then(go(2, workers=3)) == (Start(members(2, workers=3), 2),)


def test_a_new_incarnation_ends_the_old_ranks_before_it_starts_its_own() -> None:
    story = running()
    assert story.then(go(2)) == (Terminate(),)
    assert (story.state, story.agent.incarnation) == (AgentState.RUNNING, 1), "until they are gone, it is theirs"
    assert story.then(RankEnded(0, None)) == ()
    assert story.then(RankEnded(1, None)) == (Start(members(2), 0),)
    assert (story.state, story.agent.incarnation) == (AgentState.RUNNING, 2)


def test_ranks_that_do_not_let_go_are_killed() -> None:
    story = running()
    story.then(wait(2))
    assert story.agent.wake_at() == story.now + ABANDON_SECONDS
    assert story.then(Tick(), after=ABANDON_SECONDS / 2) == ()
    assert story.then(Tick(), after=ABANDON_SECONDS) == (Kill(),)
    story.then(RankEnded(0, None))
    story.then(RankEnded(1, failure()))
    assert (story.state, story.agent.incarnation, story.agent.failure) == (AgentState.IDLE, 2, None)


def test_while_old_ranks_die_only_the_newest_plan_counts() -> None:
    story = running()
    story.then(go(2))
    story.then(go(3))
    story.then(RankEnded(0, None))
    assert story.then(RankEnded(1, None)) == (Start(members(3), 0),)


def test_when_all_ranks_end_well_the_pod_is_done() -> None:
    story = running()
    assert story.then(RankEnded(1, None)) == ()
    assert story.then(RankEnded(0, None)) == (Leave(0),)
    assert story.state is AgentState.FINISHED


def test_a_failed_rank_takes_its_neighbours_with_it_and_the_pod_waits() -> None:
    story = failed()
    assert story.agent.failure == failure()
    assert story.agent.wake_at() == story.now + REASSIGN_WAIT_SECONDS


def test_after_a_failure_a_new_incarnation_starts_in_the_same_pod() -> None:
    story = failed()
    assert story.then(wait(2)) == ()
    assert (story.state, story.agent.failure, story.agent.wake_at()) == (AgentState.IDLE, None, None)
    assert story.then(go(2)) == (Start(members(2), 0),)


def test_a_new_incarnation_may_come_while_neighbours_still_die() -> None:
    story = running()
    story.then(RankEnded(0, failure()))
    assert story.then(go(2)) == ()
    assert story.then(RankEnded(1, None)) == (Start(members(2), 0),)


def test_nobody_waits_for_ever_for_an_operator() -> None:
    story = failed()
    assert story.then(Tick(), after=REASSIGN_WAIT_SECONDS - 1) == ()
    assert story.then(Tick(), after=1) == (Leave(1),)
    assert story.state is AgentState.FAILED


def test_alone_there_is_nobody_to_wait_for() -> None:
    story = running(rules=replace(RULES, alone=True))
    story.then(RankEnded(0, failure(code=3)))
    assert story.then(RankEnded(1, None)) == (Leave(3),)


def test_a_rank_that_says_it_failed_is_believed_at_once_and_left_to_finish_its_words() -> None:
    story = running()
    assert story.then(RankFailed(1, failure(1))) == (Terminate(spare=1),)
    assert story.state is AgentState.FAILED
    assert story.then(RankEnded(1, failure(1))) == ()
    assert story.then(RankEnded(0, None)) == ()
    assert story.agent.failure == failure(1)


def test_the_only_rank_fails() -> None:
    story = Story()
    story.then(go(1, per=1))
    assert story.then(RankEnded(0, failure())) == (), "there is nobody to terminate"
    assert story.state is AgentState.FAILED and story.agent.wake_at() is not None


def test_the_first_failure_is_the_cause() -> None:
    story = running()
    story.then(RankEnded(0, failure(0)))
    story.then(RankEnded(1, failure(1)))
    assert story.agent.failure == failure(0)


def test_a_victim_that_dies_first_is_not_blamed() -> None:
    story = running()
    story.then(RankEnded(0, failure(0, FailureClass.NETWORK)))
    story.then(RankEnded(1, failure(1, FailureClass.OOM)))
    assert story.agent.failure == failure(1, FailureClass.OOM)


def test_a_rank_whose_program_does_not_start() -> None:
    story = Story()
    story.agent, _ = decide(RULES, story.agent, go(1), story.now)  # no process came of it
    assert story.then(RankEnded(0, failure(kind=FailureClass.ENTRYPOINT, code=64))) == ()
    assert story.state is AgentState.FAILED and story.agent.failure and story.agent.failure.exit_code == 64


@pytest.mark.parametrize("order", [stop(1), Terminated()])
def test_told_to_stop_it_lets_ranks_checkpoint_and_leaves(order: Event) -> None:
    story = running()
    assert story.then(order) == (Terminate(),)
    assert story.agent.wake_at() == story.now + RULES.stop_seconds
    assert story.then(order) == (), "a second signal would cut the checkpoint short"
    story.then(RankEnded(0, None))
    assert story.then(RankEnded(1, failure())) == (Leave(143),), "how ranks end that had to end is no failure"
    assert story.state is AgentState.STOPPED and story.agent.failure is None


def test_a_stop_is_final() -> None:
    story = running()
    story.then(Terminated())
    assert story.then(go(2)) == ()
    story.then(RankEnded(0, None))
    assert story.then(RankEnded(1, None)) == (Leave(143),)
    assert story.then(go(3)) == () and story.then(Tick(), after=999) == ()


def test_ranks_that_take_too_long_to_stop_are_killed_within_the_grace_period() -> None:
    story = running()
    story.then(Terminated())
    assert story.then(Tick(), after=RULES.stop_seconds) == (Kill(),)
    story.then(RankEnded(0, None))
    assert story.then(RankEnded(1, None)) == (Leave(143),)


@pytest.mark.parametrize("order", [stop(1), Terminated()])
def test_an_idle_agent_stops_at_once(order: Event) -> None:
    story = Story()
    assert story.then(order) == (Leave(143),) and story.state is AgentState.STOPPED


@pytest.mark.parametrize("order", [stop(1), Terminated()])
def test_a_failed_pod_that_is_stopped_still_says_what_failed(order: Event) -> None:
    story = failed()
    assert story.then(order) == (Leave(1),)
    assert story.state is AgentState.FAILED and story.agent.failure == failure()


def test_a_stop_that_meets_an_abandoned_group_signals_nobody_twice() -> None:
    story = running()
    story.then(wait(2))
    assert story.then(Terminated()) == ()
    story.then(RankEnded(0, None))
    assert story.then(RankEnded(1, None)) == (Leave(143),)


EVENTS = st.one_of(
    st.builds(go, st.integers(0, 4), workers=st.integers(0, 3)),
    st.builds(wait, st.integers(0, 4)),
    st.builds(stop, st.integers(0, 4)),
    st.sampled_from([Terminated(), Tick(), Tick(), Tick()]),
    st.builds(RankFailed, st.integers(0, 1), st.builds(failure, st.integers(0, 1))),
    st.builds(RankEnded, st.integers(0, 1), st.none() | st.builds(failure, st.integers(0, 1))),
)


@given(st.lists(st.tuples(EVENTS, st.sampled_from([0.0, 0.5, 3.0, 61.0])), max_size=40))
def test_whatever_happens_the_invariants_hold(events: list[tuple[Event, float]]) -> None:
    story, begun, left = Story(), [0], 0
    for event, after in events:
        if not story.possible(event):
            continue
        had, seen = story.agent.live, story.agent.incarnation
        for action in story.then(event, after):
            if isinstance(action, Start):
                assert had <= {getattr(event, "local_rank", -1)}, "never two groups at once"
                assert action.members.incarnation > begun[-1], "no incarnation twice, none older"
                begun.append(action.members.incarnation)
            left += isinstance(action, Leave)
        agent = story.agent
        assert agent.incarnation >= seen and left <= 1
        if agent.leaving is not None:
            assert not agent.live and agent.wake_at() is None
        if agent.state is AgentState.FAILED and agent.leaving is None:
            assert agent.failure is not None and agent.wake_at() is not None or agent.live


@given(st.lists(EVENTS, max_size=20))
def test_every_story_ends(events: list[Event]) -> None:
    story = Story()
    for event in filter(story.possible, events):
        story.then(event)
    story.end()
