"""A pod is deleted by force, until the first new step: `python -m benchmarks.recovery.pods`. disttrain, with and without a
standby, beside JobSet and a plain Indexed Job, all on the same kind of API server with the same played kubelet.

Writes pods.json, pods.md and pods.png.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.recovery import report
from benchmarks.recovery.__main__ import EVERY_STEPS, OUT, turned
from benchmarks.recovery.arms.arm import Arm, Run
from benchmarks.recovery.arms.disttrain import Disttrain
from benchmarks.recovery.arms.jobs import Job, JobSet
from benchmarks.recovery.session import draw, run_session
from dev.cluster.progress import say, step

KNOWN: dict[str, Arm] = {arm.name: arm for arm in (JobSet(), Job(), Disttrain(), Disttrain(standby=1))}
RANK = 1
ONE_FAULT = frozenset({Job.name})
"""Started anew for every fault: the Job controller's back-off doubles with every failed pod of a Job, so that a second fault
already takes minutes. What is shown is the first one, its best."""


def main() -> None:
    """Every arm in turns."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.recovery.pods", description=__doc__)
    options.add_argument("--trials", type=int, default=20)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--megabytes", type=int, default=4, choices=sorted(EVERY_STEPS))
    options.add_argument("--arms", nargs="+", default=list(KNOWN), choices=KNOWN)
    options.add_argument("--out", type=Path, default=OUT)
    chosen = options.parse_args()
    arms = []
    for name in chosen.arms:
        if reason := KNOWN[name].missing():
            say(f"without {name}: {reason}")
        else:
            arms.append(KNOWN[name])
    every = EVERY_STEPS[chosen.megabytes]
    found: dict[str, Any] = {"samples": []}
    scratch = Path(tempfile.mkdtemp(prefix="pods-"))
    for number in range(chosen.rounds):
        faults = draw(number, [RANK] * len(range(number, chosen.trials, chosen.rounds)), every, what="pod")
        for arm in turned(arms, number):
            for part in [[f] for f in faults] if arm.name in ONE_FAULT else [faults]:
                run = Run(folder=scratch / f"{number}-{arm.name}", megabytes=chosen.megabytes, every_steps=every)
                with step(f"round {number + 1} of {chosen.rounds}, {arm.name}: {len(part)} pods deleted") as shown:
                    outcome = run_session(arm, run, part)
                    shown.note = ", ".join(f"{s['new_at']:.1f} s" for s in outcome.samples)
                found["samples"] += outcome.samples
                shutil.rmtree(run.folder, ignore_errors=True)
                report.write(found, chosen.out, "pods")
    scratch.rmdir()
    print(report.table(found["samples"]))


if __name__ == "__main__":
    main()
