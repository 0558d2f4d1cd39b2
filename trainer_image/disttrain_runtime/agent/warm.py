"""Ranks of a task, forked from a parent that has torch imported: the agent's end.

The parent is started with the agent, so that the import overlaps with waiting for the group, and every later start of
a rank costs milliseconds. It is a convenience, never a condition: whatever goes wrong with it, the rank is executed as
a program of its own, and a new parent is made behind it. A `command` is always executed: what it imports, and when, is
its own business.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from disttrain_runtime import blas_threads
from disttrain_runtime.agent import kernel
from disttrain_runtime.agent.execute import Ends, disowned, execute
from disttrain_runtime.agent.fork_request import PRELOAD, ask
from disttrain_runtime.agent.launch import RankSpec, settled
from disttrain_runtime.agent.lines import LineBuffer

PARENT_MODULE = "disttrain_runtime.warm_parent"
READY_SECONDS = 60.0
"""How long ranks wait for the import. An executed rank would have to import the same: as long as the parent makes
progress, waiting is never slower. A minute is what a cold image on a slow disk takes; beyond that it hangs."""
ANSWER_SECONDS = 2.0
"""For one fork, which takes milliseconds: what an import costs at best, so waiting longer could gain nothing, and well
below the six seconds of silence after which the operator gives this agent up (it does nothing else meanwhile)."""
REPLACEMENTS = 3
"""New parents in a pod's life. Each costs an import beside the training; if they keep dying, something wants them to."""


@dataclass
class _Parent:
    """One process, as far as it goes."""

    pid: int
    line: socket.socket
    output: int
    since: float
    ready: bool = False
    unwanted: bool = False
    """We have killed it."""
    lines: LineBuffer = field(default_factory=LineBuffer)


class Warm:
    """Runs on the event loop. `launch` is a `Launch`; `say` hears what happens; `on_killed` that somebody killed it."""

    def __init__(
        self,
        modules: Sequence[str],
        environment: Mapping[str, str],
        say: Callable[[str], None],
        on_killed: Callable[[], None],
    ) -> None:
        self._modules = modules
        self._environment = environment
        self._settled = settled(environment)
        self._say = say
        self.on_killed = on_killed
        self._loop = asyncio.get_running_loop()
        self._left = REPLACEMENTS
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self.decided: asyncio.Future[None] = self._loop.create_future()
        """Done when there is nothing to wait for: the parent is ready, or gone."""
        self._parent: _Parent | None = None

    def start(self) -> None:
        """Make the parent. Called by the supervisor, once it would notice its end."""
        self._parent = self._make()

    @property
    def pid(self) -> int | None:
        """The parent's, until it is reaped."""
        return self._parent.pid if self._parent else None

    @property
    def ready(self) -> bool:
        """A rank can be forked now."""
        return self._parent is not None and self._parent.ready and not self._parent.unwanted

    def launch(self, spec: RankSpec, ends: Ends) -> int:
        """Fork the rank if that can be done now, else execute it."""
        pid = self._fork(spec, ends)
        return execute(spec, ends) if pid is None else pid

    def ended(self, status: int) -> None:
        """The parent is reaped. Make a new one, unless this one could not even import."""
        parent, self._parent = self._parent, None
        if parent is None:
            return
        self._hear(parent)
        for fd in (parent.line.fileno(), parent.output):
            self._loop.remove_reader(fd)
        parent.line.close()
        os.close(parent.output)
        self._decide()
        if self._closed:
            return
        if status == -signal.SIGKILL and not parent.unwanted:
            self.on_killed()
        again = parent.ready and self._left > 0
        self._say(f"the warm parent ended ({status}); {'making a new one' if again else 'ranks will be executed'}")
        if again:
            self._left -= 1
            self.decided = self._loop.create_future()
            self._parent = self._make()

    def close(self) -> None:
        """No more ranks will be started."""
        self._closed = True
        self._kill()

    def _fork(self, spec: RankSpec, ends: Ends) -> int | None:
        parent = self._parent
        if parent is None or not self.ready:
            return None
        if settled(spec.environment) != self._settled:
            self._say(f"rank {spec.rank} is executed: its environment is not the one that the warm parent started with")
            return None
        try:
            return ask(parent.line, spec, ends, ANSWER_SECONDS)
        except (OSError, ValueError) as error:
            self._say(f"the warm parent did not fork rank {spec.rank}: {error}; it is executed instead")
            self._kill()
            return None

    def _make(self) -> _Parent | None:
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()
        try:
            pid = self._execute(theirs.fileno(), writing)
        except OSError as error:
            self._say(f"no warm parent: {error}")
            ours.close()
            os.close(reading)
            self._decide()
            return None
        finally:
            theirs.close()
            os.close(writing)
        os.set_blocking(reading, False)
        parent = _Parent(pid, ours, reading, self._loop.time())
        self._loop.add_reader(ours.fileno(), self._spoken, parent)
        self._loop.add_reader(reading, self._hear, parent)
        self._timer = self._loop.call_later(READY_SECONDS, self._too_late)
        return parent

    def _execute(self, line: int, output: int) -> int:
        return disowned(
            subprocess.Popen(
                [sys.executable, "-m", PARENT_MODULE, str(line)],
                env={**self._environment, **blas_threads.ALONE, PRELOAD: ",".join(self._modules)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(line,),
                start_new_session=True,
                preexec_fn=partial(kernel.die_with_parent, os.getpid()),
            )
        )

    def _spoken(self, parent: _Parent) -> None:
        """It says one thing only: that it is ready. Its end is seen by the supervisor, which reaps it."""
        self._loop.remove_reader(parent.line.fileno())
        with suppress(OSError):
            parent.ready = bool(parent.line.recv(64))
        if parent.ready:
            self._say(
                f"{self._modules[0]} is imported, in {self._loop.time() - parent.since:.1f} s: ranks are forked from it"
            )
            self._decide()

    def _hear(self, parent: _Parent) -> None:
        """What it prints is about its imports, or about what it cannot do."""
        try:
            data = os.read(parent.output, 64 * 1024)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(parent.output)
        for line in parent.lines.feed(data) if data else parent.lines.flush():
            self._say(f"warm parent: {line.decode(errors='replace')}")

    def _too_late(self) -> None:
        self._say(f"the warm parent is not ready after {READY_SECONDS:.0f} s: ranks will be executed")
        self._kill()
        self._decide()

    def _decide(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.decided.done():
            self.decided.set_result(None)

    def _kill(self) -> None:
        if self._parent is not None:  # so it is not reaped, and its number is its own
            self._parent.unwanted = True
            with suppress(ProcessLookupError):
                os.kill(self._parent.pid, signal.SIGKILL)
