"""Which ranks hang, told as what an agent sees of them."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable

import pytest

from disttrain_contract.stall import Phase, Stall
from disttrain_runtime.agent.hang import (
    FIRST_SECONDS,
    FLOOR_SECONDS,
    LOOK_SECONDS,
    WAIT_SECONDS,
    Rules,
    Seen,
    Watched,
    all_wait,
    is_hung,
    stalled,
    step_limit,
    watch,
)
from disttrain_runtime.pulse import Beat

DEFAULT = Rules()
FAST = tuple(0.01 for _ in range(100))
"""Steps of 10 ms."""


def beat(phase: Phase = Phase.FORWARD, step: int = 41, durations: tuple[float, ...] = FAST) -> Beat:
    return Beat(step=step, phase=phase, since=1.0, timed=len(durations), durations=durations)


def after(
    seconds: float, *, seen: Seen, rules: Rules = DEFAULT, cpu: float = 0.0, starved: float = 0.0
) -> Stall | None:
    """What is known of a rank that has stood still for so long; it used, or waited for, so much of a processor."""
    looks = round(seconds / LOOK_SECONDS)
    watched = watch(None, seen, 0.0)
    for i in range(1, looks + 1):
        share = i / looks
        later = Seen(beat=seen.beat, state=seen.state, cpu_seconds=cpu * share, starved_seconds=starved * share)
        watched = watch(watched, later, LOOK_SECONDS)
    return stalled(rules, watched)


def hung(stall: Stall, rules: Rules = DEFAULT) -> bool:
    return is_hung(rules, Watched(seen=Seen(beat=beat())), stall)


def test_a_rank_that_stands_in_its_own_work_hangs_after_two_seconds() -> None:
    assert after(1.6, seen=Seen(beat=beat())) is None
    stall = after(2.0, seen=Seen(beat=beat()))
    assert stall is not None and hung(stall) and (stall.step, stall.phase) == (41, Phase.FORWARD)


def test_slow_steps_get_five_times_their_99th_percentile() -> None:
    slow = tuple(1.0 + i / 100 for i in range(100))
    assert step_limit(beat(durations=slow)) == pytest.approx(5 * 1.98)
    assert after(9.0, seen=Seen(beat=beat(durations=slow))) is None
    assert after(9.9, seen=Seen(beat=beat(durations=slow))) is not None


def test_a_sign_of_life_starts_the_clock_anew() -> None:
    watched = watch(None, Seen(beat=beat()), 0.0)
    for i in range(200):
        phase = Phase.BACKWARD if i // 8 % 2 else Phase.FORWARD  # every 1.6 s
        watched = watch(watched, Seen(beat=beat(phase)), LOOK_SECONDS)
        assert stalled(DEFAULT, watched) is None


def test_the_first_step_and_the_next_few_are_given_time() -> None:
    assert after(FIRST_SECONDS - 1, seen=Seen(beat=beat(durations=()))) is None
    assert after(FIRST_SECONDS, seen=Seen(beat=beat(durations=()))) is not None
    assert after(29.0, seen=Seen(beat=beat(durations=FAST[:5]))) is None
    assert after(30.0, seen=Seen(beat=beat(durations=FAST[:5]))) is not None


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.SAVING, Phase.EVALUATING, Phase.LOADING, Phase.REGROUPING])
def test_what_waits_for_a_disk_or_an_operator_is_given_much_more(phase: Phase) -> None:
    assert after(55.0, seen=Seen(beat=beat(phase))) is None


@pytest.mark.parametrize("phase", [Phase.MEETING, Phase.TAKING_UP])
@pytest.mark.parametrize("durations", [(), FAST], ids=["new", "lived on"])
def test_a_group_that_does_not_come_together_is_told_of_and_nobody_is_to_blame(
    phase: Phase, durations: tuple[float, ...]
) -> None:
    """Only when all of them say so does the operator form it anew: some may still be building."""
    seen = Seen(beat=beat(phase, durations=durations))
    assert after(29.0, seen=seen) is None
    stall = after(30.0, seen=seen)
    assert stall is not None and stall.waits and not hung(stall)


def test_who_waits_for_others_that_build_for_an_hour_does_not_hang() -> None:
    stall = after(3500.0, seen=Seen(beat=beat(Phase.MEETING)))
    assert stall is not None and not hung(stall)


def test_putting_a_large_state_in_its_place_is_no_hang() -> None:
    seen = Seen(beat=beat(Phase.TAKING_UP))
    busy = after(60.0, seen=seen, cpu=59.0)
    assert busy is not None and busy.busy and not hung(busy)
    for_ever = after(FIRST_SECONDS + 1, seen=seen, cpu=FIRST_SECONDS)
    assert for_ever is not None and hung(for_ever)


def test_a_rank_out_of_its_group_never_hangs_unless_it_is_stopped() -> None:
    assert after(5000.0, seen=Seen(beat=beat(Phase.REGROUPING))) is None
    assert after(2.0, seen=Seen(beat=beat(Phase.REGROUPING), state="T")) is not None


@pytest.mark.parametrize("phase", [Phase.BACKWARD, Phase.AGREEING, Phase.SYNCHRONISING])
def test_a_rank_that_waits_in_a_collective_is_stalled_but_not_hung(phase: Phase) -> None:
    stall = after(2.0, seen=Seen(beat=beat(phase)))
    assert stall is not None and stall.waits and not hung(stall)


def test_a_rank_that_computes_all_the_time_waits_for_nobody() -> None:
    """A loop without end inside somebody's backward function."""
    stall = after(2.0, seen=Seen(beat=beat(Phase.BACKWARD)), cpu=1.9)
    assert stall is not None and stall.busy and hung(stall)


