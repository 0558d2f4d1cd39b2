"""A keyed work queue: many events in, one pass per key at a time out.

A key that is added twice is handled once; one that is added while it is handled is handled once more. A pass says when its
key is due again. A pass that fails is tried again with back-off, and until then events of its key only make it dirty: an
API server in trouble is not asked at the speed of events.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

from disttrain_operator.shell.errors import ClusterError

log = logging.getLogger(__name__)

CONCURRENCY = 16
"""Passes under way at once. A pass mostly waits for the API server, whose own connections are limited, too."""
FIRST_BACKOFF, MAX_BACKOFF = 0.2, 30.0
"""Doubled with every failure in a row; half a minute is the longest that a cluster that is well again is kept waiting."""


def backoff(failures: int, chance: float) -> float:
    """Seconds before try number `failures` + 1; `chance` in [0, 1) spreads jobs that failed together over half the time."""
    full = min(MAX_BACKOFF, FIRST_BACKOFF * 2.0 ** min(failures - 1, 20))
    return full * (0.5 + chance / 2)


@dataclass(frozen=True, slots=True)
class Handled:
    """For metrics: how one pass went."""

    result: str
    waited: float
    took: float


K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """`handle` returns the seconds until the key is due again, or None. `context` surrounds a pass, for its log lines."""

    def __init__(
        self,
        handle: Callable[[K], Awaitable[float | None]],
        *,
        on_add: Callable[[], None] = lambda: None,
        on_handled: Callable[[Handled], None] = lambda handled: None,
        context: Callable[[K], AbstractContextManager[None]] = lambda key: nullcontext(),
        concurrency: int = CONCURRENCY,
        delay: Callable[[int], float] = lambda failures: backoff(failures, random.random()),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handle = handle
        self._on_add = on_add
        self._on_handled = on_handled
        self._context = context
        self._concurrency = concurrency
        self._delay = delay
        self._clock = clock
        self._queue: asyncio.Queue[K] = asyncio.Queue()
        self._waiting: dict[K, float] = {}
        self._running: dict[K, float] = {}
        self._dirty: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}

    @property
    def depth(self) -> int:
        """Keys that wait for a pass."""
        return len(self._waiting)

    @property
    def oldest_seconds(self) -> float:
        """How long the slowest key has been waiting or worked on: what grows without bound is stuck."""
        now = self._clock()
        return now - min((*self._waiting.values(), *self._running.values()), default=now)

    def add(self, key: K) -> None:
        """Something about the key has changed."""
        if key in self._running or key in self._failures:
            self._dirty.add(key)
        else:
            self._enqueue(key)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._concurrency):
                group.create_task(self._work(), name=f"queue worker {number}")

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            added = self._waiting.pop(key, None)
            if added is not None:
                with self._context(key):
                    await self._pass(key, added)

    async def _pass(self, key: K, added: float) -> None:
        started = self._running[key] = self._clock()
        self._cancel_timer(key)
        self._dirty.discard(key)
        result, again = "success", None
        try:
            again = await self._handle(key)
            self._failures.pop(key, None)
        except ClusterError as error:
            result, again = "error", self._failed(key, error.retry_after)
            log.warning("pass failed, again in %.1f s: %s", again, error)
        except (
            Exception
        ):  # the one broad except: nothing above us could act on it, and one job must not stop the others
            result, again = "defect", self._failed(key, None)
            log.exception("pass failed by a defect of the operator, again in %.1f s", again)
        finally:
            del self._running[key]
        self._on_handled(Handled(result, started - added, self._clock() - started))
        self._next(key, again)

    def _failed(self, key: K, retry_after: float | None) -> float:
        self._failures[key] = self._failures.get(key, 0) + 1
        return max(self._delay(self._failures[key]), retry_after or 0.0)

    def _next(self, key: K, again: float | None) -> None:
        if key in self._dirty and key not in self._failures:
            self._enqueue(key)
        elif again is not None:
            self._timers[key] = asyncio.get_running_loop().call_later(max(0.0, again), self._due, key)

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self._enqueue(key)

    def _enqueue(self, key: K) -> None:
        if key not in self._waiting:
            self._on_add()
            self._waiting[key] = self._clock()
            self._queue.put_nowait(key)

    def _cancel_timer(self, key: K) -> None:
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()
