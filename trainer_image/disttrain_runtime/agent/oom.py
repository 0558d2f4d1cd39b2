"""Whom the kernel killed for memory: a rank, or only the warm parent, whose end is nobody's failure."""

from __future__ import annotations

from disttrain_runtime.agent.cgroup import MemoryGroup


class OomKills:
    """Counts from the last `begin`."""

    def __init__(self, group: MemoryGroup) -> None:
        self._group = group
        self._first = self._seen = group.oom_kills()
        self._excused = 0

    def begin(self) -> None:
        """New ranks start."""
        self._first = self._seen = self._group.oom_kills()
        self._excused = 0

    def excuse(self) -> None:
        """The warm parent got a SIGKILL that was not ours. If the kernel has just counted a kill, it was this one."""
        now = self._group.oom_kills()
        if now > self._seen:
            self._seen += 1
            self._excused += 1

    def of_ranks(self) -> int:
        """Processes of ranks that were killed for memory since they started."""
        return self._group.oom_kills() - self._first - self._excused

    def has_room(self, share: float, wanted: int) -> bool:
        """Whether so many bytes are no more than this share of the container's limit."""
        limit = self.limit_bytes()
        return limit is None or wanted <= share * limit

    def limit_bytes(self) -> int | None:
        """None: no limit."""
        return self._group.limit_bytes()