def test_on_a_gpu_a_busy_processor_says_nothing() -> None:
    rules = Rules(spinning=True)
    stall = after(2.0, seen=Seen(beat=beat(Phase.BACKWARD)), cpu=1.9, rules=rules)
    assert stall is not None and stall.waits and not hung(stall, rules)


def test_a_rank_that_still_waits_although_its_group_is_over_hangs() -> None:
    """It was told, its connections should be cut: it cannot hear, because something in it holds the interpreter."""
    waiting, told = Seen(beat=beat(Phase.BACKWARD)), Seen(beat=beat(Phase.BACKWARD), ignores_order=True)
    watched = watch(None, waiting, 0.0)
    ends = []
    for seen in [waiting] * 20 + [told] * 12:
        watched = watch(watched, seen, LOOK_SECONDS)
        stall = stalled(DEFAULT, watched)
        ends.append(stall is not None and is_hung(DEFAULT, watched, stall))
    assert ends.index(True) == 20 + 9, "two seconds after it was told"


def pod(*ranks: tuple[Phase, float, float]) -> bool | None:
    """Ranks of a pod by phase, seconds in it, and processor time used meanwhile."""
    found = (Watched(seen=Seen(beat=beat(at), cpu_seconds=cpu), stalled=seconds) for at, seconds, cpu in ranks)
    return all_wait(DEFAULT, found)


def test_a_pod_waits_for_others_when_all_its_ranks_have_for_five_seconds() -> None:
    meeting, in_a_collective = (Phase.MEETING, 5.0, 0.1), (Phase.BACKWARD, 6.0, 0.1)
    assert pod(meeting) and pod(meeting, in_a_collective)
    assert not pod((Phase.MEETING, 4.0, 0.1)), "the others may still come"
    assert not pod(in_a_collective, (Phase.FORWARD, 6.0, 0.1)), "one is at work"
    assert not pod((Phase.BACKWARD, 6.0, 5.9)), "a long backward pass"


def test_ranks_without_signs_of_life_do_not_say_whether_they_wait() -> None:
    assert all_wait(DEFAULT, []) is None
    assert all_wait(DEFAULT, [Watched(seen=Seen(beat=None), stalled=60.0)]) is None


def test_a_collective_that_nobody_ends_ends_at_last() -> None:
    stall = after(WAIT_SECONDS + 1, seen=Seen(beat=beat(Phase.AGREEING)))
    assert stall is not None and hung(stall)


def test_a_stopped_rank_hangs_whatever_it_was_doing() -> None:
    for phase in Phase:
        stall = after(2.0, seen=Seen(beat=beat(phase), state="T"))
        assert stall is not None and stall.stopped and hung(stall)


