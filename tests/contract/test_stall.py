"""Who is to blame when a whole group stands still."""

from __future__ import annotations

from disttrain_contract.stall import Phase, Stall, everybody_waits, suspicion


def at(phase: Phase, step: int = 40, *, stopped: bool = False, busy: bool = False) -> Stall:
    return Stall(step=step, phase=phase, seconds=2.0, stopped=stopped, busy=busy)


def culprit(*stalls: Stall) -> int:
    return min(range(len(stalls)), key=lambda i: suspicion(stalls[i]))


def test_a_rank_in_its_own_work_is_to_blame_and_not_those_that_wait_for_it() -> None:
    assert culprit(at(Phase.BACKWARD), at(Phase.FORWARD), at(Phase.BACKWARD)) == 1


def test_a_stopped_rank_is_to_blame_wherever_it_stands() -> None:
    assert culprit(at(Phase.FORWARD), at(Phase.BACKWARD), at(Phase.BACKWARD, stopped=True)) == 2


def test_of_ranks_that_all_wait_the_one_that_computes_is_to_blame() -> None:
    assert culprit(at(Phase.BACKWARD), at(Phase.BACKWARD), at(Phase.BACKWARD, busy=True)) == 2


def test_a_rank_stuck_in_its_optimizer_is_to_blame_although_it_is_ahead_of_none() -> None:
    """The others have finished the step and wait for its word."""
    assert culprit(at(Phase.AGREEING, step=41), at(Phase.UPDATING, step=40)) == 1


def test_without_better_evidence_the_furthest_behind_is_to_blame() -> None:
    assert culprit(at(Phase.SYNCHRONISING, step=41), at(Phase.AGREEING, step=41), at(Phase.BACKWARD, step=41)) == 1
    assert culprit(at(Phase.AGREEING, step=41), at(Phase.BACKWARD, step=40)) == 1


def test_a_collective_cannot_end_when_every_single_rank_waits_in_it() -> None:
    waiting = at(Phase.BACKWARD)
    assert everybody_waits([waiting, waiting])
    assert not everybody_waits([waiting, at(Phase.FORWARD)])
    assert not everybody_waits([waiting, None])
    assert not everybody_waits([])
