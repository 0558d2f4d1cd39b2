"""Which ranks hang. Pure: what was seen of them goes in, with the time that has passed; no clock, no process.

Progress is a change of a rank's step or phase. How long it may stay away depends on the phase, and for the parts of a
step on how long the steps have taken so far. A rank that waits for another one inside a collective is not hung,
however long it waits: the other one is, and its own agent sees that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from disttrain_contract.stall import Phase, Stall
from disttrain_runtime.pulse import Beat

LOOK_SECONDS = 0.2
"""Between two looks at the ranks. An alarm is raised at the last look before the limit is passed."""
MAX_GAP = 3 * LOOK_SECONDS
"""What one look can add to a stall: when the agent itself did not run for a minute, the ranks probably did not either."""

FLOOR_SECONDS = 2.0
"""Shorter stalls happen on any busy machine: a page-in, a collection of garbage, a log line on a slow disk."""
WAITING_SECONDS = 5.0
"""A wait for others that is worth a word, long before it could be an alarm: if another pod is silent, too, it is its fault."""
FACTOR = 5.0
"""Of the 99th percentile. With heavy-tailed steps (log-normal, sigma 0.6) one step in several million takes longer."""
FEW_STEPS = 20
"""Timed steps from which on their percentile means something."""
FEW_SECONDS, FEW_FACTOR = 30.0, 10.0
"""The limit until then: caches fill, compilers still specialise."""
FIRST_SECONDS = 300.0
"""For the first step, which compiles and connects."""

PATIENCE = {
    Phase.STARTING: 3600.0,  # a task may fetch its data, and the volume of a large state be slow
    Phase.SAVING: 600.0,
    Phase.EVALUATING: 300.0,  # one batch of it
    Phase.LOADING: 60.0,  # a stall of the data's storage
    Phase.REGROUPING: math.inf,  # the operator's business
    Phase.MEETING: 30.0,  # the others may be late, but if all are here and do not meet, nobody is
    Phase.TAKING_UP: 30.0,  # a chunk of the state takes milliseconds; 2 MB in half a minute is no link to train over
}
"""Limits of what is not a part of every step, or waits for a disk: much longer than it should ever take."""
WAIT_SECONDS = 900.0
"""How long a rank may wait for others inside a collective before its own agent ends it. They may be loading, saving,
evaluating, and agents and operator end whoever hangs; half of torch's own half an hour."""
MEETING_SECONDS = 3600.0
"""The same for the others to come: they may be building for as long as that (see STARTING)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One rank at one look. Beside its page, what the kernel says about its main thread."""

    beat: Beat | None
    """None: it keeps no page (a script of the user's)."""
    state: str = "S"
    """As in /proc: R runs, S sleeps, D waits for a disk, T is stopped, t is traced."""
    cpu_seconds: float = 0.0
    starved_seconds: float = 0.0
    """It could run, but got no processor."""
    ignores_order: bool = False
    """Its group is over, it was told, and it has not moved since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """One rank since its last sign of life."""

    seen: Seen
    stalled: float = 0.0
    """Seconds in which it could have moved but did not."""
    cpu_before: float = 0.0
    """Its processor time when the stall began."""
    deaf: float = 0.0
    """The part of the stall since it was told that its group is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What stays the same for the life of the pod."""

    timeout: float | None = None
    """spec.recovery.hangTimeoutSeconds."""
    spinning: bool = False
    """Waiting for a GPU keeps a processor busy: then being busy says nothing."""


def watch(before: Watched | None, seen: Seen, elapsed: float) -> Watched:
    """One more look at a rank, `elapsed` seconds after the one before."""
    if before is None or _moved(before.seen, seen):
        return Watched(seen=seen, cpu_before=seen.cpu_seconds)
    starved = max(0.0, seen.starved_seconds - before.seen.starved_seconds)
    counted = max(0.0, min(elapsed, MAX_GAP) - starved) if seen.state != "t" else 0.0  # a debugger's: somebody knows
    deaf = before.deaf + counted if seen.ignores_order else 0.0
    return replace(before, seen=seen, stalled=before.stalled + counted, deaf=deaf)


def stalled(rules: Rules, watched: Watched) -> Stall | None:
    """What is known about a rank that should have moved by now."""
    beat, stopped = _beat(watched), watched.seen.state == "T"
    if watched.stalled + LOOK_SECONDS <= FLOOR_SECONDS and rules.timeout is None:
        return None  # spares the percentile
    if watched.stalled + LOOK_SECONDS <= _limit(rules, beat, stopped=stopped):
        return None
    return _stall(rules, watched)


def all_wait(rules: Rules, ranks: Iterable[Watched]) -> bool | None:
    """Whether every rank of the pod waits for others, and has for a while. None: there is nothing to tell by."""
    watched = [w for w in ranks if w.seen.beat is not None]
    if not watched:
        return None
    return all(w.stalled >= WAITING_SECONDS and _stall(rules, w).waits for w in watched)


def _beat(watched: Watched) -> Beat:
    return watched.seen.beat or Beat(step=0, phase=Phase.STARTING, since=0.0)


def _stall(rules: Rules, watched: Watched) -> Stall:
    busy = not rules.spinning and watched.seen.cpu_seconds - watched.cpu_before > watched.stalled / 2
    beat, stopped = _beat(watched), watched.seen.state == "T"
    return Stall(step=beat.step, phase=beat.phase, seconds=watched.stalled, stopped=stopped, busy=busy)


def is_hung(rules: Rules, watched: Watched, stall: Stall) -> bool:
    """Its own fault for all that can be seen here, or nobody's and too long, or its wait was ended and it waits still."""
    if watched.deaf + LOOK_SECONDS > FLOOR_SECONDS:
        return True
    if stall.waits:
        longest = MEETING_SECONDS if stall.phase is Phase.MEETING else WAIT_SECONDS
        return stall.seconds > max(longest, 2 * (rules.timeout or 0.0))
    loads = stall.phase is Phase.TAKING_UP and not stall.stopped  # what came is put into model and optimizer
    return not loads or stall.seconds > FIRST_SECONDS


def step_limit(beat: Beat) -> float:
    """For the parts of a step."""
    if not beat.durations:
        return FIRST_SECONDS
    if beat.timed < FEW_STEPS:
        return max(FEW_SECONDS, FEW_FACTOR * max(beat.durations))
    ordered = sorted(beat.durations)
    return max(FLOOR_SECONDS, FACTOR * ordered[math.ceil(0.99 * len(ordered)) - 1])


def _moved(before: Seen, seen: Seen) -> bool:
    """A sign of life, or of death: who is stopped, or goes on after that, gets his time anew."""
    stopped = seen.state == "T"
    return before.beat != seen.beat or (before.state == "T") != stopped or (seen.beat is None and not stopped)


def _limit(rules: Rules, beat: Beat, *, stopped: bool) -> float:
    if stopped:
        return rules.timeout or FLOOR_SECONDS  # whatever it was doing, it is not doing it
    patience = PATIENCE.get(beat.phase, 0.0)
    if beat.phase in (Phase.MEETING, Phase.TAKING_UP):
        return max(patience, rules.timeout or 0.0)  # steps, done or not, say nothing about these
    if rules.timeout is None:
        return max(patience, step_limit(beat))
    if beat.phase in (Phase.STARTING, Phase.SAVING, Phase.EVALUATING, Phase.REGROUPING):
        return max(patience, rules.timeout)
    return rules.timeout if beat.timed else max(rules.timeout, FIRST_SECONDS)
