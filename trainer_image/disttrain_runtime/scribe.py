"""A thread that writes small things to a volume, so that training does not wait for a disk that is slow, or hangs.

What is handed over is done in order. Whoever must know that it is done waits, but not for ever: a disk that has not answered
for `PATIENCE_SECONDS` is waited for no longer, by anybody, until it has answered.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

PATIENCE_SECONDS = 2.0
"""For the oldest thing that is not done. A disk that works needs milliseconds; below the time in which a stall counts as a hang."""
MOST = 10_000
"""Things that wait: hours of lines. What comes then is lost."""


class Scribe:
    """The thread begins with the first thing to do: a rank that writes nothing has none."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        """Since when, and what. The first one is under way."""
        self._error: BaseException | None = None
        self._begun = False

    def do(self, write: Callable[[], None]) -> bool:
        """Hand over. False: too much waits already. Raises what a write has raised; what was handed over behind that is dropped."""
        with self._changed:
            self._complain()
            if len(self._waiting) >= MOST:
                return False
            self._waiting.append((self._clock(), write))
            self._changed.notify_all()
            if not self._begun:
                self._begun = True
                threading.Thread(target=self._run, name="scribe", daemon=True).start()
        return True

    def wait(self) -> bool:
        """Until all is done, or the disk has had its time. Gives whether all is done. Raises what a write has raised."""
        with self._changed:
            while self._waiting and (left := self._waiting[0][0] + PATIENCE_SECONDS - self._clock()) > 0:
                self._changed.wait(left)
            self._complain()
            return not self._waiting

    def _complain(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                _, write = self._waiting[0]
            error: BaseException | None = None
            try:
                write()
            except BaseException as caught:  # raised where the next thing is handed over
                error = caught
            with self._changed:
                self._waiting.popleft()
                if error is not None:
                    self._error = error
                    self._waiting.clear()
                self._changed.notify_all()
