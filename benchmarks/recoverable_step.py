"""What it costs in every step that ranks can outlive their group: two ranks with that ability beside two without it.

    python -m benchmarks.recoverable_step [--megabytes 40] [--blocks 12] [--split]     prints a table, writes JSON

State of replicated jobs is recoverable after every step because each rank holds it: no copy is made. What is there in each
step is a page of signs of life, a thread that listens for orders, and a copy of the model's buffers (batch statistics) as they
were before the step. "able" is a rank as an agent starts it, "bare" the same program without an agent and without that copy.

`--split`: a model cut over the ranks (FSDP), of which each rank leaves a copy of its part with its buddy: every step, every
tenth, never. A copy that is under way when a turn ends goes on into another's.

All groups live at the same time and take turns, a block of steps each, in an order drawn anew for every round of blocks: while
one trains the others sleep, so all see the same machine. A ratio is of the medians of two blocks of a round; its first
step is left out of each block, for it begins with the wait for the turn.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from disttrain_contract import env as contract
from disttrain_contract.env import RunConfig
from disttrain_contract.strategy import Parallelism, StrategyConfig

RESULTS = Path(__file__).parent / "results"
PLAIN, SPLIT = ("able", "bare"), ("every 1", "every 10", "never")
"""The last one is what the others are compared with."""
WORLD, BLOCK, BATCH = 2, 25, 32
POLL_SECONDS = 0.002


class Turns:
    """Whose block it is: a number in a file, and a list of names that everybody knows."""

    def __init__(self, folder: Path, arm: str) -> None:
        self._file, self._arm, self._folder = folder / "turn", arm, folder
        order = json.loads((folder / "order.json").read_text())
        self._places = [i for i, name in enumerate(order) if name == arm]
        self._calls, self._seconds, self._last = -1, [], 0.0  # type: ignore[var-annotated]

    def step(self, rank: int) -> None:
        """A step begins. The first call is the rehearsal's."""
        number, self._calls = self._calls, self._calls + 1
        if number < 0:
            return
        now = time.perf_counter()
        block, within = divmod(number, BLOCK)
        if within > 1:
            self._seconds[-1].append(now - self._last)
        if within == 0:
            if rank == 0 and block > 0:
                self._file.write_text(str(self._places[block - 1] + 1))
            if rank == 0 and block == len(self._places):
                (self._folder / f"{self._arm}.json").write_text(json.dumps(self._seconds))
            while block < len(self._places) and int(self._file.read_text() or -1) != self._places[block]:
                time.sleep(POLL_SECONDS)
            self._seconds.append([])
        self._last = time.perf_counter()


def build(folder: str, arm: str, megabytes: int, blocks: int) -> Any:
    """The task of both arms: a stack of layers with batch normalisation, so that there are buffers."""
    import torch
    from torch import Tensor, nn

    from disttrain_runtime.strategies.all_reduce import AllReduce
    from disttrain_runtime.task import Task

    if arm == "bare":
        AllReduce._keep_buffers = lambda self: None  # type: ignore[method-assign]
    width = int((megabytes * 1e6 / 2 / 4 / 4) ** 0.5)  # parameters and momentum
    norm = nn.LayerNorm if arm in SPLIT else nn.BatchNorm1d
    layers = [m for _ in range(4) for m in (nn.Linear(width, width), norm(width), nn.ReLU())]
    turns = Turns(Path(folder), arm)

    def loss(outputs: Tensor, _: Tensor) -> Tensor:
        turns.step(int(os.environ["RANK"]))
        return outputs.square().mean()

    samples = BATCH * BLOCK
    data = torch.utils.data.TensorDataset(torch.randn(samples, width), torch.zeros(samples))
    return Task(
        model=nn.Sequential(*layers),
        train_data=data,
        loss=loss,
        optimizer=lambda p: torch.optim.SGD(p, lr=1e-6, momentum=0.9),
        batch_size=BATCH,
        epochs=blocks + 1,  # one more: its first step ends the last block
    )


