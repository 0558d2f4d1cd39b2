"""State of a split model from memory: each rank leaves a copy of its part with its buddy, a rank of another worker.

With the part of a rank that dies gone, the others cannot go on from where they are. So now and then, at a meeting, each rank copies its
own part beside, and sends that copy to its buddy while training goes on. When the group forms anew, the newest step of which
*every* part is in somebody's memory is where all go on from: that is the step that was under way where replicas hold each part, else the
last copy. Who lacks its part gets it from who holds it. If there is no such step, the volume is left.

Memory, with parts of n bytes: 2 n of one's own and 2 n of another's, as a copy is given up only when the next one has arrived
everywhere. Bytes sent for a copy: n by each rank.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Thread
from typing import Any, Protocol

import xxhash
from torch import Tensor

from disttrain_runtime.groups import Group
from disttrain_runtime.survivors import NOTHING, Sharing, give, take

MAX_SHARE = 0.03
"""Of the time, if no cadence is asked for; counted as if training waited for every byte."""
_ROOM = 8
"""Copies that a rank can name: two of its own, two of another's, and as many that an earlier group left."""
_FORSAKEN_SECONDS = 10.0
"""For a thread to notice that its connection was cut; it takes milliseconds."""

Part = Mapping[str, Any]
"""Nested dicts and lists with tensors in them."""


class Split(Protocol):
    """A strategy of which each rank holds a part."""

    @property
    def parts(self) -> int:
        """How many ranks of the present group hold a whole together: rank r holds part r modulo this."""

    def layout(self) -> Mapping[str, Any]:
        """How the state that is here was cut, `parts` among it: plain values, alike on all ranks of a group."""

    def follow(self, layout: Mapping[str, Any]) -> None:
        """Cut the next one alike."""

    @property
    def ready(self) -> bool:
        """Broken off in a step with all that its update needs. If one rank has updated its part, all others have, or are ready."""

    def complete(self) -> None:
        """Make that update. Asks nobody."""

    def undo(self) -> None:
        """Be as at the last meeting."""

    def part_state(self) -> Part:
        """This rank's part, with the live tensors."""

    def load_part(self, part: Part) -> None:
        """Become that; the tensors stay the caller's. A collective."""


@dataclass(frozen=True, slots=True, order=True)
class Held:
    """A part as it was after this step."""

    step: int
    part: int


@dataclass(frozen=True, slots=True)
class Memory:
    """What one rank says it holds."""

    layout: int
    """A digest. 0: it holds nothing."""
    saved: int
    """The newest step that it knows to be on the volume."""
    live: int
    """The step of its own part. NOTHING: it is new."""
    copies: frozenset[Held]
    ready: bool = False
    """It could come to the next step by itself."""

    def row(self) -> list[int]:
        """As numbers, of one length on all ranks."""
        newest_first = sorted(self.copies, reverse=True)[:_ROOM]
        pairs = [number for held in newest_first for number in (held.step, held.part)]
        return [self.layout, self.saved, self.live, int(self.ready), *pairs, *[NOTHING] * (2 * _ROOM - len(pairs))]

    @classmethod
    def read(cls, row: Sequence[int]) -> Memory:
        """The inverse."""
        layout, saved, live, ready, *pairs = row
        found = zip(pairs[::2], pairs[1::2], strict=True)
        return cls(layout, saved, live, frozenset(Held(*pair) for pair in found if pair[0] != NOTHING), bool(ready))

    def holds(self, wanted: Held, own_part: int) -> bool:
        """As a copy, or because it is there itself."""
        return wanted in self.copies or wanted == Held(self.live, own_part)


def caught_up(memories: Sequence[Memory]) -> list[Memory]:
    """Who is ready does what others have done already. Pure."""
    furthest = max(m.live for m in memories)
    return [replace(m, live=furthest, ready=False) if m.ready and m.live == furthest - 1 else m for m in memories]


