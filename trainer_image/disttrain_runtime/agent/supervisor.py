"""All processes of the pod: start ranks, signal them, reap everything that ends, leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from disttrain_contract.messages import Order
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
        self._spares: dict[int, RankProcess] = {}
        if init:
            kernel.adopt_orphans()
        self._loop.add_signal_handler(signal.SIGCHLD, self.reap)
        if warm is not None:
            warm.start()

    def start(self, spec: RankSpec) -> None:
        """Raises OSError or ValueError when the program cannot be executed."""
        rank = RankProcess(spec, self._listener, self._loop, self._warm.launch if self._warm else execute)
        self._ranks[rank.pid] = rank

    def keep_spare(self, spec: RankSpec) -> None:
        """Start a rank ahead of need. Does nothing when it cannot be forked: it would only do what a start does then."""
        if self._warm is None or not self._warm.ready:
            return
        with suppress(OSError, ValueError):
            spare = RankProcess(spec, self._listener, self._loop, self._warm.launch)
            kernel.prefer_for_oom(spare.pid)
            self._spares[spare.pid] = spare

    @property
    def ranks(self) -> tuple[RankProcess, ...]:
        """Those that have a place and were not told to end."""
        return tuple(rank for rank in self._ranks.values() if not rank.signalled)

    @property
    def spares(self) -> int:
        """Ranks that wait for a place."""
        return len(self._spares)

    def bytes_with_a_spare(self) -> int:
        """Resident memory of all ranks, and the largest one's once more. What they share is counted for each: a bound."""
        resident = [kernel.resident_bytes(pid) for pid in self._ranks]
        return sum(resident) + max(resident, default=0)

    def adopt(self, spec: RankSpec, order: Order) -> bool:
        """Give a spare a place, if there is one."""
        if not self._spares:
            return False
        pid, spare = self._spares.popitem()
        self._ranks[pid] = spare
        kernel.prefer_for_oom(pid, prefer=False)
        spare.spec = spec
        spare.order(order)
        return True

    def hold(self, order: Order) -> None:
        """Tell every rank that its group is over."""
        for rank in self._ranks.values():
            rank.order(order)

    def move(self, spec: RankSpec, order: Order) -> None:
        """Tell a live rank its place in another group."""
        for rank in self._ranks.values():
            if rank.spec.local_rank == spec.local_rank:
                rank.spec = spec
                rank.order(order)

    def dismiss(self) -> None:
        """No spare will be needed any more."""
        for spare in self._spares.values():
            spare.kill()

    def terminate(self, spare: int | None = None) -> None:
        """SIGTERM to every rank, except a local rank that is ending by itself."""
        for rank in self._ranks.values():
            if rank.spec.local_rank != spare:
                rank.terminate()

    def kill(self, only: frozenset[int] | None = None) -> None:
        """SIGKILL to these local ranks, or to every rank, and to their groups."""
        for rank in self._ranks.values():
            if only is None or rank.spec.local_rank in only:
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
            if spare := self._spares.pop(pid, None):
                if self._bury(spare) == -signal.SIGKILL and not spare.signalled and self._warm is not None:
                    self._warm.on_killed()
                continue
            rank = self._ranks.pop(pid, None)
            if rank is None:
                self._reap_other(pid)
                continue
            status = self._bury(rank)
            self._look_after_warm()
            self._on_exit(rank, status)

    def end_strays(self) -> None:
        """SIGKILL to what ranks left behind outside their groups: it may hold GPU memory or ports. Only when no rank
        is alive."""
        if not self._init or self._ranks:
            return
        for pid in self._children():
            if pid in self._spares or (self._warm is not None and pid == self._warm.pid):
                continue
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """No more signals to us."""
        self._loop.remove_signal_handler(signal.SIGCHLD)

    def _bury(self, rank: RankProcess) -> int:
        """Its status, and nothing left of it."""
        rank.kill_group()  # before reaping: its number is still its own
        status = os.waitstatus_to_exitcode(os.waitpid(rank.pid, 0)[1])
        rank.close()
        return status

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
