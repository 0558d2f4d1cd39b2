"""All agents in one place: the newest report of each, and whether it is still there.

Nothing is remembered of what should be: the planner says it again at every pass, and only a difference is sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from aiohttp import WebSocketError, WSCloseCode, WSMessage, WSMsgType, hdrs, web

from disttrain_contract.messages import LEASE_SECONDS, MAX_MESSAGE_BYTES, Assignment, Progress, Report, decode_report
from disttrain_operator.channel.authentication import Authenticate, CachedAuthenticator, PodIdentity
from disttrain_operator.channel.connection import Connection

SWEEP_SECONDS = 0.25
"""How late a lapsed lease may be noticed; one pass over 4,000 agents takes about a millisecond."""
PROGRESS_SECONDS = 2.0
"""How often progress alone wakes the planner, per pod; everything else does so at once."""
PENALTY_SECONDS = 10.0
"""Before an agent that broke the protocol may dial again: garbage costs its sender more than us."""
FORGET_SECONDS = 600.0
"""After the last word of a pod that nobody asked us to forget: it may be no job's pod at all."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentView:
    """What is known of a pod's agent."""

    report: Report | None = None
    """The newest one."""
    report_age: float | None = None
    """Seconds since it came; add it to the failure's `seconds_ago`."""
    connected: bool = False
    """Its stream is open and its lease valid."""
    last_heard_age: float | None = None
    """Seconds since the last sign of life; None: never heard by this operator."""

    @property
    def lost(self) -> bool:
        """It was there, and its lease is over."""
        return self.last_heard_age is not None and self.last_heard_age > LEASE_SECONDS


@dataclass(slots=True)
class _Record:
    identity: PodIdentity
    heard: float
    connection: Connection | None = None
    report: Report | None = None
    arrived: float = 0.0
    notified: float = 0.0
    due: bool = False
    """The planner has not been told of the newest progress."""
    lapsed: bool = False
    """The planner has been told that the lease is over."""
    refused_until: float = 0.0


