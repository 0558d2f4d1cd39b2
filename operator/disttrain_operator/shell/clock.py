"""The operator's time of day: it follows the machine's clock, but never jumps.

Deadlines, back-off and time to live are times of day, so that they outlive the operator. A clock that is set while it runs would
end jobs that have hours left, or hold a restart for an hour. So a step of the machine's clock is made up for slowly.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

log = logging.getLogger(__name__)

RATE = 0.1
"""A step is made up for by going this much faster or slower: a duration that is measured meanwhile is wrong by a tenth at most, a clock
that was an hour off is right again after ten."""
WORTH_SAYING = timedelta(seconds=1)
"""NTP moves a healthy clock by milliseconds."""


def _wall() -> datetime:
    return datetime.now(UTC)


class SteadyClock:
    """Called: the time of day. It never goes back, and never runs more than a tenth too fast or too slow."""

    def __init__(self, wall: Callable[[], datetime] = _wall, clock: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._clock = clock
        self._now, self._at = wall(), clock()
        self._off = timedelta(0)

    def __call__(self) -> datetime:
        at = self._clock()
        passed, self._at = timedelta(seconds=at - self._at), at
        due = self._wall() - self._now - passed
        self._say(due)
        most = passed * RATE
        made_up = max(-most, min(most, due))
        self._now += passed + made_up
        self._off = due - made_up
        return self._now

    def _say(self, due: timedelta) -> None:
        """Once for each step."""
        step = due - self._off
        if abs(step) >= WORTH_SAYING:
            seconds = step.total_seconds()
            log.warning(
                "the clock of this machine was set by %+.1f s: deadlines and back-off do not follow at once", seconds
            )
