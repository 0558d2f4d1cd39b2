"""Ask the kernel how many processes of this container it killed for memory, and what the limit is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_UNLIMITED = 2**60
"""cgroup v1 says "no limit" with a number near 2**63."""


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """The two files that matter; v1 and v2 name them differently."""

    events: Path
    limit: Path

    def oom_kills(self) -> int:
        """Since the container was made; 0 when the kernel does not say."""
        try:
            words = self.events.read_text().split()
            return int(words[words.index("oom_kill") + 1])
        except (OSError, ValueError, IndexError):
            return 0

    def limit_bytes(self) -> int | None:
        """None: no limit."""
        try:
            limit = int(self.limit.read_text())
        except (OSError, ValueError):  # v2 says "max"
            return None
        return limit if limit < _UNLIMITED else None


def memory_group(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> MemoryGroup:
    """The memory cgroup that this process is in. Inside a container the group is often mounted as the root."""
    v1, v2 = _own_paths(membership)
    candidates = [
        *_v1(root / "memory" / v1.lstrip("/") if v1 else None),
        *_v2(root / v2.lstrip("/") if v2 else None),
        *_v1(root / "memory"),
        *_v2(root),
    ]
    return next((group for group in candidates if group.events.exists()), candidates[-1])


def _own_paths(membership: Path) -> tuple[str, str]:
    """Lines are `5:memory:/path` (v1) and `0::/path` (v2)."""
    v1 = v2 = ""
    try:
        for line in membership.read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                v1 = path
            elif number == "0" and not controllers:
                v2 = path
    except (OSError, ValueError):
        pass
    return v1, v2


def _v1(where: Path | None) -> list[MemoryGroup]:
    return [MemoryGroup(where / "memory.oom_control", where / "memory.limit_in_bytes")] if where else []


def _v2(where: Path | None) -> list[MemoryGroup]:
    return [MemoryGroup(where / "memory.events", where / "memory.max")] if where else []
