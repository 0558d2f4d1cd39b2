"""`make bench-recovery`: SIGKILL to a rank, until the first new step is finished; every arm in the same run.

Writes benchmarks/results/recovery.{json,md,png}; asserts nothing about time. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.recovery import limits, report
from benchmarks.recovery.arms.arm import Arm, Run
from benchmarks.recovery.arms.disttrain import Disttrain
from benchmarks.recovery.arms.torchft import Torchft
from benchmarks.recovery.arms.torchrun import Torchrun
from benchmarks.recovery.marks import Ledger, ledger
from benchmarks.recovery.session import Outcome, draw, run_session
from benchmarks.recovery.workload import SAMPLES, STEPS_PER_EPOCH
from dev.access import REPOSITORY
from dev.cluster.progress import say, step

OUT = REPOSITORY / "benchmarks" / "results"
EVERY_STEPS = {4: 50, 40: 20, 400: 10}
"""The checkpoint cadence by size, the same for all arms: about one a second at the least."""
OURS = "disttrain"
ARMS = ("torchrun", "torchft", OURS)
ROUNDS = 5
"""Each arm is started so many times a size, in turns, and lives through its share of the faults."""
BRIEF_ROUNDS = 2
"""For arms of `--brief`: one that takes minutes for each fault."""
RANKS = (1, 0)
"""Who is killed: a rank like any other, and the one that holds the store and writes the checkpoints."""


def main() -> None:
    """Measure, check, write down."""
    chosen = _options()
    arms = list(chosen_arms(chosen.arms))
    with step("the machine's limits"):
        machine = limits.measure(chosen.sizes)
    found = _others(chosen)
    for megabytes in map(str, chosen.sizes):
        found["options"][megabytes] = {"trials": chosen.trials, "rounds": chosen.rounds}
        found["limits"][megabytes] = {**machine, "by_megabytes": machine["by_megabytes"][megabytes]}
    scratch = Path(tempfile.mkdtemp(prefix="recovery-", dir=chosen.scratch))
    for megabytes in chosen.sizes:
        ours = []
        for number in range(chosen.rounds):
            for arm in turned([a for a in arms if number < BRIEF_ROUNDS or a.name not in chosen.brief], number):
                outcome = _session(arm, scratch, megabytes, number, chosen)
                found["samples"] += outcome.samples
                ours += [outcome] if arm.name == OURS else []
                report.write(found, chosen.out)
        if ours:
            found["exactness"][str(megabytes)] = _exactness(ours, scratch, megabytes)
            report.write(found, chosen.out)
    scratch.rmdir()  # when something went wrong it stays, with the logs of the group that failed
    print(report.table(found["samples"]))
    for megabytes, verdict in found["exactness"].items():
        say(f"{megabytes} MB: {verdict}")


def _others(chosen: argparse.Namespace) -> dict[str, Any]:
    """What the file has of other sizes. A size is always measured anew, with all its arms in the same run."""
    file = chosen.out / "recovery.json"
    old = json.loads(file.read_text()) if chosen.add and file.exists() else {}
    again = set(map(str, chosen.sizes))
    kept = {part: {k: v for k, v in old.get(part, {}).items() if k not in again} for part in _BY_SIZE}
    samples = [s for s in old.get("samples", []) if str(s["megabytes"]) not in again]
    return {"platform": platform.platform(), **kept, "samples": samples}


_BY_SIZE = ("options", "limits", "exactness")


def _options() -> argparse.Namespace:
    options = argparse.ArgumentParser(prog="python -m benchmarks.recovery", description=__doc__)
    options.add_argument("--trials", type=int, default=20, help="faults of each kind, for each arm and size")
    options.add_argument("--rounds", type=int, default=ROUNDS, help="the trials come in so many rounds of all arms")
    options.add_argument(
        "--sizes", type=int, nargs="+", default=[4, 40, 400], choices=sorted(EVERY_STEPS), help="MB of state"
    )
    options.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    options.add_argument("--brief", nargs="+", default=[], choices=ARMS, help="arms of the first two rounds only")
    options.add_argument("--add", action="store_true", help="keep what the file has of other sizes")
    options.add_argument("--quick", action="store_true", help="3 trials at 4 MB in one round: does it work at all?")
    options.add_argument("--out", type=Path, default=OUT)
    options.add_argument(
        "--scratch", type=Path, help="where checkpoints and logs go for the time being (default: $TMPDIR)"
    )
    chosen = options.parse_args()
    if chosen.quick:
        chosen.trials, chosen.rounds, chosen.sizes = 3, 1, [4]
    return chosen


def chosen_arms(names: list[str]) -> Iterator[Arm]:
    """Those that can run here; what is left out is said."""
    known: dict[str, Arm] = {arm.name: arm for arm in (Torchrun(), Torchft(), Disttrain())}
    for name in names:
        if reason := known[name].missing():
            say(f"without {name}: {reason}")
        else:
            yield known[name]


def turned(arms: list[Arm], by: int) -> list[Arm]:
    """Nobody is always the first."""
    by %= len(arms)
    return arms[by:] + arms[:by]


def _session(arm: Arm, scratch: Path, megabytes: int, number: int, chosen: argparse.Namespace) -> Outcome:
    share = len(range(number, chosen.trials, chosen.rounds))
    faults = draw(1000 * megabytes + number, list(RANKS) * share, EVERY_STEPS[megabytes])
    run = Run(
        folder=scratch / f"{megabytes}-{number}-{arm.name}", megabytes=megabytes, every_steps=EVERY_STEPS[megabytes]
    )
    with step(f"{megabytes} MB, round {number + 1} of {chosen.rounds}, {arm.name}: {len(faults)} faults") as shown:
        outcome = run_session(arm, run, faults)
        median = report.summary(outcome.samples)
        shown.note = ", ".join(f"{fault} {f['p50']:.2f} s" for (_, fault, _), f in median.items())
    _discard(run)
    return outcome


def _exactness(ours: list[Outcome], scratch: Path, megabytes: int) -> dict[str, Any]:
    """The faulted runs against one without faults, and every sample's whereabouts."""
    ledgers = [ledger(o.marks.all, STEPS_PER_EPOCH, SAMPLES) for o in ours]
    run = Run(folder=scratch / f"{megabytes}-quiet", megabytes=megabytes, every_steps=EVERY_STEPS[megabytes])
    with step(f"{megabytes} MB: the same without faults"):
        quiet = run_session(Disttrain(), run, (), max(max(book.digests) for book in ledgers))
    _discard(run)
    reference = ledger(quiet.marks.all, STEPS_PER_EPOCH, SAMPLES).digests
    return {
        "faults": sum(len(o.samples) for o in ours), "steps": sum(b.steps for b in ledgers), "step_seconds": quiet.step_seconds,
        "digests_compared": sum(len(book.digests) for book in ledgers),
        "digests_different": sum(reference[at] != digest for book in ledgers for at, digest in book.digests.items()),
        **{name: sum(getattr(b, name) for b in ledgers) for name in _COUNTED},
    }  # fmt: skip


_COUNTED = [f for f in Ledger.__dataclass_fields__ if f not in ("steps", "digests")]


def _discard(run: Run) -> None:
    """Gigabytes of checkpoints."""
    shutil.rmtree(run.folder, ignore_errors=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
