"""Our corner of the control groups: `/disttrain/system` for the daemons, `/disttrain/<node>` for each node's pods.

Everything we start lives below `/disttrain`, so `down` can find and end all of it, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from dev.cluster.render import CGROUP_ROOT

MOUNT = Path("/sys/fs/cgroup")
SYSTEM = f"{CGROUP_ROOT}/system"


def is_v2(mount: Path = MOUNT) -> bool:
    """Whether this machine has the unified hierarchy only."""
    return (mount / "cgroup.controllers").exists()


def hierarchies(mount: Path = MOUNT) -> tuple[Path, ...]:
    """The roots of all hierarchies: one with v2; one per controller with v1 or hybrid."""
    if is_v2(mount):
        return (mount,)
    # Links such as cpu → cpu,cpuacct lead to a hierarchy that is in the list already.
    return tuple(sorted(path for path in mount.iterdir() if not path.is_symlink() and (path / "cgroup.procs").exists()))


def make(name: str) -> None:
    """Create the group in every hierarchy."""
    for root in hierarchies():
        group = root
        for part in Path(name).parts:
            group = group / part
            if not group.exists():
                group.mkdir()
                _usable(group)


def _usable(group: Path) -> None:
    """cpuset (v1) starts empty, and then holds no process; v2 hands controllers down only when told."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (group / name).exists() and not is_v2():
            (group / name).write_text((group.parent / name).read_text())
    control = group.parent / "cgroup.subtree_control"
    if control.exists():
        for controller in (group.parent / "cgroup.controllers").read_text().split():
            with contextlib.suppress(OSError):  # not every controller can be handed on
                control.write_text(f"+{controller}")


def enter(name: str, pid: int) -> None:
    """Move a process into the group."""
    for root in hierarchies():
        (root / name / "cgroup.procs").write_text(str(pid))


def members(name: str) -> set[int]:
    """The processes in the group and below it."""
    found: set[int] = set()
    for root in hierarchies():
        for group in _below(root / name):
            with contextlib.suppress(OSError):  # it may vanish while we look
                found.update(int(pid) for pid in (group / "cgroup.procs").read_text().split())
    return found


def _below(group: Path) -> Iterator[Path]:
    """The group and everything below it, children first."""
    if not group.is_dir():
        return
    for folder, _, _ in os.walk(group, topdown=False):
        yield Path(folder)


def kill(name: str, *, patience: float = 5.0) -> None:
    """End every process in the group for good, also those that are being born meanwhile."""
    deadline = time.monotonic() + patience
    while pids := members(name) - {os.getpid()}:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {sorted(pids)} in the control group {name} do not die")
        time.sleep(0.02)


def remove(name: str) -> None:
    """Delete the group and everything below it."""
    for root in hierarchies():
        for group in _below(root / name):
            with contextlib.suppress(OSError):  # the kernel may still be letting go of its last process
                group.rmdir()
