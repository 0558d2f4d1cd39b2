"""Look at the ranks a few times a second; when one hangs, keep everybody's stack, say who it is, end it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from disttrain_contract.messages import Failure
from disttrain_contract.stall import Stall, suspicion
from disttrain_runtime.agent import hang, hang_story, main_thread, stacks
from disttrain_runtime.agent.hang import LOOK_SECONDS, Rules, Seen, Watched
from disttrain_runtime.agent.rank_process import RankProcess


@dataclass(frozen=True, slots=True)
class Alarm:
    """Who hears of a hung rank. Called on the event loop."""

    on_stacks: Callable[[str], None]
    """The text for the file beside the logs."""
    on_hang: Callable[[RankProcess, Failure], None]
    """The cause. The rank is killed right after."""
    on_stall: Callable[[], None]
    """`Watch.stall` is another."""


class Watch:
    """Runs on the event loop. `ranks` gives those that should be making progress."""

    def __init__(self, rules: Rules, ranks: Callable[[], Iterable[RankProcess]], alarm: Alarm) -> None:
        self._rules, self._ranks, self._alarm = rules, ranks, alarm
        self._loop = asyncio.get_running_loop()
        self._watched: dict[int, Watched] = {}
        self._at = self._loop.time()
        self._ending: asyncio.Task[None] | None = None
        self.stall: Stall | None = None
        """All ranks stand still: of the one furthest behind, as it was when that was first seen."""
        self.waiting: bool | None = None
        """Whether all ranks wait for ranks of other pods; None when there is none to tell by."""
        self._timer = self._loop.call_later(LOOK_SECONDS, self._look)

    def close(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def begin(self) -> None:
        """Another incarnation: that ranks waited for others in the last one says nothing about it. Tells nobody."""
        self._watched, self.stall = {}, None
        self.waiting = None if self.waiting is None else False

    def _look(self) -> None:
        now = self._loop.time()
        elapsed, self._at = now - self._at, now
        self._timer = self._loop.call_later(LOOK_SECONDS, self._look)
        ranks = {rank.pid: rank for rank in self._ranks()}
        self._watched = {pid: self._watch(rank, elapsed) for pid, rank in ranks.items()}
        found = {pid: hang.stalled(self._rules, watched) for pid, watched in self._watched.items()}
        stalls = {pid: stall for pid, stall in found.items() if stall is not None}
        waiting = hang.all_wait(self._rules, self._watched.values())
        self._tell(min(stalls.values(), key=suspicion) if stalls and len(stalls) == len(found) else None, waiting)
        hung = {pid: stall for pid, stall in stalls.items() if hang.is_hung(self._rules, self._watched[pid], stall)}
        if hung and self._ending is None:
            pid = min(hung, key=lambda pid: suspicion(hung[pid]))
            self._ending = self._loop.create_task(self._end(ranks[pid], hung[pid]))
            self._ending.add_done_callback(self._ended)

    def _tell(self, stall: Stall | None, waiting: bool | None) -> None:
        if (stall is None) != (self.stall is None) or waiting is not self.waiting:
            self.stall, self.waiting = stall, waiting
            self._alarm.on_stall()

    def _watch(self, rank: RankProcess, elapsed: float) -> Watched:
        kernel = main_thread.look(rank.pid)
        seen = Seen(
            beat=rank.board.beat(),
            state=kernel.state if kernel else "Z",
            cpu_seconds=kernel.cpu_seconds if kernel else 0.0,
            starved_seconds=kernel.starved_seconds if kernel else 0.0,
            ignores_order=rank.ignores_order,
        )
        return hang.watch(self._watched.get(rank.pid), seen, elapsed)

    async def _end(self, rank: RankProcess, stall: Stall) -> None:
        """The other ranks may wait for it, or hang, too: they are looked at again when it is gone."""
        beat, ranks = rank.board.beat(), list(self._ranks())
        taken = await stacks.take(ranks)
        if rank.board.beat() != beat or rank not in self._ranks():
            return  # it moved, or died, meanwhile
        failure = hang_story.failure(rank.spec.rank, rank.spec.local_rank, stall, taken[rank.pid])
        by_rank = {r.spec.rank: taken[r.pid] for r in ranks}
        self._alarm.on_stacks(hang_story.whole(by_rank, rank.spec.rank, failure.message))
        self._alarm.on_hang(rank, failure)
        rank.kill_group()  # a SIGTERM would not be heard

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ending = None
        task.result()  # a defect of ours goes to the loop's handler
