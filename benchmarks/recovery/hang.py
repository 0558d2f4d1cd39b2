"""How soon a hang is noticed, and how often one is seen where there is none: `python -m benchmarks.recovery.hang`.

Rank 1 is stopped (SIGSTOP) a drawn time into a step, again and again. A stopped process is not dead: nobody gets an end of file, and
its peers wait. `noticed` is when its agent ends it, which is seen through a pidfd; `first new step` is the recovery behind it. Then the
same group trains undisturbed, and every recovery or failure that its status tells of would be a false alarm. Only disttrain. Writes
hang.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import signal
import statistics
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.recovery.__main__ import OUT
from benchmarks.recovery.arms.arm import Group, Run
from benchmarks.recovery.arms.disttrain import Disttrain
from benchmarks.recovery.marks import Marks, finished
from benchmarks.recovery.session import RECOVERY_SECONDS, SETTLE_SECONDS, START_SECONDS, strike, until
from dev.cluster.progress import say, step

FLOOR_SECONDS, FACTOR = 2.0, 5.0
"""The target: within the larger of two seconds and five times the 99th percentile of the steps."""
RANK = 1
MEGABYTES = 1
"""Of state: for many steps in little time."""
EVERY_STEPS = 100
STEPS_BEFORE = 2 * EVERY_STEPS
"""Between two hangs: a checkpoint, so that the operator sees that training moves, and steps enough for the limit to rest on."""


def stop_and_see(pid: int, pool: ThreadPoolExecutor) -> Future[float]:
    """SIGSTOP; when the process ends, seconds later."""
    fd = os.pidfd_open(pid)
    began = time.monotonic()
    os.kill(pid, signal.SIGSTOP)

    def ended() -> float:
        try:
            gone, _, _ = select.select([fd], [], [], RECOVERY_SECONDS)
            return time.monotonic() - began if gone else RECOVERY_SECONDS
        finally:
            os.close(fd)

    return pool.submit(ended)


def hangs(group: Group, run: Run, marks: Marks, trials: int) -> list[dict[str, Any]]:
    """One row for each."""
    dice, rows = random.Random(1), []
    with ThreadPoolExecutor(1) as pool:
        for _ in range(trials):
            goal = marks.refresh().newest + STEPS_BEFORE
            until(lambda goal=goal: marks.refresh().newest >= goal, RECOVERY_SECONDS, group, run)  # type: ignore[misc]
            time.sleep(dice.uniform(0, 0.05))
            usual = p99(marks, 500)
            noticed: list[Future[float]] = []
            found = strike(group, run, marks, RANK, lambda _, pid: noticed.append(stop_and_see(pid, pool)))  # noqa: B023 - called at once
            time.sleep(SETTLE_SECONDS)
            rows.append(
                {"noticed": noticed[0].result(), "new_at": found.new_at, "p99_step": usual,
                 "class": group.facts().get("class")}
            )  # fmt: skip
    return rows


def p99(marks: Marks, last: int) -> float:
    """Of the last so many steps, in seconds."""
    times = [at for at, _, _ in finished(marks.all[-3 * last :])]
    gaps = sorted((b - a) / 1e9 for a, b in zip(times, times[1:], strict=False))
    return gaps[min(len(gaps) - 1, int(0.99 * len(gaps)))]


def main() -> None:
    """Stop, watch, write down."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.recovery.hang", description=__doc__)
    options.add_argument("--trials", type=int, default=20)
    options.add_argument("--steps", type=int, default=100_000, help="undisturbed ones, in which no alarm may be raised")
    options.add_argument("--out", type=Path, default=OUT)
    chosen = options.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="hang-"))
    run = Run(folder=scratch / "run", megabytes=MEGABYTES, every_steps=EVERY_STEPS)
    run.folder.mkdir()
    marks = Marks(run.marks)
    with Disttrain().train(run) as group:
        until(lambda: marks.refresh().newest > run.every_steps, START_SECONDS, group, run)
        with step(f"{chosen.trials} hangs"):
            rows = hangs(group, run, marks, chosen.trials)
        before = group.recoveries()
        first = marks.newest
        with step(f"{chosen.steps} steps without one") as shown:
            while (done := marks.refresh().newest - first) < chosen.steps:
                shown.note = f"{done}"
                del marks.all[:-2000]
                until(lambda: marks.refresh().newest - first >= min(chosen.steps, done + 500), 600, group, run)
        false_alarms = group.recoveries() - before
    bound = max(FLOOR_SECONDS, FACTOR * max(r["p99_step"] for r in rows))
    found = {
        "hangs": rows, "bound": bound, "noticed_median": statistics.median(r["noticed"] for r in rows),
        "noticed_worst": max(r["noticed"] for r in rows), "undisturbed_steps": chosen.steps, "false_alarms": false_alarms,
        "load": os.getloadavg()[0],
    }  # fmt: skip
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "hang.json").write_text(json.dumps(found, indent=1) + "\n")
    say(f"noticed after {found['noticed_median']:.2f} s, at worst {found['noticed_worst']:.2f} s; bound {bound:.2f} s")
    say(f"{false_alarms} false alarms in {chosen.steps} steps")
    shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
