"""One rank: its process, the two pipes that come from it, and the socket on which it reports and hears orders."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial

from disttrain_contract import env
from disttrain_contract.messages import Order, RankBody, RankEvent, encode_order
from disttrain_runtime.agent.board import Board
from disttrain_runtime.agent.execute import Ends, Launch
from disttrain_runtime.agent.launch import RankSpec
from disttrain_runtime.agent.lines import LineBuffer, Tail
from disttrain_runtime.agent.pipe import RankPipe
from disttrain_runtime.pulse import Beat

_CHUNK = 64 * 1024
_LAST_WORDS = 1024 * 1024
"""How much is read from each pipe after the rank's end. What the rank wrote is there already (a pipe holds 64 KiB); a
stray child that still writes must not hold us up."""
STDERR_TAIL = 32 * 1024


@dataclass(frozen=True, slots=True)
class Listener:
    """Who hears of a rank's output. Called on the event loop; must not block."""

    on_lines: Callable[[RankSpec, list[bytes]], None]
    on_message: Callable[[RankSpec, RankEvent, RankBody], None]


class RankProcess:
    """A started rank. Raises OSError or ValueError when its program cannot be executed."""

    def __init__(self, spec: RankSpec, listener: Listener, loop: asyncio.AbstractEventLoop, launch: Launch) -> None:
        self.spec = spec
        self.signalled = False
        """We have told it to end."""
        self._listener = listener
        self._loop = loop
        self._stderr = Tail(STDERR_TAIL)
        self._pipe = RankPipe()
        self.board = Board()
        """Where the rank leaves its signs of life."""
        self._beat_at_order: Beat | None = None
        self._outputs: dict[int, LineBuffer] = {}
        self._paused = True
        self.pid = self._spawn(launch)
        """Also the number of its process group and session."""
        self.resume()

    @property
    def stderr(self) -> str:
        """The end of what it printed there."""
        return self._stderr.text()

    @property
    def junk(self) -> int:
        """Lines on the report pipe that were not ours."""
        return self._pipe.junk

    def terminate(self) -> None:
        """SIGTERM to the rank alone, as the kubelet does to PID 1: a data-loading child that dies of the signal would
        break the very checkpoint that the signal asks for."""
        self.signalled = True
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to all it started, as far as it stayed in the rank's process group."""
        self.signalled = True
        self.kill_group()

    def kill_group(self) -> None:
        """Safe until the rank is reaped: so long the kernel gives its number to nobody else."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    @property
    def ignores_order(self) -> bool:
        """It has not moved since it was given one: its group is over, and it does not know."""
        return self._beat_at_order is not None and self._beat_at_order == self.board.beat()

    def order(self, order: Order) -> None:
        """Tell it where it belongs now. A rank that does not read is found out otherwise; an order never blocks us."""
        self._beat_at_order = self.board.beat()
        with suppress(OSError):
            self._socket.send(encode_order(order))

    def pause(self) -> None:
        """Read no more output: the rank blocks when its pipe is full, as it would on a terminal. Reports still flow."""
        for fd in self._outputs:
            self._loop.remove_reader(fd)
        self._paused = True

    def resume(self) -> None:
        """Read on."""
        if self._paused:
            self._paused = False
            for fd, lines in self._outputs.items():
                self._loop.add_reader(fd, partial(self._read_output, fd, lines))

    def close(self) -> None:
        """The process is gone and reaped: read its last words, let go of its pipes."""
        for fd, lines in list(self._outputs.items()):
            self._drain(fd, partial(self._read_output, fd, lines))
            if rest := lines.flush():
                self._listener.on_lines(self.spec, rest)
        self._drain(self._socket.fileno(), self._read_report)
        for fd in self._outputs:
            self._loop.remove_reader(fd)
            os.close(fd)
        self._outputs = {}
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self.board.close()

    def _spawn(self, launch: Launch) -> int:
        with ExitStack() as ours, ExitStack() as theirs:  # what was opened is closed again where the next is refused
            ours.callback(self.board.close)
            out, err = _pipe(ours, theirs), _pipe(ours, theirs)
            self._socket, their_socket = socket.socketpair()
            ours.callback(self._socket.close)
            theirs.callback(their_socket.close)
            spec = replace(self.spec, environment={**self.spec.environment, env.PULSE: self.board.path})
            pid = launch(spec, Ends(out[1], err[1], their_socket.fileno()))
            ours.pop_all()
        self._socket.setblocking(False)
        for fd in (out[0], err[0]):
            os.set_blocking(fd, False)
        self._err = err[0]
        self._outputs = {out[0]: LineBuffer(), err[0]: LineBuffer()}
        self._loop.add_reader(self._socket, self._read_report)
        return pid

    def _read_output(self, fd: int, lines: LineBuffer) -> int:
        data = self._take(fd)
        if fd == self._err:
            self._stderr.feed(data)
        if found := lines.feed(data):
            self._listener.on_lines(self.spec, found)
        return len(data)

    def _read_report(self) -> int:
        data = self._take(self._socket.fileno())
        for event, body in self._pipe.feed(data):
            self._listener.on_message(self.spec, event, body)
        return len(data)

    def _take(self, fd: int) -> bytes:
        """What is there; at the end of the pipe its reader is removed."""
        try:
            data = os.read(fd, _CHUNK)
        except (BlockingIOError, ConnectionResetError):  # reset: it died with an order unread
            return b""
        if not data:
            self._loop.remove_reader(fd)
        return data

    def _drain(self, fd: int, read: Callable[[], int]) -> None:
        taken = 0
        while taken < _LAST_WORDS and (count := read()):
            taken += count


def _pipe(ours: ExitStack, theirs: ExitStack) -> tuple[int, int]:
    reading, writing = os.pipe()
    ours.callback(os.close, reading)
    theirs.callback(os.close, writing)
    return reading, writing
