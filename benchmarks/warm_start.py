"""How long a rank takes from the agent's wish to the first line of its program, executed and forked, and what it costs.

    python -m benchmarks.warm_start [--rounds 12]     from the repository's root; prints JSON, then a table

The arms take turns, so that whatever else the machine does hits both. `usable` is when all that the first training step
needs is imported (torch._dynamo among it), `main` when the worker's first own line runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from disttrain_contract.env import REPORT_FD
from disttrain_runtime.agent.launch import PRELOAD, RankSpec
from disttrain_runtime.agent.rank_process import Listener, RankProcess
from disttrain_runtime.agent.supervisor import Supervisor
from disttrain_runtime.agent.warm import Warm

ME = "benchmarks.warm_start"
MIB = 2**20


def main(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """The rank: say when it was here, then what it holds."""
    import disttrain_runtime.worker  # noqa: F401

    reached = time.monotonic()
    import torch._dynamo  # noqa: F401

    usable = time.monotonic()
    print(json.dumps({"main": reached, "usable": usable, **memory("self")}), flush=True)
    time.sleep(float(environment.get("DISTTRAIN_LINGER", "0")))
    return 0


def leave(code: int) -> None:
    """As the worker does."""
    sys.stdout.flush()
    os._exit(code)


def memory(pid: int | str) -> dict[str, float]:
    """MiB: resident, and its share of what several processes hold together."""
    rows = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    kib = {row[0].rstrip(":"): int(row[1]) for row in rows}
    return {
        "rss": kib["Rss"] * 1024 / MIB,
        "pss": kib["Pss"] * 1024 / MIB,
        "private": (kib["Private_Dirty"] + kib["Private_Clean"]) * 1024 / MIB,
    }


@dataclass
class Arm:
    """One way of starting ranks."""

    supervisor: Supervisor
    environment: Mapping[str, str]
    heard: dict[int, dict[str, float]] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)

    async def start(self, ranks: int, linger: float = 0.0, look: int | None = None) -> list[dict[str, float]]:
        """Start some at once; what each measured, relative to the wish."""
        self.heard.clear()
        self.gone.clear()
        begin = time.monotonic()
        for rank in range(ranks):
            spec = RankSpec(
                rank, rank, (sys.executable, "-m", ME), {**self.environment, "DISTTRAIN_LINGER": str(linger)}
            )
            self.supervisor.start(spec)
        asked = time.monotonic() - begin
        while len(self.heard) < ranks:
            await asyncio.sleep(0.001)
        found = [
            {**told, "main": told["main"] - begin, "usable": told["usable"] - begin, "blocked": asked}
            for told in self.heard.values()
        ]
        if linger:  # all are there now: their shares of the common pages are final
            pids = list(self.supervisor._ranks)
            found = [memory(pid) for pid in (*pids, *([look] if look else []))]
            self.supervisor.kill()
        while len(self.gone) < ranks:
            await asyncio.sleep(0.001)
        return found


def arm(environment: Mapping[str, str], warm: Warm | None) -> Arm:
    """A supervisor of its own for each."""

    def lines(spec: RankSpec, found: list[bytes]) -> None:
        for line in found:
            if line.startswith(b"{"):
                made.heard[spec.rank] = json.loads(line)

    def ended(rank: RankProcess, status: int) -> None:
        made.gone.add(rank.spec.rank)

    made = Arm(Supervisor(Listener(lines, lambda *_: None), ended, init=True, warm=warm), environment)
    return made


async def measure(rounds: int) -> dict[str, object]:
    """Everything."""
    environment = {k: v for k, v in os.environ.items() if k != REPORT_FD} | {
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
    }
    said: list[str] = []
    begin = time.monotonic()
    warm = Warm([ME, *PRELOAD], environment, said.append, lambda: None)
    executed = arm(environment, None)
    executed.supervisor.close()
    forked = arm(environment, warm)
    await warm.decided
    assert warm.pid, said
    result: dict[str, object] = {"parent_ready_s": time.monotonic() - begin, "parent": memory(warm.pid)}
    samples: dict[str, list[dict[str, float]]] = {"executed": [], "forked": []}
    for _ in range(rounds):
        for name, one in (("executed", executed), ("forked", forked)):
            asyncio.get_running_loop().add_signal_handler(17, one.supervisor.reap)
            samples[name] += await one.start(1)
    for name, found in samples.items():
        result[name] = {
            key: {
                "median": statistics.median(s[key] for s in found),
                "max": max(s[key] for s in found),
                "n": len(found),
            }
            for key in ("main", "usable", "blocked")
        }
    asyncio.get_running_loop().add_signal_handler(17, executed.supervisor.reap)
    result["four executed, MiB"] = await executed.start(4, linger=100)
    asyncio.get_running_loop().add_signal_handler(17, forked.supervisor.reap)
    result["four forked and the parent, MiB"] = await forked.start(4, linger=100, look=warm.pid)
    result["said"] = said
    warm.close()
    return result


def table(result: dict[str, object]) -> str:
    """For people."""
    rows = ["| seconds from the wish to | executed, median (max) | forked, median (max) |", "|---|---|---|"]
    for key in ("main", "usable", "blocked"):
        cells = [result[name][key] for name in ("executed", "forked")]  # type: ignore[index]
        rows.append(f"| {key} | " + " | ".join(f"{c['median']:.4f} ({c['max']:.4f})" for c in cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    if REPORT_FD in os.environ:
        leave(main(sys.argv[1:], os.environ))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    measured = asyncio.run(measure(parser.parse_args().rounds))
    print(json.dumps(measured, indent=1))
    print(table(measured))
