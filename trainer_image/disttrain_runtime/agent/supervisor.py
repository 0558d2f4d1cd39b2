"""All processes of the pod: start ranks, signal them, reap everything that ends, leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from disttrain_runtime.agent import kernel
from disttrain_runtime.agent.execute import execute
from disttrain_runtime.agent.launch import RankSpec
from disttrain_runtime.agent.rank_process import Listener, RankProcess
from disttrain_runtime.agent.warm import Warm


class Supervisor:
    """Runs on the event loop of the main thread.

    With `init=True` it does what PID 1 must: adopt and reap orphans, and end those that outlive their rank. Without,
    it touches only the ranks that it started itself, and there can be no warm parent, whose ranks are orphans.
    """

    def __init__(
        self,
        listener: Listener,
        on_exit: Callable[[RankProcess, int], None],
        *,
        init: bool,
        warm: Warm | None = None,
    ) -> None:
        if warm is not None and not init:
            raise ValueError("ranks of a warm parent can only be adopted by an init")
        self._listener = listener
        self._on_exit = on_exit
        self._init = init
        self._warm = warm
        self._loop = asyncio.get_running_loop()
        self._ranks: dict[int, RankProcess] = {}
        if init:
            kernel.adopt_orphans()
        self._loop.add_signal_handler(signal.SIGCHLD, self.reap)
        if warm is not None:
            warm.start()

    def start(self, spec: RankSpec) -> None:
        """Raises OSError or ValueError when the program cannot be executed."""
        rank = RankProcess(spec, self._listener, self._loop, self._warm.launch if self._warm else execute)
        self._ranks[rank.pid] = rank

    def terminate(self, spare: int | None = None) -> None:
        """SIGTERM to every rank, except a local rank that is ending by itself."""
        for rank in self._ranks.values():
            if rank.spec.local_rank != spare:
                rank.terminate()

    def kill(self) -> None:
        """SIGKILL to every rank and its group."""
        for rank in self._ranks.values():
            rank.kill()

    def pause(self) -> None:
        """Leave the ranks' output in their pipes."""
        for rank in self._ranks.values():
            rank.pause()

    def resume(self) -> None:
        """Read it again."""
        for rank in self._ranks.values():
            rank.resume()

    def reap(self) -> None:
        """Collect everything that has ended. Called at SIGCHLD; harmless at any time."""
        while (pid := self._ended()) is not None:
            rank = self._ranks.pop(pid, None)
            if rank is None:
                self._reap_other(pid)
                continue
            rank.kill_group()  # before reaping: its number is still its own
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            rank.close()
            self._look_after_warm()
            self._on_exit(rank, status)

    def end_strays(self) -> None:
        """SIGKILL to what ranks left behind outside their groups: it may hold GPU memory or ports. Only when no rank
        is alive."""
        if not self._init or self._ranks:
            return
        for pid in self._children():
            if self._warm is not None and pid == self._warm.pid:
                continue
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """No more signals to us."""
        self._loop.remove_signal_handler(signal.SIGCHLD)

    def _reap_other(self, pid: int) -> None:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if self._warm is not None and pid == self._warm.pid:
            self._warm.ended(status)

    def _look_after_warm(self) -> None:
        """Before a rank is diagnosed: if the kernel took the warm parent, too, that must be known."""
        pid = self._warm.pid if self._warm is not None else None
        if pid is not None and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            self._reap_other(pid)

    def _ended(self) -> int | None:
        """A process that has ended and is not reaped yet."""
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            if self._init:
                found = os.waitid(os.P_ALL, 0, options)
                return found.si_pid if found else None
            return next((pid for pid in self._ranks if os.waitid(os.P_PID, pid, options)), None)
        except ChildProcessError:
            return None

    def _children(self) -> list[int]:
        try:
            tasks = Path("/proc/self/task").iterdir()
            return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
        except OSError:  # a kernel without CONFIG_PROC_CHILDREN: the pid namespace ends them with us
            return []
