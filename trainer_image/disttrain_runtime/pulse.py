"""Signs of life: a page of memory that a rank writes in passing and its agent looks at.

No message, no thread: a thread of its own would go on beating while the one that trains hangs. The page is a file in
the agent's memory, which the rank opens by name, so it needs no place among inherited descriptors. Standard library
only: the agent reads what is written here.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import signal
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from disttrain_contract.env import PULSE
from disttrain_contract.stall import Phase

PAGE = 4096
RING = 500
"""Durations that are kept, the newest: enough for a 99th percentile that one outlier does not move."""
_NOW = struct.Struct("=qqd")
"""Finished steps, phase, when that began."""
_pack_now = _NOW.pack_into
_LOADING = Phase.LOADING
_REST = struct.Struct("=qq")
"""Steps that were timed; 1 when a signal makes the rank write its stacks."""
_DURATION = struct.Struct("=d")
_RING_AT = _NOW.size + _REST.size
STACK_SIGNAL = signal.SIGUSR1

_PARTS = {Phase.AGREEING, Phase.LOADING, Phase.SYNCHRONISING, Phase.FORWARD, Phase.BACKWARD, Phase.UPDATING}
_TIMED = tuple(phase in _PARTS for phase in Phase)
"""By phase: is it a part of every step? What happens only now and then has limits of its own."""
_OWN = tuple(phase in (Phase.LOADING, Phase.FORWARD, Phase.UPDATING) for phase in Phase)
"""By phase: is it a part of every step in which nobody else is waited for?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What the page says."""

    step: int
    phase: Phase
    since: float
    """CLOCK_MONOTONIC, which all processes of a machine share."""
    timed: int = 0
    durations: tuple[float, ...] = field(default=(), compare=False)
    """Seconds of the newest timed steps, in no order."""
    writes_stacks: bool = False


class Pulse:
    """The rank's end. `enter` costs half a microsecond; a step enters six phases."""

    def __init__(
        self, page: mmap.mmap | bytearray | None = None, clock: Callable[[], float] = time.monotonic, *, armed: bool = False
    ) -> None:  # fmt: skip
        self._page = page if page is not None else bytearray(PAGE)
        self._clock, self._armed = clock, armed
        self._timed = 0
        self.begin()

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Pulse:
        """On the agent's page; on one that nobody reads if there is no agent."""
        path = env.get(PULSE)
        if path is None:
            return cls()
        try:
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            page = mmap.mmap(fd, PAGE)
        except (OSError, ValueError):  # a convenience of the agent's, never a reason not to train
            return cls()
        # Written by the C handler, also while some thread holds the interpreter's lock for ever.
        faulthandler.register(STACK_SIGNAL, file=fd, all_threads=True)
        return cls(page, armed=True)

    def begin(self) -> None:
        """A new group. Its first step is not timed: it compiles, allocates, connects. What is known of others stays."""
        self.step, self._phase, self._since = 0, Phase.STARTING, self._clock()
        self._begun, self._spent = 0, 0.0
        self._own, self._own_steps = 0.0, 0
        _REST.pack_into(self._page, _NOW.size, self._timed, self._armed)
        _NOW.pack_into(self._page, 0, 0, Phase.STARTING, self._since)

    def enter(self, phase: Phase, step: int | None = None) -> None:
        """From now on this; `step` steps are finished."""
        now = self._clock()
        if _TIMED[self._phase]:
            self._spent += now - self._since
            if _OWN[self._phase]:
                self._own += now - self._since
        if step is not None:
            self.step = step
        if phase is _LOADING:
            self._next_step()
        self._phase, self._since = phase, now
        _pack_now(self._page, 0, self.step, phase, now)

    def own_seconds(self) -> float:
        """The mean time per step since the last call in which this rank waited for nobody."""
        mean = self._own / self._own_steps if self._own_steps else 0.0
        self._own, self._own_steps = 0.0, 0
        return mean

    def _next_step(self) -> None:
        """Write down how long the last one took, if there was one."""
        if self._begun > 1:
            _DURATION.pack_into(self._page, _RING_AT + self._timed % RING * _DURATION.size, self._spent)
            self._timed += 1
            _REST.pack_into(self._page, _NOW.size, self._timed, self._armed)
        self._own_steps += self._begun > 0
        self._begun += 1
        self._spent = 0.0


def read(page: mmap.mmap | bytearray) -> Beat | None:
    """The agent's end. None: nothing was ever written, or by somebody else."""
    step, phase, since = _NOW.unpack_from(page, 0)
    timed, armed = _REST.unpack_from(page, _NOW.size)
    if since <= 0 or timed < 0 or phase not in set(Phase):
        return None
    durations = struct.unpack_from(f"={min(timed, RING)}d", page, _RING_AT)
    return Beat(step=step, phase=Phase(phase), since=since, timed=timed, durations=durations, writes_stacks=bool(armed))