def newest(memories: Sequence[Memory], parts: int) -> Sharing | None:
    """The last step of which every part is somewhere, and who gives it to whom; None: a checkpoint is newer. Pure."""
    named = {h.step for m in memories for h in m.copies} | {m.live for m in memories}
    for step in sorted(named - {NOTHING}, reverse=True):
        if step < max(m.saved for m in memories):
            return None
        holders = [[r for r, m in enumerate(memories) if m.holds(Held(step, p), r % parts)] for p in range(parts)]
        if all(holders):
            needy = [r for r in range(len(memories)) if r not in holders[r % parts]]
            return Sharing(step, {r: holders[r % parts][i % len(holders[r % parts])] for i, r in enumerate(needy)})
    return None


class Buddies:
    """The copies of one rank, from group to group."""

    def __init__(self, strategy: Split, every_steps: int | None, clock: Callable[[], float]) -> None:
        """`every_steps`: None for as often as it costs little, 0 for never."""
        self._strategy, self._every, self._clock = strategy, every_steps, clock
        self._copies: dict[Held, Part] = {}
        self._exchange: _Exchange | None = None
        self._channel: Group | None = None
        """None: this group makes no copies."""
        self._ward, self._last, self._cost, self._ended = 0, NOTHING, 0.0, 0.0

    def join(self, group: Group) -> None:
        """Belong to this group from now on, behind `strategy.join`. A collective."""
        if self._exchange is not None and (came := self._exchange.forsake()) is not None:
            self._copies[Held(self._last, self._ward)] = came
        self._group, self._exchange, self._channel, self._last = group, None, None, NOTHING
        if self._every != 0 and group.world_size == self._strategy.parts > 1:  # else each part has a replica
            self._channel = group.beside()

    def due(self, step: int, now: float) -> bool:
        """Rank 0's wish."""
        if self._channel is None:
            return False
        if self._exchange is None:
            return True
        if self._every is not None:
            return step // self._every > self._last // self._every
        return self._exchange.over and now - self._ended >= (self._cost + self._exchange.seconds) / MAX_SHARE

    def keep(self, step: int) -> None:
        """Copy the part as it is now, and begin to send the copy. A collective, called at a meeting."""
        if self._channel is None:
            return
        began = self._clock()
        spare = self._settle()
        own = _copied(self._strategy.part_state(), spare)
        self._copies[Held(step, self._part)] = own
        # To another worker, as a pod takes all its ranks along.
        away = self._group.per_worker if self._group.world_size > self._group.per_worker else 1
        rank, size = self._group.rank, self._group.world_size
        self._ward = (rank - away) % size
        self._exchange = _Exchange(self._channel, own, (rank + away) % size, self._ward, self._clock)
        self._last, self._ended = step, self._clock()
        self._cost = self._ended - began

    @property
    def _part(self) -> int:
        return self._group.rank % self._strategy.parts

    def _settle(self) -> Part | None:
        """Once the last copies have arrived everywhere, those before them are of no use. Gives the memory of one's own."""
        if self._exchange is None:
            return None
        self._copies[Held(self._last, self._ward)] = self._exchange.finish()
        self._group.barrier()
        gone = {held: self._copies.pop(held) for held in list(self._copies) if held.step < self._last}
        return next((part for held, part in gone.items() if held.part == self._part), None)

    def recall(self, met: int, saved: int, moved: Callable[[], None] = lambda: None) -> tuple[int, str] | None:
        """Go on from the newest step of which all parts are in memory. A collective, called behind `join`.

        `met`: the step that the strategy's own state is of. Gives the step and where it came from, or None: `saved`, a
        checkpoint, is newer, or there is nothing. `moved`: after each chunk of a part that travels.
        """
        layout = json.dumps(self._strategy.layout()).encode() if met != NOTHING else b""
        memory = Memory(_digest(layout), saved, met, frozenset(self._copies), self._strategy.ready)
        memories = caught_up([Memory.read(row) for row in self._group.gather_rows(memory.row())])
        if memories[self._group.rank].live != met:
            self._strategy.complete()
            met += 1
        sharing = newest(memories, self._strategy.parts) if self._follows(memories, layout) else None
        self._copies = {held: part for held, part in self._copies.items() if sharing and held.step == sharing.step}
        if sharing is None:
            return None
        self._strategy.undo()
        self._strategy.load_part(self._traded(sharing, met, moved))
        given_live = all(
            memories[h].live == sharing.step and (h - r) % self._strategy.parts == 0 for r, h in sharing.givers.items()
        )
        return sharing.step, "survivor" if given_live else "buddy"

    def _follows(self, memories: Sequence[Memory], layout: bytes) -> bool:
        """Whether what is held fits into this group. Who is new learns how it was cut."""
        layouts = [m.layout for m in memories]
        if len({found for found in layouts if found}) != 1:
            return False
        first = next(rank for rank, found in enumerate(layouts) if found)
        agreed = json.loads(self._group.broadcast(layout if self._group.rank == first else None, first))
        if agreed["parts"] != self._strategy.parts:
            return False
        self._strategy.follow(agreed)
        return True

    def _traded(self, sharing: Sharing, met: int, moved: Callable[[], None]) -> Part:
        """This rank's part of that step; those who lack theirs get it. All go through the pairs in the same order."""
        mine = self._state(Held(sharing.step, self._part), met)
        for needy, holder in sharing.givers.items():
            if holder == self._group.rank:
                part = self._state(Held(sharing.step, needy % self._strategy.parts), met)
                assert part is not None, "it said that it holds it"
                give(part, self._group, needy, moved)
            elif needy == self._group.rank:
                mine = take(self._group, holder, moved)
        assert mine is not None, "who lacks it gets it"
        return mine

    def _state(self, wanted: Held, met: int) -> Part | None:
        return self._strategy.part_state() if wanted == Held(met, self._part) else self._copies.get(wanted)