def start(arm: str, rank: int, port: int, folder: Path, megabytes: int, blocks: int, stack: ExitStack) -> Any:
    """One rank; one that is able gets what an agent gives it: a socket that is read, and a page for its pulse."""
    args = (f"--folder={folder}", f"--arm={arm}", f"--megabytes={megabytes}", f"--blocks={blocks}")
    run = RunConfig(entrypoint="benchmarks.recoverable_step:build", args=args)
    if arm in SPLIT:
        cut = StrategyConfig(parallelism=Parallelism(shard="full"))
        run = replace(run, strategy=cut, buddy_every_steps=int(arm.removeprefix("every ")) if arm != "never" else 0)
    env = dict(os.environ) | {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), contract.INCARNATION: "1",
        contract.RUN: json.dumps(asdict(run)), "DISTTRAIN_JOB": arm, "DISTTRAIN_JOB_UID": arm,
    }  # fmt: skip
    fds: list[int] = []
    if arm == "able":
        from disttrain_runtime.pulse import PAGE

        page = folder / f"pulse-{rank}"
        page.write_bytes(bytes(PAGE))
        ours, theirs = socket.socketpair()
        threading.Thread(target=lambda: list(iter(lambda: ours.recv(65536), b"")), daemon=True).start()
        stack.callback(ours.close)
        stack.enter_context(theirs)
        fds = [theirs.fileno()]
        env |= {contract.REPORT_FD: str(theirs.fileno()), contract.PULSE: str(page)}
    with (folder / f"{arm}-{rank}.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "disttrain_runtime.worker"], env=env, pass_fds=fds, stdout=log, stderr=log
        )


def measure(arms: Sequence[str], megabytes: int, blocks: int, seed: int) -> dict[str, list[list[float]]]:
    """Seconds of each step, block by block."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "order.json").write_text(json.dumps([a for _ in range(blocks) for a in rng.sample(arms, len(arms))]))
        (folder / "turn").write_text("0")
        ports = dict(zip(arms, free_ports(len(arms)), strict=True))
        ranks = [
            start(arm, rank, ports[arm], folder, megabytes, blocks, stack) for arm in arms for rank in range(WORLD)
        ]
        stack.callback(lambda: [process.kill() for process in ranks])
        while not all((folder / f"{arm}.json").exists() for arm in arms):
            if bad := [p for p in ranks if p.poll() not in (None, 0)]:
                logs = "".join(path.read_text() for path in folder.glob("*.log"))
                raise SystemExit(f"a rank ended with {bad[0].returncode}:\n{logs}")
            time.sleep(0.1)
        for process in ranks:
            process.wait()
        return {arm: json.loads((folder / f"{arm}.json").read_text()) for arm in arms}


def free_ports(count: int) -> Iterator[int]:
    """Below those that outgoing connections get."""
    for _ in range(count):
        while True:
            port = random.randrange(20000, 29000)
            try:
                socket.create_server(("127.0.0.1", port)).close()
            except OSError:
                continue
            yield port
            break


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=40)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", action="store_true", help="a model that is cut, with copies of its parts")
    options = parser.parse_args()
    load, arms = os.getloadavg()[0], SPLIT if options.split else PLAIN
    found = measure(arms, options.megabytes, options.blocks, options.seed)
    medians = {arm: [statistics.median(block) for block in blocks if block] for arm, blocks in found.items()}
    base = arms[-1]
    ratios = {a: [x / y for x, y in zip(medians[a], medians[base], strict=True)] for a in arms if a != base}
    about = vars(options) | {"steps": BLOCK, "world": WORLD, "cores": os.cpu_count(), "load": round(load, 1)}
    summary: dict[str, Any] = {arm: {"step_median": round(statistics.median(medians[arm]), 5)} for arm in arms}
    for arm, several in ratios.items():
        low, middle, high = statistics.quantiles(several, n=4)
        everything = statistics.median(sum(found[arm], [])) / statistics.median(sum(found[base], []))
        summary[arm] |= {
            "ratio_median": round(middle, 4), "ratio_q1": round(low, 4), "ratio_q3": round(high, 4),
            "median_of_all_steps_ratio": round(everything, 4),
            "mean_of_all_steps_ratio": round(statistics.mean(sum(found[arm], [])) / statistics.mean(sum(found[base], [])), 4),
        }  # fmt: skip
    print(json.dumps(summary, indent=1))
    RESULTS.mkdir(exist_ok=True)
    result = {
        "about": about, "summary": summary, "ratios": {a: [round(r, 4) for r in rs] for a, rs in ratios.items()},
        "seconds": {arm: [[round(s, 6) for s in block] for block in blocks] for arm, blocks in found.items()},
    }  # fmt: skip
    (RESULTS / f"recoverable_step{'_split' if options.split else ''}.json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
