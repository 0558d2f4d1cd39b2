"""The rank's end of its writer process: start it, ask it, hear from it, notice its death. See `writer_main`."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import disttrain_contract
from disttrain_contract.messages import RankBody, decode_rank_message
from disttrain_runtime.checkpoint.save_request import SaveRequest

PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from disttrain_runtime.checkpoint.writer_main import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)
"""Run isolated (-I) and without site packages (-S): nothing of the user's is imported, and half the start is saved."""
_ROOT = Path(disttrain_contract.__file__).parents[1]
_ANSWER_BYTES = 64 * 1024
_GONE_SECONDS = 1.0
"""A killed process is gone in milliseconds, unless it hangs in a dead disk; then nobody waits for it."""


class WriterDiedError(Exception):
    """The save was lost with the process; the message says what is known."""


class WriterProcess:
    """At most one process, started when it is needed. Start and use it from one thread that lives as long as the rank:
    the kernel ends the process with the thread that started it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """For tests and people."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start it unless it runs. Returns at once. Raises OSError when the machine has no room for a process."""
        if self._process is not None:
            return
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", PROGRAM, str(_ROOT), str(theirs.fileno()), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
            except OSError:
                ours.close()
                raise
        self._line = ours

    def ask(self, request: SaveRequest) -> None:
        """Raises WriterDiedError or OSError when it cannot be asked."""
        self.start()
        assert self._line is not None
        try:
            request.send(self._line)
        except OSError as error:
            raise self._died() from error

    def answered(self) -> bool:
        """There is something to hear: an answer, or its death."""
        if self._line is None:
            return True
        look = select.poll()
        look.register(self._line, select.POLLIN)
        return bool(look.poll(0))

    def answer(self) -> RankBody:
        """Wait for it. Raises WriterDiedError."""
        heard = b""
        while not heard.endswith(b"\n"):
            try:
                more = self._line.recv(_ANSWER_BYTES) if self._line is not None else b""
            except ConnectionError:
                more = b""
            if not more:
                raise self._died()
            heard += more
        return decode_rank_message(heard)[1]

    def close(self) -> None:
        """End it, in the middle of a save if need be: a commit is whole or not at all."""
        if self._line is not None:
            self._line.close()
        if self._process is not None:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_GONE_SECONDS)
        self._process = self._line = None

    def _died(self) -> WriterDiedError:
        code: int | None = None
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                code = self._process.wait(_GONE_SECONDS)
        self.close()
        return WriterDiedError(f"the process that writes checkpoints died ({_how(code)})")


def _how(code: int | None) -> str:
    if code is None:
        return "it cannot be reached"
    if code == -signal.SIGKILL:
        return "SIGKILL; if the pod was short of memory, raise its memory limit"
    return signal.Signals(-code).name if code < 0 else f"exit code {code}; its last words are in the log"