class AgentHub:
    """Lives on one event loop. `on_change` is called there, must be quick, and may be called once too often."""

    def __init__(
        self,
        *,
        authenticate: Authenticate,
        is_leader: Callable[[], bool],
        on_change: Callable[[PodIdentity], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._authenticate = CachedAuthenticator(authenticate, clock)
        self._is_leader = is_leader
        self._on_change = on_change
        self._clock = clock
        self._records: dict[str, _Record] = {}
        self._leading_since: float | None = None

    @property
    def connected(self) -> int:
        """Open streams."""
        return sum(record.connection is not None for record in self._records.values())

    @property
    def leading_seconds(self) -> float | None:
        """How long agents have been let in: before LEASE_SECONDS a silent one may just not have dialled again yet."""
        return None if self._leading_since is None else self._clock() - self._leading_since

    def report_of(self, pod_uid: str) -> AgentView:
        """What is known of this pod's agent now."""
        record = self._records.get(pod_uid)
        if record is None:
            return AgentView()
        now = self._clock()
        age = now - record.heard
        return AgentView(
            report=record.report,
            report_age=now - record.arrived if record.report is not None else None,
            connected=record.connection is not None and age <= LEASE_SECONDS,
            last_heard_age=age,
        )

    def assign(self, pod_uid: str, assignment: Assignment) -> bool:
        """Tell the agent, unless this is what it was told last; False if it is not connected."""
        record = self._records.get(pod_uid)
        if record is None or record.connection is None:
            return False
        record.connection.push(assignment)
        return True

    def forget(self, pod_uid: str) -> None:
        """The pod is gone."""
        record = self._records.pop(pod_uid, None)
        if record is not None and record.connection is not None:
            record.connection.abort()

    async def run(self) -> None:
        """Look after leases and leadership until cancelled."""
        while True:
            self.sweep()
            await asyncio.sleep(SWEEP_SECONDS)

    def sweep(self) -> None:
        """What is due by time alone."""
        now = self._clock()
        if not self._is_leader():
            self._leading_since = None
            self.drop_all()
            return
        if self._leading_since is None:
            self._leading_since = now
        for uid, record in list(self._records.items()):
            self._sweep_one(uid, record, now)

    def drop_all(self) -> None:
        """End every stream and forget: another replica leads, or we stop."""
        records, self._records = self._records, {}
        for record in records.values():
            if record.connection is not None:
                record.connection.abort()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The HTTP handler of the stream's path."""
        socket = web.WebSocketResponse(autoping=False, compress=False, max_msg_size=MAX_MESSAGE_BYTES, timeout=1.0)
        if not self._is_leader():
            return _refuse(503, "not the leader: dial again")
        if not socket.can_prepare(request):
            return _refuse(400, "not a WebSocket handshake")
        try:
            identity = await self._authenticate(_bearer(request))
        except Exception as error:  # whatever stops the review, the agent comes back
            log.warning("cannot review an agent's token: %s: %s", type(error).__name__, error)
            return _refuse(503, "cannot review the token now: dial again")
        if identity is None:
            return _refuse(401, "the token was not issued to a pod for this audience")
        record = self._records.get(identity.uid)
        if record is not None and self._clock() < record.refused_until:
            return _refuse(429, "wait: the last stream broke the protocol")
        await socket.prepare(request)
        if not self._is_leader():  # lost it while we asked
            await socket.close(code=WSCloseCode.TRY_AGAIN_LATER)
            return socket
        record, connection = self._opened(identity, socket, request.transport)
        try:
            await self._listen(record, connection, socket)
        finally:
            self._closed(record, connection)
        return socket

    def _opened(
        self, identity: PodIdentity, socket: web.WebSocketResponse, transport: asyncio.Transport | None
    ) -> tuple[_Record, Connection]:
        now = self._clock()
        record = self._records.setdefault(identity.uid, _Record(identity, now))
        if record.connection is not None:
            record.connection.abort()  # the newest wins: the other one is a half-open leftover
        record.connection = connection = Connection(socket, transport, now)
        record.heard, record.lapsed = now, False
        self._notify(record, now)
        return record, connection

    def _closed(self, record: _Record, connection: Connection) -> None:
        if record.connection is connection:
            record.connection = None
            self._notify(record, self._clock())

    async def _listen(self, record: _Record, connection: Connection, socket: web.WebSocketResponse) -> None:
        async for message in socket:
            if record.connection is not connection:
                return
            record.heard = self._clock()
            if message.type is WSMsgType.PING and connection.frame(record.heard):
                await socket.pong(message.data)
            elif (wrong := self._judge(record, connection, message)) is not None:
                code, reason = wrong
                self._penalise(record, reason)
                await socket.close(code=code, message=reason.encode("ascii", "replace")[:120])

    def _judge(self, record: _Record, connection: Connection, message: WSMessage) -> tuple[int, str] | None:
        """Take a message that is not a ping; why the stream must end, if it must."""
        if message.type is WSMsgType.ERROR:  # aiohttp has closed it: too big, not UTF-8, a bad frame; or it broke
            error = message.data
            return (error.code, str(error)) if isinstance(error, WebSocketError) else None
        if message.type is WSMsgType.PING or not connection.frame(record.heard):
            return WSCloseCode.POLICY_VIOLATION, "too many frames"
        if message.type is WSMsgType.PONG:
            return None
        if message.type is not WSMsgType.TEXT:
            return WSCloseCode.UNSUPPORTED_DATA, "not text"
        if not connection.report():
            connection.deferred = message.data
            return None
        problem = self._hear(record, connection, message.data, record.heard)
        return None if problem is None else (WSCloseCode.INVALID_TEXT, problem)

    def _hear(self, record: _Record, connection: Connection, text: str, now: float) -> str | None:
        """Take a report; the reason if it is not one."""
        connection.deferred = None
        try:
            report = decode_report(text)
        except ValueError as error:
            return f"not a report: {error}"
        old, record.report, record.arrived = record.report, report, now
        if old is None or _essence(old) != _essence(report):
            self._notify(record, now)
        elif old.progress != report.progress:
            record.due = True
        return None

    def _sweep_one(self, uid: str, record: _Record, now: float) -> None:
        connection = record.connection
        if connection is not None and now - record.heard > LEASE_SECONDS:
            connection.abort()
            record.connection = None
        elif connection is not None and connection.deferred is not None:
            problem = self._hear(record, connection, connection.deferred, now)
            if problem is not None:
                self._penalise(record, problem)
                connection.abort()
        if record.connection is None and now - record.heard > LEASE_SECONDS and not record.lapsed:
            record.lapsed = True
            self._notify(record, now)
        if record.due and now - record.notified >= PROGRESS_SECONDS:
            self._notify(record, now)
        if record.connection is None and now - record.heard > FORGET_SECONDS:
            del self._records[uid]

    def _penalise(self, record: _Record, reason: str) -> None:
        record.refused_until = self._clock() + PENALTY_SECONDS
        pod = record.identity
        log.warning("ended the stream of pod %s/%s: %s", pod.namespace, pod.name, reason[:200])

    def _notify(self, record: _Record, now: float) -> None:
        record.notified, record.due = now, False
        try:
            self._on_change(record.identity)
        except Exception:
            log.exception("on_change failed")


_SOME = Progress(step=0)


def _essence(report: Report) -> Report:
    """What the planner acts on: that there is progress, but not how much, and no age, which changes by itself."""
    failure = replace(report.failure, seconds_ago=0.0) if report.failure is not None else None
    return replace(report, progress=_SOME if report.progress is not None else None, failure=failure)


def _bearer(request: web.Request) -> str:
    return request.headers.get(hdrs.AUTHORIZATION, "").removeprefix("Bearer ").strip()


def _refuse(status: int, text: str) -> web.Response:
    response = web.Response(status=status, text=text)
    response.force_close()
    return response
