"""One stream of one pod: what it may send, and the newest thing that must go to it."""

from __future__ import annotations

import asyncio

from aiohttp import web

from disttrain_contract.messages import Assignment, encode

MAX_FRAMES = 100
"""A second, pings included; an honest agent sends two. More ends the stream."""
MAX_REPORTS = 20
"""A second that are read at once; of what comes faster only the newest is read, a moment later."""


class Connection:
    """Thousands exist: no task of its own except while something is being sent."""

    __slots__ = (
        "_frames",
        "_next",
        "_reports",
        "_second",
        "_sending",
        "_socket",
        "_transport",
        "deferred",
        "heard",
        "told",
    )

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport | None, now: float) -> None:
        self.heard = now
        """When the last frame came."""
        self.deferred: str | None = None
        """A report that came too fast after others."""
        self.told: Assignment | None = None
        """The last assignment that was pushed here."""
        self._socket = socket
        self._transport = transport
        self._second = now
        self._frames = self._reports = 0
        self._next: str | None = None
        self._sending: asyncio.Task[None] | None = None

    def frame(self, now: float) -> bool:
        """Count a frame; False if there are too many."""
        self.heard = now
        if now - self._second >= 1.0:
            self._second, self._frames, self._reports = now, 0, 0
        self._frames += 1
        return self._frames <= MAX_FRAMES

    def report(self) -> bool:
        """Count a report; False if it should wait."""
        self._reports += 1
        return self._reports <= MAX_REPORTS

    def push(self, assignment: Assignment) -> None:
        """Send it, unless it is what was sent last. A slow reader holds up only itself, and gets the newest."""
        if assignment == self.told:
            return
        self.told = assignment
        self._next = encode(assignment)
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send())

    def abort(self) -> None:
        """End it now, without a word."""
        if self._transport is not None:
            self._transport.abort()
        if self._sending is not None:
            self._sending.cancel()

    async def _send(self) -> None:
        try:
            while self._next is not None:
                text, self._next = self._next, None
                await self._socket.send_str(text)
        except (ConnectionError, RuntimeError):
            pass  # the reading side notices, too
        finally:
            self._sending = None
