"""Ranks of a task outlive their group. What the agent decides then, told as stories."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from tests.agent.test_decide import EVENTS, RULES, Story, failure, go, members, stop, wait

from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import REASSIGN_WAIT_SECONDS, VICTIM_SECONDS, AgentState, Assignment
from disttrain_runtime.agent.decide import (
    ABANDON_SECONDS,
    Assigned,
    Event,
    Hold,
    Kill,
    Leave,
    RankEnded,
    RankFailed,
    RankHolds,
    Start,
    Terminate,
    Tick,
)

TASK = replace(RULES, task=True)
VICTIM = failure(1, FailureClass.NETWORK)


def running() -> Story:
    story = Story(TASK)
    story.then(go(1))
    return story


def test_a_dead_rank_leaves_its_neighbour_alive_and_is_replaced_in_the_next_group() -> None:
    story = running()
    assert story.then(RankEnded(0, failure())) == ()
    assert story.state is AgentState.FAILED and story.agent.live == {1}
    assert story.then(go(2)) == (Hold(2), Start(members(2), 0))
    assert story.state is AgentState.RUNNING and story.agent.failure is None


def test_a_pod_whose_group_breaks_elsewhere_keeps_all_its_ranks() -> None:
    story = running()
    assert story.then(RankHolds(1, VICTIM)) == ()
    assert story.state is AgentState.FAILED and story.agent.failure == VICTIM
    assert story.then(wait(2)) == (Hold(2),), "its peers must notice, and it cannot go on before all are there"
    assert (story.state, story.agent.live) == (AgentState.IDLE, {0, 1})
    assert story.then(go(2)) == (Start(members(2), 0),)


def test_the_order_may_come_before_the_rank_has_noticed_anything() -> None:
    story = running()
    assert story.then(go(2)) == (Hold(2), Start(members(2), 0))
    assert story.then(RankHolds(0, VICTIM)) == () or story.agent.failure == VICTIM


def test_a_victims_word_gives_way_to_the_culprits() -> None:
    story = running()
    story.then(RankHolds(1, VICTIM))
    story.then(RankEnded(0, failure(0)))
    assert story.agent.failure == failure(0)


def test_a_victim_is_not_told_of_before_the_rank_beside_it_is_known_to_have_died() -> None:
    story = running()
    story.then(RankHolds(1, VICTIM))
    assert story.agent.told_state is AgentState.RUNNING, "rank 0 closed its connections, and may be dying"
    story.then(RankEnded(0, failure(0)))
    assert (story.agent.told_state, story.agent.failure) == (AgentState.FAILED, failure(0))


def test_victims_are_told_of_once_all_have_spoken_or_the_others_had_their_time() -> None:
    both, one = running(), running()
    both.then(RankHolds(1, VICTIM))
    both.then(RankHolds(0, VICTIM))
    assert (both.agent.told_state, both.agent.wake_at()) == (AgentState.FAILED, both.agent.give_up_at)
    one.then(RankHolds(1, VICTIM))
    assert one.agent.wake_at() == one.now + VICTIM_SECONDS
    assert one.then(Tick(), after=VICTIM_SECONDS) == ()
    assert one.agent.told_state is AgentState.FAILED


def test_what_was_said_of_one_group_does_not_count_in_the_next() -> None:
    story = running()
    story.then(RankHolds(0, VICTIM))
    story.then(go(2))
    story.then(RankHolds(1, VICTIM))
    assert story.agent.told_state is AgentState.RUNNING


def test_a_rank_that_fails_by_itself_gets_no_place_before_it_is_gone() -> None:
    story = running()
    assert story.then(RankFailed(0, failure())) == ()
    assert story.then(go(2)) == (Hold(2),)
    assert story.then(RankEnded(0, failure())) == (Start(members(2), 0),)


def test_a_rank_that_says_it_failed_and_stays_is_killed_and_no_other() -> None:
    story = running()
    story.then(RankFailed(0, failure()))
    assert story.then(Tick(), after=ABANDON_SECONDS) == (Kill(frozenset({0})),)


def test_a_rank_may_die_while_it_holds() -> None:
    story = running()
    story.then(RankHolds(0, VICTIM))
    story.then(wait(2))
    assert story.then(RankEnded(0, failure())) == ()
    assert story.then(go(2)) == (Start(members(2), 0),)


def test_all_ranks_may_die_while_they_hold() -> None:
    story = running()
    story.then(wait(2))
    story.then(RankEnded(0, failure()))
    assert story.then(RankEnded(1, failure())) == ()
    assert story.then(go(2)) == (Start(members(2), 0),), "and the pod is not done"


def test_the_seat_is_the_operators_to_give() -> None:
    story = Story(TASK)
    seat = Assignment(job_uid="job", incarnation=1, membership=members(1), group_rank=1)
    assert story.then(Assigned(seat)) == (Start(members(1), 1),)


def test_a_pod_that_the_next_group_does_without_ends_its_ranks() -> None:
    story = Story(replace(TASK, worker_index=1))
    story.then(go(1))
    assert story.then(go(2, workers=1)) == (Terminate(),)
    story.then(RankEnded(0, None))
    assert story.then(RankEnded(1, None)) == ()
    assert story.state is AgentState.IDLE
    assert story.then(go(3)) == (Start(members(3), 1),), "and may be wanted again"


def test_ranks_on_their_way_out_are_not_asked_to_stay() -> None:
    story = Story(replace(TASK, worker_index=1))
    story.then(go(1))
    story.then(go(2, workers=1))
    assert story.then(go(3)) == ()
    story.then(RankEnded(0, None))
    assert story.then(RankEnded(1, None)) == (Start(members(3), 1),)


def test_ranks_that_nobody_calls_again_are_stopped_and_the_pod_says_what_failed() -> None:
    story = running()
    story.then(RankHolds(0, VICTIM))
    assert story.then(Tick(), after=REASSIGN_WAIT_SECONDS) == (Terminate(),)
    story.then(RankEnded(0, None))
    assert story.then(RankEnded(1, None)) == (Leave(VICTIM.exit_code),)


def test_a_stop_while_ranks_hold_lets_them_save_what_they_have() -> None:
    story = running()
    story.then(wait(2))
    assert story.then(stop(2)) == (Terminate(),)
    story.then(RankEnded(0, None))
    assert story.then(RankEnded(1, None)) == (Leave(143),)


def test_alone_there_is_no_next_group() -> None:
    story = Story(replace(TASK, alone=True))
    story.then(go(1))
    assert story.then(RankHolds(1, VICTIM)) == (Terminate(),)


@given(st.lists(st.tuples(EVENTS | st.builds(RankHolds, st.integers(0, 1), st.just(VICTIM)),
                          st.sampled_from([0.0, 0.5, 3.0, 61.0])), max_size=40))  # fmt: skip
def test_whatever_happens_the_invariants_hold(events: list[tuple[Event, float]]) -> None:
    story, begun, left = Story(TASK), [0], 0
    for event, after in events:
        if not story.possible(event):
            continue
        for action in story.then(event, after):
            if isinstance(action, Start):
                assert action.members.incarnation > begun[-1], "no incarnation twice, none older"
                assert not story.agent.failing, "nobody who is leaving gets a place"
                begun.append(action.members.incarnation)
            left += isinstance(action, Leave)
        agent = story.agent
        assert left <= 1 and agent.failing <= agent.live
        if agent.leaving is not None:
            assert not agent.live
        if agent.state is AgentState.FAILED and agent.leaving is None:
            assert story.killed or agent.wake_at() is not None, "somebody is waiting for nothing"


@given(st.lists(EVENTS | st.builds(RankHolds, st.integers(0, 1), st.just(VICTIM)), max_size=20))
def test_every_story_ends(events: list[Event]) -> None:
    story = Story(TASK)
    for event in filter(story.possible, events):
        story.then(event)
    story.end()
