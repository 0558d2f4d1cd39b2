"""A rank's end of a process that works for it: start it, ask it, hear from it, notice its death."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import disttrain_contract

_ROOT = Path(disttrain_contract.__file__).parents[1]
_ANSWER_BYTES = 64 * 1024
_GONE_SECONDS = 1.0
"""A killed process is gone in milliseconds, unless it hangs in a dead disk; then nobody waits for it."""


class HelperDiedError(Exception):
    """What was asked is lost with the process; the message says what is known."""


class HelperProcess:
    """At most one process, started when it is needed. Start and use it from one thread that lives as long as the rank:
    the kernel ends the process with the thread that started it."""

    task: ClassVar[str]
    """What it does, as one says after "the process that"."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """For tests and people."""
        return self._process.pid if self._process is not None else None

    def command(self) -> list[str]:
        """Arguments of Python: flags and a program, which gets our root, the line's descriptor and the rank's pid."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it unless it runs. Returns at once. Raises OSError when the machine has no room for a process."""
        if self._process is not None:
            return
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, *self.command(), str(_ROOT), str(theirs.fileno()), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
            except OSError:
                ours.close()
                raise
        self._line = ours

    def tell(self, send: Callable[[socket.socket], None]) -> None:
        """Ask by `send`. Raises HelperDiedError or OSError when it cannot be asked."""
        self.start()
        assert self._line is not None
        try:
            send(self._line)
        except OSError as error:
            raise self._died() from error

    def answered(self, timeout: float = 0.0) -> bool:
        """There is something to hear, at least within so many seconds: an answer, or its death."""
        if self._line is None:
            return True
        look = select.poll()
        look.register(self._line, select.POLLIN)
        return bool(look.poll(timeout * 1000))

    def line(self) -> bytes:
        """Wait for an answer. Raises HelperDiedError."""
        heard = b""
        while not heard.endswith(b"\n"):
            try:
                more = self._line.recv(_ANSWER_BYTES) if self._line is not None else b""
            except ConnectionError:
                more = b""
            if not more:
                raise self._died()
            heard += more
        return heard

    def close(self) -> None:
        """End it, in the middle of a save if need be: a commit is whole or not at all."""
        if self._line is not None:
            self._line.close()
        if self._process is not None:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_GONE_SECONDS)
        self._process = self._line = None

    def _died(self) -> HelperDiedError:
        code: int | None = None
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                code = self._process.wait(_GONE_SECONDS)
        self.close()
        return HelperDiedError(f"the process that {self.task} died ({_how(code)})")


def _how(code: int | None) -> str:
    if code is None:
        return "it cannot be reached"
    if code == -signal.SIGKILL:
        return "SIGKILL; if the pod was short of memory, raise its memory limit"
    return signal.Signals(-code).name if code < 0 else f"exit code {code}; its last words are in the log"
