"""A thousand recoveries in a row: `python -m benchmarks.recovery.soak`. Does anything grow?

Rank 1 is killed again and again; after each recovery the memory, descriptors and threads of the process that is rank 0, of
its agent and of the operator are read from /proc. Only disttrain. Writes soak.json and soak.png, and prints how they
differ between the first and the last tenth.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import psutil
from benchmarks.recovery.__main__ import EVERY_STEPS as SIZES
from benchmarks.recovery.__main__ import OUT
from benchmarks.recovery.arms.arm import Run
from benchmarks.recovery.arms.disttrain import Disttrain
from benchmarks.recovery.marks import Marks
from benchmarks.recovery.session import RECOVERY_SECONDS, START_SECONDS, strike, until
from dev.cluster.progress import say, step

BETWEEN_STEPS, EVERY_STEPS = 25, 5
"""Training goes on between two faults until a newer checkpoint is committed and reported: without one the operator rightly
backs off, up to a minute."""
MEASURES = ("rss_mib", "descriptors", "threads")


def look(pid: int) -> dict[str, float]:
    """What a process holds."""
    process = psutil.Process(pid)
    with process.oneshot():
        return {
            "pid": pid, "rss_mib": process.memory_info().rss / 2**20, "descriptors": process.num_fds(),
            "threads": process.num_threads(),
        }  # fmt: skip


def soak(run: Run, recoveries: int) -> list[dict[str, Any]]:
    """One row per recovery."""
    run.folder.mkdir(parents=True)
    marks = Marks(run.marks)
    rows: list[dict[str, Any]] = []
    with Disttrain().train(run) as group, step(f"{recoveries} recoveries") as shown:
        until(lambda: marks.refresh().newest > run.every_steps, START_SECONDS, group, run)
        while len(rows) < recoveries:
            goal = marks.refresh().newest + BETWEEN_STEPS
            until(lambda goal=goal: marks.refresh().newest >= goal, RECOVERY_SECONDS, group, run)  # type: ignore[misc]
            found = strike(group, run, marks, 1)
            rank = marks.pid(0)
            whole = {
                "rank": look(rank),
                "agent": look(psutil.Process(rank).ppid()),
                "operator": look(group.operator_pid),
            }
            rows.append({"new_at": found.new_at, **whole})
            shown.note = f"{len(rows)}, the last in {found.new_at:.2f} s"
    return rows


def growth(rows: list[dict[str, Any]], who: str, what: str) -> tuple[float, float]:
    """Medians of the second tenth (the first warms up) and of the last."""
    tenth = max(1, len(rows) // 10)
    values = [row[who][what] for row in rows]
    return statistics.median(values[tenth : 2 * tenth] or values), statistics.median(values[-tenth:])


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """One panel per measure."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(MEASURES) + 1, figsize=(15, 3.4))
    for axis, what in zip(axes, MEASURES, strict=False):
        for who in ("rank", "agent", "operator"):
            axis.plot([row[who][what] for row in rows], label=who, linewidth=1)
        axis.set(title=what, xlabel="recovery", ylim=(0, None))
    axes[0].legend()
    axes[-1].plot([row["new_at"] for row in rows], ".", markersize=3)
    axes[-1].set(title="seconds to the first new step", xlabel="recovery", ylim=(0, None))
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main() -> None:
    """Run, write down, say what grew."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.recovery.soak", description=__doc__)
    options.add_argument("--recoveries", type=int, default=1000)
    options.add_argument("--megabytes", type=int, default=4, choices=sorted(SIZES))
    options.add_argument("--out", type=Path, default=OUT)
    chosen = options.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-")) / "run"
    rows = soak(Run(folder=folder, megabytes=chosen.megabytes, every_steps=EVERY_STEPS), chosen.recoveries)
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "soak.json").write_text(json.dumps(rows) + "\n")
    plot(rows, chosen.out / "soak.png")
    say(f"rank 0 was {len({row['rank']['pid'] for row in rows})} process(es) during {len(rows)} recoveries")
    for who in ("rank", "agent", "operator"):
        told = (
            f"{what} {before:.0f} → {after:.0f}" for what in MEASURES for before, after in [growth(rows, who, what)]
        )
        say(f"{who}: {', '.join(told)}")
    shutil.rmtree(folder.parent, ignore_errors=True)


if __name__ == "__main__":
    main()
