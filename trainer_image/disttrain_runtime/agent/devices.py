"""How many GPUs this container sees, without torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_DEVICE = re.compile(r"nvidia\d+$")
_ALL = frozenset({"", "all", "none", "void"})


def visible_gpus(environment: Mapping[str, str], dev: Path = Path("/dev")) -> int:
    """GPUs that a rank could use: device nodes, narrowed by the variables that CUDA and the container runtime obey."""
    try:
        nodes = sum(1 for entry in dev.iterdir() if _DEVICE.match(entry.name))
    except OSError:
        nodes = 0
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return min(nodes, _listed(chosen))
    runtime = environment.get("NVIDIA_VISIBLE_DEVICES", "all")
    if runtime in _ALL or runtime.startswith("/"):  # a path: the device plugin passes devices as volume mounts
        return nodes
    return min(nodes, _listed(runtime))


def processes_per_worker(configured: int | None, gpus: int) -> int:
    """What the job says; else one process for each GPU; else one."""
    return configured if configured is not None else max(1, gpus)


def _listed(text: str) -> int:
    """CUDA ignores everything after the first -1."""
    names = [name.strip() for name in text.split(",")] if text.strip() else []
    return names.index("-1") if "-1" in names else len(names)
