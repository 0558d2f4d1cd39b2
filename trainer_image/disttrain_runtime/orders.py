"""What the agent tells its rank while that is training: to which incarnation it belongs now, and its place in it.

A thread listens, because the rank's own thread may be waiting inside a collective for a peer that will never answer.
It does one thing: it notes the newest order and, when the rank has not come out by itself a moment later, cuts the connections
of the group that is over, so that the wait ends; again and again, for a connection may just be in the making when it is cut for the first
time. Not at once: who is cut in the middle of an exchange may wait for ever (docs/decisions/0018), and most come out by themselves, at the
end of a step or of a dead peer's connection.
"""

from __future__ import annotations

import os
import select
import stat
import threading
from collections.abc import Callable

from disttrain_contract.messages import Order, decode_order

_AGAIN_SECONDS = 0.25
"""From a newer order to the first call of `on_newer`, and between two calls."""
_LOOK_SECONDS = 0.05
"""How often a waiting rank looks whether it was told to stop: the signal's handler only sets a flag."""


class Orders:
    """The rank's end. Orders are levels: only the newest counts."""

    def __init__(self, fd: int, on_newer: Callable[[], None]) -> None:
        """`on_newer` is called on the listening thread, from time to time after a newer order. Not before `listen`:
        an order may lie there already, and whoever is called must be ready for it."""
        self._on_newer = on_newer
        self._changed = threading.Condition()
        self._newest: Order | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._listen, args=(fd,), name="orders", daemon=True)

    def listen(self) -> None:
        """From now on."""
        self._thread.start()

    def newer_than(self, incarnation: int) -> bool:
        """Whether the group of this incarnation is over."""
        return self._newest is not None and self._newest.incarnation > incarnation

    def wait(self, incarnation: int, stopped: Callable[[], bool]) -> Order | None:
        """The order that gives a place in a newer incarnation. None: told to stop, or the agent is gone."""
        with self._changed:
            while not stopped():
                if self.newer_than(incarnation) and self._newest is not None and self._newest.environment is not None:
                    return self._newest
                if self._closed:
                    return None
                self._changed.wait(_LOOK_SECONDS)
        return None

    def _listen(self, fd: int) -> None:
        rest = b""
        while data := self._next(fd):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._hear(line)
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next(self, fd: int) -> bytes:
        """What is said next; empty at the end. Until the first order there is nothing to repeat."""
        while self._newest is not None and not select.select([fd], [], [], _AGAIN_SECONDS)[0]:
            self._on_newer()
        return _read(fd)

    def _hear(self, line: bytes) -> None:
        try:
            order = decode_order(line)
        except ValueError:  # of a newer agent: the next one may be for us
            return
        with self._changed:
            newest = self._newest
            if newest is not None and (order.incarnation, order.environment is not None) <= (
                newest.incarnation, newest.environment is not None
            ):  # fmt: skip
                return
            self._newest = order
            self._changed.notify_all()


def can_hear(fd: int | None) -> bool:
    """An agent gives its ranks a socket. A pipe is somebody else's, who only listens."""
    return fd is not None and stat.S_ISSOCK(os.fstat(fd).st_mode)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 64 * 1024)
    except OSError:
        return b""
