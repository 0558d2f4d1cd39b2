"""numpy's OpenBLAS starts its threads while it is imported, which a process that will fork must not have.

So the warm parent is started with `ALONE`, and each rank gets back what its own environment says.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path

ALONE = {"OPENBLAS_NUM_THREADS": "1"}
"""Part of the parent's environment. torch starts its threads at their first use, and needs nothing of the kind."""
_ASKED = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")
"""In OpenBLAS' order."""
_SETTERS = tuple(
    f"{prefix}openblas_set_num_threads{suffix}" for prefix in ("scipy_", "") for suffix in ("64_", "")
)  # numpy's own wheels rename the symbols; distributions do not


def restore(environment: Mapping[str, str]) -> None:
    """Give OpenBLAS the threads that it would have started with. Without OpenBLAS there is nothing to give."""
    threads = wanted(environment, len(os.sched_getaffinity(0)))
    if threads > 1:
        for path in _loaded(Path("/proc/self/maps").read_text()):
            _set(ctypes.CDLL(path), threads)


def wanted(environment: Mapping[str, str], cpus: int) -> int:
    """As OpenBLAS decides it: the first variable that holds a number, but no more than there are CPUs."""
    for name in _ASKED:
        text = environment.get(name, "").strip()
        if text.isdecimal() and int(text) > 0:
            return min(int(text), cpus)
    return cpus


def _loaded(maps: str) -> set[str]:
    paths = (line.split(maxsplit=5)[5] for line in maps.splitlines() if line.count("/"))
    return {path for path in paths if "openblas" in Path(path).name}


def _set(library: ctypes.CDLL, threads: int) -> None:
    for name in _SETTERS:
        if hasattr(library, name):
            getattr(library, name)(ctypes.c_int(threads))
            return
