"""Signs of life: what a rank writes, its agent reads."""

from __future__ import annotations

import pytest

from disttrain_contract.env import PULSE
from disttrain_contract.stall import Phase
from disttrain_runtime.agent.board import Board
from disttrain_runtime.pulse import PAGE, RING, Pulse, read

STEP = (Phase.SYNCHRONISING, Phase.FORWARD, Phase.BACKWARD, Phase.UPDATING)


class Life:
    """A rank that trains by a clock of ours."""

    def __init__(self) -> None:
        self.now = 100.0
        self.page = bytearray(PAGE)
        self.pulse = Pulse(self.page, lambda: self.now)
        self.pulse.enter(Phase.LOADING, 500)

    def step(self, seconds: float, evaluation: float = 0.0) -> None:
        done = self.pulse.step + 1
        for phase in STEP:
            self.pulse.enter(phase)
            self.now += seconds / len(STEP)
        self.pulse.enter(Phase.AGREEING, done)
        if evaluation:
            self.pulse.enter(Phase.EVALUATING)
            self.now += evaluation
        self.pulse.enter(Phase.LOADING)


def test_the_agent_reads_step_phase_and_since_when() -> None:
    life = Life()
    life.step(0.5)
    life.now = 107.0
    life.pulse.enter(Phase.FORWARD)
    beat = read(life.page)
    assert beat is not None and (beat.step, beat.phase, beat.since) == (501, Phase.FORWARD, 107.0)


def test_steps_are_timed_but_not_the_first_and_not_what_happens_now_and_then() -> None:
    life = Life()
    life.step(60.0)
    life.step(0.5)
    life.step(0.7, evaluation=30.0)
    beat = read(life.page)
    assert beat is not None and beat.timed == 2
    assert beat.durations == pytest.approx((0.5, 0.7))


def test_the_newest_durations_are_kept() -> None:
    life = Life()
    for i in range(RING + 11):
        life.step(1.0 + i)
    beat = read(life.page)
    assert beat is not None and beat.timed == RING + 10 and len(beat.durations) == RING
    assert max(beat.durations) == pytest.approx(RING + 11) and min(beat.durations) == pytest.approx(12.0)


def test_in_a_new_group_the_first_step_is_not_timed_but_the_old_ones_are_remembered() -> None:
    life = Life()
    for _ in range(30):
        life.step(1.0)
    life.pulse.begin()
    beat = read(life.page)
    assert beat is not None and (beat.step, beat.phase, beat.timed) == (0, Phase.STARTING, 29)
    life.pulse.enter(Phase.LOADING, 530)
    life.step(60.0)
    life.step(2.0)
    beat = read(life.page)
    assert beat is not None and beat.timed == 30 and max(beat.durations) == pytest.approx(2.0)


def test_own_time_is_what_is_spent_without_waiting_for_others() -> None:
    life = Life()
    for _ in range(10):
        life.step(4.0)  # one second in each phase; two of them are its own
    assert life.pulse.own_seconds() == pytest.approx(2.0)
    assert life.pulse.own_seconds() == 0.0
    life.step(8.0)
    assert life.pulse.own_seconds() == pytest.approx(4.0)


def test_a_page_that_nobody_has_written_to_or_somebody_else_says_nothing() -> None:
    assert read(bytearray(PAGE)) is None
    assert read(bytearray(b"\xff" * PAGE)) is None
    assert read(bytearray(b"\x40" * PAGE)) is None


def test_rank_and_agent_share_the_page_by_its_path() -> None:
    board = Board()
    assert board.beat() is None
    pulse = Pulse.from_env({PULSE: board.path})
    pulse.enter(Phase.BACKWARD, 7)
    beat = board.beat()
    assert beat is not None and (beat.step, beat.phase, beat.writes_stacks) == (7, Phase.BACKWARD, True)
    board.close()
    pulse.enter(Phase.LOADING, 8)  # the agent let go of it; the rank does not care


def test_without_an_agent_or_its_page_a_rank_trains_all_the_same() -> None:
    for env in ({}, {PULSE: "/proc/1/fd/no-such-file"}):
        Pulse.from_env(env).enter(Phase.FORWARD, 1)
