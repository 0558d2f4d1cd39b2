"""The agent's end of the stream: dials for ever, sends its present report, obeys assignments.

Training never waits for it. Which library, and why: docs/decisions/0002-agent-stream-library.md.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from disttrain_contract.messages import (
    HEARTBEAT_SECONDS,
    LEASE_SECONDS,
    MAX_MESSAGE_BYTES,
    PROGRESS_SECONDS,
    Assignment,
    Report,
    bounded,
    decode_assignment,
    encode_within,
)
from disttrain_contract.names import STREAM_PATH

_FIRST_DELAY, _LONGEST_DELAY = 0.1, 5.0
"""Below the lease, so that an operator that was restarted hears from everybody before it could miss them."""
_NOT_LEADER_DELAY, _NOT_LEADER_LONGEST = 0.05, 1.0
"""The next dial may well reach the leader; but during an election there is none, and everybody dials."""
_UNAVAILABLE = 503


@dataclass(frozen=True, slots=True)
class Dial:
    """Whom to call and how to prove who we are."""

    url: str
    ca: str
    token_file: PurePosixPath


def retry_delay(failures: int, not_leader: bool, fraction: float) -> float:
    """Exponential with full jitter: thousands of agents that lost the same operator must not come back together."""
    first, longest = (_NOT_LEADER_DELAY, _NOT_LEADER_LONGEST) if not_leader else (_FIRST_DELAY, _LONGEST_DELAY)
    return fraction * min(longest, first * 2.0 ** min(failures, 10))


class Stream:
    """`report` says the present state whenever it is asked; `changed` says that asking is worth while."""

    def __init__(
        self,
        dial: Dial,
        report: Callable[[], Report],
        on_assignment: Callable[[Assignment], None],
        log: Callable[[str], None],
    ) -> None:
        self._dial = dial
        self._report = report
        self._on_assignment = on_assignment
        self._log = log
        self._tls = _tls(dial)
        self._changed = asyncio.Event()
        self._urgent = asyncio.Event()
        self._flush: asyncio.Event | None = None
        """Set when the report that was present at the last call of `flush` has been read."""
        self._said = ""

    def changed(self, urgent: bool) -> None:
        """There is something new to report; what is not urgent may wait for up to a second."""
        self._changed.set()
        if urgent:
            self._urgent.set()

    async def flush(self, timeout: float) -> bool:
        """Send the present report and wait until the operator has read it; False if that took too long."""
        self._flush = flushed = asyncio.Event()
        self.changed(urgent=True)
        try:
            async with asyncio.timeout(timeout):
                await flushed.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Until cancelled."""
        clock = asyncio.get_running_loop().time
        failures = 0
        while True:
            began, not_leader = clock(), False
            try:
                await self._session()
            except InvalidStatus as error:
                not_leader = error.response.status_code == _UNAVAILABLE
                self._complain("not the leader" if not_leader else f"HTTP {error.response.status_code}")
            except Exception as error:  # whatever it is, training goes on and we dial again
                self._complain(f"{type(error).__name__}: {error}")
            failures = 0 if clock() - began > LEASE_SECONDS else failures + 1
            await asyncio.sleep(retry_delay(failures, not_leader, random.uniform(0.2, 1)))

    async def _session(self) -> None:
        """One connection, from dial to end. The token is read anew: the kubelet renews it."""
        token = Path(self._dial.token_file).read_text().strip()
        async with connect(
            self._dial.url.rstrip("/") + STREAM_PATH,
            ssl=self._tls,
            additional_headers={"Authorization": f"Bearer {token}"},
            user_agent_header="disttrain-agent",
            proxy=None,
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            open_timeout=LEASE_SECONDS,
            close_timeout=1,
            ping_interval=HEARTBEAT_SECONDS,
            ping_timeout=LEASE_SECONDS - HEARTBEAT_SECONDS,
        ) as socket:
            self._complain("")
            both = [asyncio.create_task(self._send(socket)), asyncio.create_task(self._receive(socket))]
            try:
                done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                done.pop().result()
            finally:
                for task in both:
                    task.cancel()
                await asyncio.gather(*both, return_exceptions=True)

    async def _send(self, socket: ClientConnection) -> None:
        """The present report at once, then whenever it has changed."""
        clock = asyncio.get_running_loop().time
        sent: Report | None = None
        while True:
            flush, report = self._flush, bounded(self._report())
            if sent is None or flush is not None or _ageless(report) != _ageless(sent):
                await socket.send(encode_within(report, MAX_MESSAGE_BYTES))
                sent, sent_at = report, clock()
            if flush is not None:
                await (await socket.ping())  # answered in order: the report was read before
                flush.set()
            await self._changed.wait()
            if not self._urgent.is_set():
                await _wait(self._urgent, sent_at + PROGRESS_SECONDS - clock())
            self._changed.clear()
            self._urgent.clear()

    async def _receive(self, socket: ClientConnection) -> None:
        async for text in socket:
            try:
                assignment = decode_assignment(text)
            except ValueError as error:
                self._complain(f"the operator sent what is not an assignment: {error}")
            else:
                self._on_assignment(assignment)

    def _complain(self, trouble: str) -> None:
        """Once for each new trouble: an operator may be away for hours."""
        if trouble != self._said:
            self._log(
                f"no stream to the operator, training goes on: {trouble}" if trouble else "stream to the operator"
            )
        self._said = trouble


def _ageless(report: Report) -> Report:
    """Without the age of the failure, which changes by itself."""
    return report if report.failure is None else replace(report, failure=replace(report.failure, seconds_ago=0.0))


def _tls(dial: Dial) -> ssl.SSLContext | None:
    """Only the operator's own authority is trusted."""
    if not dial.url.startswith("wss:"):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=dial.ca)
    return context


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        pass
