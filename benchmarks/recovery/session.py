"""One group and the faults that it lives through."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.recovery.arms.arm import RANKS, Arm, Group, Run
from benchmarks.recovery.marks import Marks, Recovery, finished, recovery

START_SECONDS, RECOVERY_SECONDS = 180.0, 180.0
LOOK_SECONDS = 0.002
"""Between looks while the moment of a fault is awaited; after it the marks carry their own times."""
RELAXED_SECONDS = 0.05
SETTLE_SECONDS = 2.0
"""After a recovery, for spares to be made anew and reports to be written, before the next fault may come."""
RECENT = 60
"""Marks before a fault that matter: the last twenty steps of three ranks. The whole list, looked through again and again,
would take the processor from whom we measure."""


@dataclass(frozen=True, slots=True)
class Fault:
    """SIGKILL to a rank, or the deletion of its pod, so many steps after a checkpoint and so far into the step after it."""

    what: Literal["rank", "pod"]
    rank: int
    offset: int
    delay: float

    @property
    def kind(self) -> str:
        """For tables."""
        return f"kill rank {self.rank}" if self.what == "rank" else "delete a pod"


def draw(seed: int, ranks: Sequence[int], every_steps: int, what: Literal["rank", "pod"] = "rank") -> list[Fault]:
    """The same for all arms. Not within two steps before the next checkpoint, for its digest would count as recovery."""
    dice = random.Random(seed)
    return [Fault(what, r, dice.randrange(1, every_steps - 2), dice.uniform(0, 0.02)) for r in ranks]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that was measured in one session."""

    samples: list[dict[str, Any]]
    step_seconds: float
    marks: Marks


def run_session(arm: Arm, run: Run, faults: Sequence[Fault], least: int = 0) -> Outcome:
    """Start, warm up, then fault by fault, and on to step `least` and the digest after it. Raises SystemExit when the
    group does not come back."""
    run.folder.mkdir(parents=True)
    marks = Marks(run.marks)
    with arm.train(run) as group:
        began = time.monotonic()
        until(lambda: marks.refresh().newest > run.every_steps, START_SECONDS, group, run)
        ready = time.monotonic() - began
        usual = _step_seconds(marks)
        samples = []
        for fault in faults:
            found = _one(group, run, marks, fault)
            samples.append({"arm": arm.name, "megabytes": run.megabytes, "start": ready, **found})
        target = max(least, marks.newest) // run.every_steps * run.every_steps + run.every_steps
        until(lambda: marks.refresh().newest > target, RECOVERY_SECONDS + target * usual, group, run)
    return Outcome(samples, usual, marks.refresh())


def _one(group: Group, run: Run, marks: Marks, fault: Fault) -> dict[str, Any]:
    settled = marks.refresh().newest + run.every_steps

    def moment() -> bool:
        step = marks.refresh().newest
        return step > settled and step % run.every_steps == fault.offset and len(marks.present) == RANKS

    until(moment, RECOVERY_SECONDS, group, run, LOOK_SECONDS)
    time.sleep(fault.delay)
    found = strike(group, run, marks, fault.rank, None if fault.what == "rank" else group.delete_pod)
    time.sleep(SETTLE_SECONDS)
    whole = {**asdict(found), "recomputed": found.recomputed, "load": os.getloadavg()[0]}
    return {"fault": fault.kind, "offset": fault.offset, **whole, "facts": dict(group.facts())}


def strike(group: Group, run: Run, marks: Marks, rank: int, hit: Callable[[int, int], None] | None = None) -> Recovery:
    """SIGKILL to a rank, or what `hit` does to it (and to its process), and wait until that is over."""
    pid = marks.refresh().pid(rank)
    recent = max(0, len(marks.all) - RECENT)
    at = time.monotonic_ns()
    if hit is not None:
        hit(rank, pid)
    else:
        os.kill(pid, signal.SIGKILL)
    until(lambda: recovery(marks.refresh().all[recent:], at, rank) is not None, RECOVERY_SECONDS, group, run)
    found = recovery(marks.all[recent:], at, rank)
    if found is None:
        raise AssertionError("marks do not change")
    return found


def until(true: Callable[[], bool], seconds: float, group: Group, run: Run, every: float = RELAXED_SECONDS) -> None:
    """Wait. Raises SystemExit when it takes too long, or when the group has given up."""
    end, looked = time.monotonic() + seconds, time.monotonic()
    while not true():
        now = time.monotonic()
        if now > end or (now - looked > 10 and not group.alive()):
            raise SystemExit(f"the group stopped training; its logs are in {run.folder}")
        looked = now if now - looked > 10 else looked
        time.sleep(every)


def _step_seconds(marks: Marks) -> float:
    """The median time of a step without a fault."""
    times = [at for at, _, _ in finished(marks.all)]
    gaps = sorted(b - a for a, b in zip(times, times[1:], strict=False))
    return gaps[len(gaps) // 2] / 1e9