def test_of_a_script_nothing_is_known_but_that_it_is_stopped() -> None:
    assert after(3600.0, seen=Seen(beat=None)) is None
    stall = after(2.0, seen=Seen(beat=None, state="T"))
    assert stall is not None and hung(stall)


def test_a_rank_that_is_stopped_for_a_moment_is_left_alone() -> None:
    """It had not moved for 1.8 s, was stopped for 0.4, and goes on: each counts by itself."""
    watched = watch(None, Seen(beat=beat()), 0.0)
    for state in "S" * 9 + "TT" + "S" * 8:
        watched = watch(watched, Seen(beat=beat(), state=state), LOOK_SECONDS)
        assert stalled(DEFAULT, watched) is None


def test_a_rank_under_a_debugger_has_all_the_time() -> None:
    assert after(3600.0, seen=Seen(beat=beat(), state="t")) is None


def test_time_in_which_it_got_no_processor_does_not_count() -> None:
    assert after(3.0, seen=Seen(beat=beat()), starved=1.5) is None
    assert after(4.0, seen=Seen(beat=beat()), starved=1.5) is not None


def test_when_the_agent_itself_slept_nobody_is_to_blame() -> None:
    """The machine was suspended for an hour."""
    watched = watch(watch(None, Seen(beat=beat()), 0.0), Seen(beat=beat()), 3600.0)
    assert stalled(DEFAULT, watched) is None


def test_the_users_limit_holds_for_every_part_of_a_step_but_not_for_the_first() -> None:
    rules = Rules(timeout=5.0)
    for phase in (Phase.FORWARD, Phase.LOADING, Phase.UPDATING):
        assert after(4.6, seen=Seen(beat=beat(phase)), rules=rules) is None
        assert after(5.0, seen=Seen(beat=beat(phase)), rules=rules) is not None
    assert after(60.0, seen=Seen(beat=beat(durations=())), rules=rules) is None
    assert after(60.0, seen=Seen(beat=beat(Phase.SAVING)), rules=rules) is None
    slow = tuple(60.0 for _ in range(100))
    assert after(5.0, seen=Seen(beat=beat(durations=slow)), rules=rules) is not None, "shorter than a step: as asked"


def log_normal(median: float, sigma: float) -> Callable[[random.Random], float]:
    return lambda chance: median * math.exp(sigma * chance.gauss(0.0, 1.0))


def hiccups(median: float) -> Callable[[random.Random], float]:
    """One step in 200 takes four times as long, one in 2,000 ten times: a checkpoint elsewhere, a compaction."""

    def draw(chance: random.Random) -> float:
        factor = 10.0 if chance.random() < 1 / 2000 else 4.0 if chance.random() < 1 / 200 else 1.0
        return median * factor * math.exp(0.2 * chance.gauss(0.0, 1.0))

    return draw


STEPS = {
    "10 ms, log-normal": log_normal(0.01, 1.0),
    "0.5 s, log-normal": log_normal(0.5, 0.6),
    "1 s, log-normal": log_normal(1.0, 0.6),
    "0.1 s with hiccups": hiccups(0.1),
    "10 ms, Pareto": lambda chance: 0.01 * chance.paretovariate(2.5),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_hundred_thousand_steps_with_heavy_tails_raise_no_alarm(name: str) -> None:
    """Every step is looked at as long as it lasts, by the very functions that the agent calls."""
    chance, draw = random.Random(name), STEPS[name]
    ring: deque[float] = deque(maxlen=500)
    alarms = 0
    for step in range(100_000):
        seconds = draw(chance)
        if seconds > FLOOR_SECONDS - 2 * LOOK_SECONDS:  # shorter ones cannot raise one
            seen = Seen(beat=beat(step=step, durations=tuple(ring)))
            watched: Watched = watch(None, seen, 0.0)
            for _ in range(int(seconds / LOOK_SECONDS)):
                watched = watch(watched, seen, LOOK_SECONDS)
            alarms += stalled(DEFAULT, watched) is not None
        ring.append(seconds)
    assert alarms == 0