class _Exchange:
    """One copy on its way to the buddy, and another one's on its way here."""

    def __init__(self, channel: Group, own: Part, buddy: int, ward: int, clock: Callable[[], float]) -> None:
        self._clock, self._began, self._ended = clock, clock(), 0.0
        self._error: Exception | None = None
        self._came: Part | None = None
        self._threads = [
            Thread(target=self._run, args=(lambda: give(own, channel, buddy),), name="buddy-give", daemon=True),
            Thread(target=self._run, args=(lambda: self._take(channel, ward),), name="buddy-take", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def over(self) -> bool:
        """Both ways, well or not."""
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def seconds(self) -> float:
        """From the beginning until the later of both was through."""
        return self._ended - self._began

    def finish(self) -> Part:
        """Wait for both. What came."""
        for thread in self._threads:
            thread.join()
        if self._error is not None:
            raise self._error
        assert self._came is not None, "no error, so it came"
        return self._came

    def forsake(self) -> Part | None:
        """The group is gone, and its connections are cut. What had come whole by then is good."""
        for thread in self._threads:
            thread.join(_FORSAKEN_SECONDS)
        return self._came

    def _take(self, channel: Group, ward: int) -> None:
        self._came = take(channel, ward)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # raised where training waits next
            self._error = error
        self._ended = self._clock()


def _copied(value: Any, spare: Any) -> Any:
    """In CPU memory; in that of `spare` where it has the same shape, because new memory costs four times a copy."""
    if isinstance(value, Tensor):
        if isinstance(spare, Tensor) and (spare.shape, spare.dtype) == (value.shape, value.dtype):
            return spare.copy_(value.detach())
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        old = spare if isinstance(spare, Mapping) else {}
        return {key: _copied(item, old.get(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        fits = isinstance(spare, (list, tuple)) and len(spare) == len(value)
        return type(value)(_copied(item, spare[i] if fits else None) for i, item in enumerate(value))
    return value


def _digest(layout: bytes) -> int:
    """Not 0, unless there is none; fits into a signed number."""
    return xxhash.xxh3_64_intdigest(layout) >> 2 | 1 if layout else 0
