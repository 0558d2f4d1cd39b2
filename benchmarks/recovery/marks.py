"""The one signal that all arms share: every rank, after every optimizer step, appends a line to one file.

    step rank world pid nanoseconds digest samples

`step` counts the updates in the optimizer's own state, so it goes back when state is restored. `world` is how many ranks
took part. A step is *finished* when `world` ranks have said so. Clocks are CLOCK_MONOTONIC of one machine.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

NO_DIGEST = "-"


@dataclass(frozen=True, slots=True)
class Mark:
    """One rank has finished one step."""

    step: int
    rank: int
    world: int
    pid: int
    at: int
    """Nanoseconds."""
    digest: str
    """Of the parameters after the step, at every so many steps; else `-`."""
    samples: tuple[int, ...]

    @classmethod
    def parse(cls, line: str) -> Mark:
        """The inverse of what `Writer` writes."""
        step, rank, world, pid, at, digest, samples = line.split()
        ids = tuple(int(s) for s in samples.split(","))
        return cls(int(step), int(rank), int(world), int(pid), int(at), digest, ids)


class Writer:
    """A rank's end. One `write` a line to a file opened for appending: lines of several processes do not mix."""

    def __init__(self, file: str) -> None:
        self._fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, step: int, rank: int, world: int, digest: str, samples: Sequence[int]) -> None:
        """Say it now."""
        ids = ",".join(map(str, samples))
        line = f"{step} {rank} {world} {os.getpid()} {time.monotonic_ns()} {digest or NO_DIGEST} {ids}\n"
        os.write(self._fd, line.encode())


class Marks:
    """The benchmark's end: all marks of one group so far, in the order in which they were written."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read = 0
        self._rest = b""
        self.all: list[Mark] = []

    def refresh(self) -> Marks:
        """Read what is new."""
        try:
            with self._file.open("rb") as opened:
                opened.seek(self._read)
                data = opened.read()
        except FileNotFoundError:
            return self
        self._read += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.all += [Mark.parse(line.decode()) for line in lines]
        return self

    def pid(self, rank: int) -> int:
        """The process that is this rank now."""
        return next(m.pid for m in reversed(self.all) if m.rank == rank)

    @property
    def present(self) -> set[int]:
        """The ranks that took part in the last few steps."""
        return {m.rank for m in self.all[-10:]}

    @property
    def newest(self) -> int:
        """The newest step that any rank has finished last; 0 before the first."""
        return self.all[-1].step if self.all else 0


@dataclass(frozen=True, slots=True)
class Recovery:
    """From one fault, in seconds since the signal was sent."""

    before: int
    """The highest step that any rank had finished when the signal was sent."""
    again_at: float
    """The first step, old or new, that a group finished with a new process or without the killed one."""
    again_step: int
    new_at: float
    """The first step above `before` that the whole group of then finished."""
    full_at: float
    """The same with as many ranks as before the fault."""

    @property
    def recomputed(self) -> int:
        """Steps that were run a second time."""
        return max(0, self.before + 1 - self.again_step)


def recovery(marks: Sequence[Mark], fault: int, rank: int) -> Recovery | None:
    """What the marks say about the fault that killed `rank` at `fault`; None as long as it is not over."""
    earlier = [m for m in marks if m.at <= fault]
    before = max(m.step for m in earlier)
    victim = next(m.pid for m in reversed(earlier) if m.rank == rank)
    world = earlier[-1].world
    later = [m for m in marks if m.at > fault and m.pid != victim]
    whole = finished(later)
    again = next(((at, step) for at, step, _ in whole if _is_after(later, step, at, rank)), None)
    new = next((at for at, step, _ in whole if step > before), None)
    full = next((at for at, step, size in whole if step > before and size == world), None)
    if again is None or new is None or full is None:
        return None
    return Recovery(before, _since(fault, again[0]), again[1], _since(fault, new), _since(fault, full))


def finished(marks: Iterable[Mark]) -> list[tuple[int, int, int]]:
    """(when, step, ranks) of every step at the moment when the last of its ranks had finished it, in order of time."""
    seen: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
    found = []
    for mark in marks:
        ranks = seen[mark.step, mark.world]
        ranks.add(mark.rank)
        if len(ranks) == mark.world:
            found.append((mark.at, mark.step, mark.world))
            ranks.clear()
    return sorted(found)


def _is_after(later: Sequence[Mark], step: int, at: int, rank: int) -> bool:
    """Whether this step was finished by a group that knows of the fault: its victim is replaced, or not in it."""
    ranks = {m.rank: m for m in later if m.step == step and m.at <= at}
    return rank in ranks or len(ranks) == next(iter(ranks.values())).world


def _since(fault: int, at: int) -> float:
    return (at - fault) / 1e9


@dataclass(frozen=True, slots=True)
class Ledger:
    """What became of every sample and of the parameters, over all incarnations of one run."""

    steps: int
    doubled: int
    """Samples that were seen twice in one epoch."""
    missed: int
    """Samples of a finished epoch that nobody saw, where every rank has left its mark."""
    unwitnessed: int
    """Steps that a rank finished and was killed before it could say so. What it saw is in the gradient all the same, and
    so in the digests."""
    changed: int
    """Steps that were run again with other samples."""
    replicas_differ: int
    """Steps after which two ranks had different parameters."""
    digests: dict[int, str]


def ledger(marks: Sequence[Mark], steps_per_epoch: int, samples: int) -> Ledger:
    """Each rank's last run of a step is the one that the result stands on; a run before it must have seen the same."""
    last: dict[tuple[int, int], Mark] = {}
    changed = set()
    for mark in marks:
        older = last.get((mark.step, mark.rank))
        if older is not None and (older.samples, older.world) != (mark.samples, mark.world):
            changed.add(mark.step)
        last[mark.step, mark.rank] = mark
    by_step: defaultdict[int, list[Mark]] = defaultdict(list)
    for (step, _), mark in sorted(last.items()):
        by_step[step].append(mark)
    dark = {step for step, ranks in by_step.items() if len(ranks) != ranks[0].world}
    doubled = missed = 0
    for first in range(1, max(by_step, default=0) + 1, steps_per_epoch):
        epoch = range(first, first + steps_per_epoch)
        seen = [s for step in epoch for mark in by_step.get(step, ()) for s in mark.samples]
        doubled += len(seen) - len(set(seen))
        if epoch[-1] in by_step and not dark.intersection(epoch):
            missed += samples - len(set(seen))
    said = {step: {m.digest for m in ranks} - {NO_DIGEST} for step, ranks in by_step.items()}
    return Ledger(
        steps=len(by_step), doubled=doubled, missed=missed, unwitnessed=len(dark), changed=len(changed),
        replicas_differ=sum(len(found) > 1 for found in said.values()),
        digests={step: min(found) for step, found in said.items() if found},
    )  # fmt: skip
