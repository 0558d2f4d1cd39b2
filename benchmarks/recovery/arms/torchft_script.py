"""What a careful user runs with torchft: one replica group per rank, gradients averaged over all, state from a living peer.

Gradients go through `Manager.allreduce`: torchft 0.2.0's own DistributedDataParallel does not survive a peer's death with
gloo on the CPU (`assert fut._fut` fails in its hook, in every survivor). A checkpoint for the case that nobody lives is
written at everybody's cadence; a rank that comes back does not read it first, which would only cost torchft time. Runs in
torchft's own virtual environment.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from benchmarks.recovery import workload
from benchmarks.recovery.arms.torchrun_script import save
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torchft import Manager, Optimizer, ProcessGroupGloo  # type: ignore[import-not-found]

TIMEOUT = timedelta(seconds=30)
"""For collectives of 400 MB on a busy machine; the death of a peer is seen by its closed connection."""


def main() -> None:
    """Train until somebody ends it."""
    given = workload.settings()
    file, every, rank = Path(given["folder"]) / "checkpoint.pt", int(given["every_steps"]), int(given["rank"])
    os.environ["RANK"], os.environ["WORLD_SIZE"] = "0", "1"  # within the replica group
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    model = workload.model(int(given["megabytes"]))
    place: list[int] = [rank, 1]
    witness = workload.Witness(given["marks"], int(given["digest_every"]), lambda: (place[0], place[1]))
    inner = workload.WitnessedSGD(model.parameters(), witness)

    def load(state: dict[str, Any]) -> None:
        model.load_state_dict(state["model"])
        inner.load_state_dict(state["optimizer"])

    manager = Manager(
        pg=ProcessGroupGloo(timeout=TIMEOUT), load_state_dict=load,
        state_dict=lambda: {"model": model.state_dict(), "optimizer": inner.state_dict()},
        min_replica_size=1, replica_id=f"replica-{rank}", store_addr="127.0.0.1", store_port=store.port,
        rank=0, world_size=1, timeout=TIMEOUT, hostname="127.0.0.1", lighthouse_addr=given["lighthouse"],
        heartbeat_interval=timedelta(milliseconds=50),
    )  # fmt: skip
    optimizer = Optimizer(manager, inner)
    data = workload.Samples()
    while True:
        optimizer.zero_grad()  # also asks for the quorum
        inputs, targets = workload.batch(data, manager.current_step(), rank, 3)
        torch.autograd.backward(witness.loss(model(inputs), targets))
        for work in [manager.allreduce(p.grad) for p in model.parameters() if p.grad is not None]:
            work.wait()
        place[1] = manager.num_participants()
        optimizer.step()
        if rank == 0 and inner.finished % every == 0:
            save(file, {"model": model.state_dict(), "optimizer": inner.state_dict()})


if __name__ == "__main__":
    main()
