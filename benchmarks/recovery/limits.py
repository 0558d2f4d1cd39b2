"""What this machine can do at best, measured beside the arms: nobody recovers faster than these allow."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.recovery.arms.arm import RANKS, THREADS, source_path
from dev.access import REPOSITORY

REPEATS = 3


def measure(sizes: Sequence[int]) -> dict[str, Any]:
    """Seconds and GB/s; medians."""
    environment = {**os.environ, **THREADS, "PYTHONPATH": source_path()}

    def run(*argv: str) -> str:
        return subprocess.run(
            [sys.executable, *argv], env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=True
        ).stdout

    start = _median(lambda: run("-c", "pass"))
    imported = _median(lambda: run("-c", "import torch, torch._dynamo"))
    script = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}", "-m", __name__]
    together = json.loads(run(*script, *map(str, sizes)).strip().splitlines()[-1])
    return {
        "cores": os.cpu_count(), "python_start": start, "torch_import": imported - start, "by_megabytes": together,
    }  # fmt: skip


def _median(what: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.monotonic()
        what()
        times.append(time.monotonic() - began)
    return statistics.median(times)


def rank(sizes: Sequence[int]) -> None:
    """One of the three: copy the state, send it, add it up. Rank 0 prints."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    found: dict[int, dict[str, float]] = {}
    for megabytes in sizes:
        state = torch.ones(megabytes * 250_000)
        copy = state.clone()
        alone = _median(lambda s=state, c=copy: c.copy_(s)) if dist.get_rank() == 0 else 0.0  # type: ignore[misc]
        dist.barrier()
        found[megabytes] = {
            "memcpy_gb_per_second": megabytes / 1000 / alone if alone else 0.0,
            "broadcast": _median(lambda s=state: dist.broadcast(s, 0)),  # type: ignore[misc]
            "all_reduce": _median(lambda s=state: dist.all_reduce(s, dist.ReduceOp.MAX)),  # type: ignore[misc]
        }
    if dist.get_rank() == 0:
        print(json.dumps(found), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    rank([int(a) for a in sys.argv[1:]])
