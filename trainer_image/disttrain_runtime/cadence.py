"""When it is time for the next checkpoint, the next report. Pure: the clock's reading is an argument."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mark:
    """The last time something was done."""

    step: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """Every so many steps, or every so many seconds, or never."""

    every_steps: int | None = None
    every_seconds: float | None = None

    def due(self, last: Mark, step: int, now: float) -> bool:
        """Has a multiple of `every_steps`, or `every_seconds`, gone by since? What was put off stays due."""
        if step <= last.step:
            return False
        if self.every_steps is not None:
            return step // self.every_steps > last.step // self.every_steps
        return self.every_seconds is not None and now - last.at >= self.every_seconds
