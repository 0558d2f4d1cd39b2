"""Goodput under a storm: `python -m benchmarks.recovery.trace`. Faults come as a Poisson process, the same ones to every arm.

Goodput is the share of the window's steps that were new: new steps finished in the window, over what the same group made
in the same time just before without faults. A fault that finds its rank not running (the arm is still recovering from the
one before) hits nothing, which favours the slow. Writes goodput.json and goodput.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.recovery.__main__ import ARMS, EVERY_STEPS, OUT, chosen_arms
from benchmarks.recovery.arms.arm import RANKS, Arm, Run
from benchmarks.recovery.marks import Marks, finished
from benchmarks.recovery.session import RECOVERY_SECONDS, START_SECONDS, until
from dev.cluster.progress import step

QUIET_SECONDS = 20.0
"""Without faults, for the arm's own pace."""


@dataclass(frozen=True, slots=True)
class Strike:
    """A rank dies so many seconds after the window has begun."""

    after: float
    rank: int


def strikes(seed: int, mtbf: float, seconds: float) -> list[Strike]:
    """One trace."""
    dice, at, found = random.Random(seed), 0.0, []
    while (at := at + dice.expovariate(1 / mtbf)) < seconds:
        found.append(Strike(at, dice.randrange(RANKS)))
    return found


def ride(arm: Arm, run: Run, trace: list[Strike], seconds: float) -> dict[str, Any]:
    """One arm through one trace."""
    run.folder.mkdir(parents=True)
    marks, hits = Marks(run.marks), 0
    with arm.train(run) as group:
        until(lambda: marks.refresh().newest > run.every_steps, START_SECONDS, group, run)
        quiet = time.monotonic_ns()
        time.sleep(QUIET_SECONDS)
        began = time.monotonic_ns()
        for strike in trace:
            time.sleep(max(0.0, strike.after - (time.monotonic_ns() - began) / 1e9))
            with suppress(ProcessLookupError):
                os.kill(marks.refresh().pid(strike.rank), signal.SIGKILL)
                hits += 1
        time.sleep(max(0.0, seconds - (time.monotonic_ns() - began) / 1e9))
        ended = time.monotonic_ns()
        until(lambda: marks.refresh().all[-1].at > ended, RECOVERY_SECONDS, group, run)  # it lives
    pace = new_steps(marks, quiet, began) / ((began - quiet) / 1e9)
    new = new_steps(marks, began, ended)
    return {
        "arm": arm.name, "hits": hits, "strikes": len(trace), "new_steps": new, "steps_per_second_quiet": pace,
        "goodput": new / (pace * (ended - began) / 1e9),
    }  # fmt: skip


def new_steps(marks: Marks, begin: int, end: int) -> int:
    """Steps that were finished for the first time between two moments."""
    first: dict[int, int] = {}
    for at, number, _ in finished(marks.all):
        first.setdefault(number, at)
    return sum(begin < at <= end for at in first.values())


def table(found: list[dict[str, Any]]) -> str:
    """By MTBF and arm."""
    lines = ["| MTBF | arm | faults that hit | new steps | goodput |", "|---|---|---|---|---|"]
    for f in sorted(found, key=lambda f: (-f["mtbf"], f["arm"])):
        lines.append(
            f"| {f['mtbf']:.0f} s | {f['arm']} | {f['hits']} of {f['strikes']} | {f['new_steps']} | {f['goodput']:.1%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Every arm through the same traces, in turns."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.recovery.trace", description=__doc__)
    options.add_argument("--mtbf", type=float, nargs="+", default=[60.0, 15.0])
    options.add_argument("--seconds", type=float, default=300.0)
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    options.add_argument("--megabytes", type=int, default=4, choices=sorted(EVERY_STEPS))
    options.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    options.add_argument("--out", type=Path, default=OUT)
    chosen = options.parse_args()
    found: list[dict[str, Any]] = []
    scratch = Path(tempfile.mkdtemp(prefix="goodput-"))
    for seed in chosen.seeds:
        for mtbf in chosen.mtbf:
            trace = strikes(seed, mtbf, chosen.seconds)
            for arm in chosen_arms(chosen.arms):
                folder = scratch / f"{seed}-{mtbf}-{arm.name}"
                run = Run(folder=folder, megabytes=chosen.megabytes, every_steps=EVERY_STEPS[chosen.megabytes])
                with step(f"MTBF {mtbf:.0f} s, seed {seed}, {arm.name}: {len(trace)} faults") as shown:
                    one = ride(arm, run, trace, chosen.seconds)
                    shown.note = f"goodput {one['goodput']:.1%}"
                found.append(
                    {"mtbf": mtbf, "seed": seed, "megabytes": chosen.megabytes, "seconds": chosen.seconds, **one}
                )
                shutil.rmtree(folder, ignore_errors=True)
                chosen.out.mkdir(parents=True, exist_ok=True)
                (chosen.out / "goodput.json").write_text(json.dumps(found, indent=1) + "\n")
                (chosen.out / "goodput.md").write_text(table(found) + "\n")
    scratch.rmdir()
    print(table(found))


if __name__ == "__main__":
    main()
