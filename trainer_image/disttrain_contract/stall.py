"""A rank that makes no progress: what is known about it, and which of several is to blame. Pure.

When one rank of a group hangs, all others hang soon after: they wait for it inside a collective. Nobody says so; it
is read from where each of them stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class Phase(IntEnum):
    """What a rank is doing, in the order in which it happens after a step is finished: the smallest is behind."""

    STARTING = 0
    """Imports, building, restoring."""
    AGREEING = 1
    SAVING = 2
    EVALUATING = 3
    REPORTING = 4
    LOADING = 5
    SYNCHRONISING = 6
    """From the call of the model until the model itself runs: buffers come from rank 0."""
    FORWARD = 7
    BACKWARD = 8
    """Gradients are exchanged meanwhile."""
    UPDATING = 9
    REGROUPING = 10
    """Out of its group, waiting for the next one: the operator's turn, however long it takes."""
    MEETING = 11
    """Looking for the others of its group: they may still be building, or never come."""
    TAKING_UP = 12
    """In its group; the state of those who have it is on its way to those who have none."""

    @property
    def word(self) -> str:
        """For people."""
        return self.name.lower()


COLLECTIVE = frozenset(
    {
        Phase.STARTING, Phase.AGREEING, Phase.REPORTING, Phase.SYNCHRONISING, Phase.BACKWARD, Phase.REGROUPING,
        Phase.MEETING, Phase.TAKING_UP,
    }
)  # fmt: skip
"""Phases in which a rank may be waiting for another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """A rank without progress."""

    step: int
    """Finished steps."""
    phase: Phase
    seconds: float
    """Without a change of step or phase."""
    stopped: bool = False
    """By SIGSTOP: state T."""
    busy: bool = False
    """Its main thread computes all the time; one that waits for another rank does not."""

    @property
    def waits(self) -> bool:
        """It may well be a victim: nothing says that it could go on."""
        return self.phase in COLLECTIVE and not self.stopped and not self.busy


def suspicion(stall: Stall) -> tuple[bool, bool, int, int]:
    """The smaller, the more to blame: stopped, then not waiting for anybody, then the furthest behind."""
    return (not stall.stopped, stall.waits, stall.step, stall.phase)


def everybody_waits(stalls: Sequence[Stall | None]) -> bool:
    """Nobody in the whole group works and nobody is behind alone: a collective that cannot end."""
    return bool(stalls) and all(s is not None and s.waits for s in stalls)
