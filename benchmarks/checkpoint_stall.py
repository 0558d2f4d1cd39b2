"""How long a checkpoint keeps training waiting: ours, a bare memory copy, torch.save with fsync, and torch's DCP.

    python -m benchmarks.checkpoint_stall [--megabytes 400] [--rounds 15]     prints a table, writes JSON and a plot

Every arm saves the same state (the tensors of a model and of its AdamW) on the same disk, flushed, in the middle of
training: each save is followed by steps of one thread's work, until the checkpoint is on the disk and for two steps at least.

stall    the time that the training thread waits: the call and, before the first update, the rest of the copy if any
cost     how much longer the steps took than as many without a save: the stall, and what the copying and writing
         beside them takes from them (cores, memory, caches)
durable  until the checkpoint is on the disk

Each arm is warmed up once, so that nobody pays for first page faults; then the arms take turns in an order drawn anew
every round, and the next begins when the disk is quiet. Nothing is discarded. `quiet` is a round without a save.
"ours" copies the optimizer's state beside the next step's gradients; "ours, at once" does not.

DCP's best settings on a CPU (torch 2.15): an `async_stager` that is kept, so that its memory is used again; in shared
memory with the process-based checkpointer, in plain memory with the thread-based one. Staging in the background needs
CUDA, so the staging copy is part of its stall, as our copy is of ours.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

from disttrain_contract.messages import Checkpoint
from disttrain_runtime.checkpoint.fence import Fence, Holder
from disttrain_runtime.checkpoint.manifest import Fingerprint, ParameterShape, Sampling
from disttrain_runtime.checkpoint.saver import Saver
from disttrain_runtime.checkpoint.volume import Volume
from disttrain_runtime.checkpoint.writer import Facts

RESULTS = Path(__file__).parent / "results"
WIDTH = 1024
"""Of a layer: 4.2 MB a weight, and about a hundred tensors at 400 MB."""
WORK = 600
"""Products of 256 x 256 matrices in a step: about a fifth of a second on one core, much for its size of state."""


def nothing() -> None:
    """To wait for."""


@dataclass(frozen=True)
class Save:
    """One that has begun."""

    finish: Callable[[], object] = nothing
    """Waits for the disk."""
    settle: Callable[[], object] = nothing
    """Called before an update: waits until the state may change."""
    done: Callable[[], bool] = lambda: True


Arm = Callable[[int], Save]
"""Begins to save a step."""


def make_state(megabytes: int) -> dict[str, Any]:
    """A stack of linear layers after one step of AdamW: a third are weights, the rest are moments."""
    layers = max(1, round(megabytes * 1e6 / (3 * 4 * (WIDTH * WIDTH + WIDTH))))
    model = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH) for _ in range(layers)))
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def tensors_of(state: Any) -> list[Tensor]:
    """All of them, wherever they are."""
    if isinstance(state, Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [tensor for value in values for tensor in tensors_of(value)]


def memcpy(state: dict[str, Any]) -> Arm:
    """The floor: each tensor into memory of its own that was touched before."""
    pairs = [(tensor, torch.zeros_like(tensor).fill_(1)) for tensor in tensors_of(state)]

    def begin(_: int) -> Save:
        for source, target in pairs:
            target.copy_(source)
        return Save()

    return begin


def ours(state: dict[str, Any], folder: Path, quiet: Collection[str]) -> Arm:
    """The saver of this repository, asynchronous as by default."""
    parameters = tuple(
        ParameterShape(n, str(t.dtype).removeprefix("torch."), tuple(t.shape)) for n, t in state["model"].items()
    )
    sampling = Sampling(seed=0, randomness="r", samples=1, batch_size=1)
    fingerprint = Fingerprint(parameters=parameters, optimizer="AdamW")
    volume, fence = Volume(folder), Fence(folder, Holder("uid", 1))
    volume.create()
    fence.claim()
    saver = Saver(volume, fence, keep=1, asynchronous=True, committed=None, rejected=(), quiet=quiet)
    saver.prepare(state)

    def finish() -> None:
        (event,) = saver.finish()
        assert isinstance(event, Checkpoint), event

    def begin(step: int) -> Save:
        facts = Facts(
            job="job", step=step, world_size=1, epoch=0, position=0, sampling=sampling, fingerprint=fingerprint
        )  # fmt: skip
        saver.save(state, facts)
        return Save(finish, saver.settle_copy, lambda: not saver.busy)

    return begin


def torch_save(state: dict[str, Any], folder: Path) -> Arm:
    """What most scripts do, made safe: write, flush, rename."""
    folder.mkdir()

    def begin(step: int) -> Save:
        with (folder / "draft").open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        (folder / "draft").replace(folder / "checkpoint.pt")
        return Save()

    return begin


def dcp_async(state: dict[str, Any], folder: Path, kind: AsyncCheckpointerType) -> Arm:
    """torch.distributed.checkpoint.async_save."""
    shared = kind is AsyncCheckpointerType.PROCESS
    stager = DefaultStager(
        StagingOptions(
            use_pinned_memory=False, use_shared_memory=shared, use_async_staging=False, use_non_blocking_copy=False
        )
    )

    def begin(step: int) -> Save:
        path = folder / f"step-{step}"
        writer = dcp.FileSystemWriter(path, sync_files=True)
        future = dcp.async_save(state, storage_writer=writer, async_checkpointer_type=kind, async_stager=stager)

        def finish() -> None:
            future.result()  # type: ignore[union-attr]
            shutil.rmtree(path)

        return Save(finish, done=future.done)  # type: ignore[union-attr]

    return begin


def dcp_default(state: dict[str, Any], folder: Path) -> Arm:
    """The same as one gets it without asking: a thread, and new memory for every checkpoint."""

    def begin(step: int) -> Save:
        path = folder / f"step-{step}"
        future = dcp.async_save(state, checkpoint_id=path)

        def finish() -> None:
            future.result()  # type: ignore[union-attr]
            shutil.rmtree(path)

        return Save(finish, done=future.done)  # type: ignore[union-attr]

    return begin


class Work:
    """The gradients of a step: one thread, in its cache for the most part."""

    def __init__(self) -> None:
        self._left, self._right = torch.randn(256, 256), torch.randn(256, 256)

    def step(self) -> float:
        """Seconds that it took."""
        began = time.perf_counter()
        for _ in range(WORK):
            torch.mm(self._left, self._right)
        return time.perf_counter() - began


def one(arm: Arm, number: int, work: Work) -> dict[str, float]:
    """A save in the middle of training.."""
    began = time.perf_counter()
    save = arm(number)
    stall = time.perf_counter() - began
    work.step()
    settling = time.perf_counter()
    save.settle()
    stall += time.perf_counter() - settling
    steps = 1
    while steps < 2 or not save.done():
        work.step()
        steps += 1
    trained = time.perf_counter() - began
    save.finish()
    return {"stall": stall, "trained": trained, "steps": steps, "durable": time.perf_counter() - began}


def measure(arms: dict[str, Arm], rounds: int, seed: int) -> dict[str, dict[str, list[float]]]:
    """Seconds by arm; round 0 is the warm-up. A step without a save is timed before each save, on the same machine as then."""
    rng, work = random.Random(seed), Work()
    found: dict[str, dict[str, list[float]]] = {name: {"stall": [], "cost": [], "durable": []} for name in arms}
    for number in range(rounds + 1):
        for name in rng.sample(list(arms), len(arms)):
            os.sync()
            quiet = statistics.median(work.step() for _ in range(3))
            seen = one(arms[name], number, work)
            if number:
                found[name]["stall"].append(seen["stall"])
                found[name]["cost"].append(seen["trained"] - seen["steps"] * quiet)
                found[name]["durable"].append(seen["durable"])
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    return found


def summary(found: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """Medians and quartiles, and how many times our stall."""
    base = statistics.median(found["ours"]["stall"])
    table = {}
    for name, seconds in found.items():
        low, middle, high = statistics.quantiles(seconds["stall"], n=4)
        table[name] = {
            "stall_median": round(middle, 4),
            "stall_q1": round(low, 4),
            "stall_q3": round(high, 4),
            "cost_median": round(statistics.median(seconds["cost"]), 4),
            "durable_median": round(statistics.median(seconds["durable"]), 4),
            "times_ours": round(middle / base, 2),
        }
    return table


def plot(found: dict[str, dict[str, list[float]]], title: str, path: Path) -> None:
    """Every measurement a dot, the median a bar."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3))
    for place, (_, seconds) in enumerate(found.items()):
        axes.barh(place, statistics.median(seconds["stall"]), color="#9db4c0", height=0.6)
        axes.plot(seconds["stall"], [place] * len(seconds["stall"]), "o", color="#253237", markersize=3, alpha=0.6)
    axes.set_yticks(range(len(found)), list(found))
    axes.set_xscale("log")
    axes.set_xlabel("seconds that training waits")
    axes.set_title(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def join_alone() -> None:
    """DCP wants a process group, and its writer process a port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1])}
    dist.init_process_group("gloo", rank=0, world_size=1)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure; the default is TMPDIR")
    options = parser.parse_args()
    torch.set_num_threads(1)
    join_alone()
    state = make_state(options.megabytes)
    size = sum(tensor.nbytes for tensor in tensors_of(state))
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        arms: dict[str, Arm] = {
            "memcpy": memcpy(state),
            "quiet": lambda _: Save(),
            "ours": ours(state, folder / "ours", {"optimizer"}),
            "ours, at once": ours(state, folder / "once", ()),
            "DCP async, process": dcp_async(state, folder / "process", AsyncCheckpointerType.PROCESS),
            "DCP async, thread": dcp_async(state, folder / "thread", AsyncCheckpointerType.THREAD),
            "DCP async, default": dcp_default(state, folder / "default"),
            "torch.save + fsync": torch_save(state, folder / "torch"),
        }
        found = measure(arms, options.rounds, options.seed)
    table = summary(found)
    print(f"{size / 1e6:.0f} MB in {len(tensors_of(state))} tensors, n={options.rounds}, load {load:.1f}")
    for arm, row in table.items():
        print(f"{arm:<20}" + "".join(f"  {what} {value:>8}" for what, value in row.items()))
    RESULTS.mkdir(exist_ok=True)
    about = {"bytes": size, "tensors": len(tensors_of(state)), "rounds": options.rounds, "seed": options.seed}
    about |= {
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
    }
    result = {"about": about, "summary": table, "seconds": found}
    (RESULTS / "checkpoint_stall.json").write_text(json.dumps(result, indent=1) + "\n")
    plot(found, f"Checkpoint of {size / 1e6:.0f} MB: stall", RESULTS / "checkpoint_stall.png")


if __name__ == "__main__":
    main()
