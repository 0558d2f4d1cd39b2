"""What a careful user runs under torchrun: DDP, a checkpoint at a cadence, resume from the newest."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist
from benchmarks.recovery import workload
from torch.nn.parallel import DistributedDataParallel


def main() -> None:
    """Train until somebody ends it."""
    given = workload.settings()
    file, every = Path(given["folder"]) / "checkpoint.pt", int(given["every_steps"])
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    data, witness = workload.Samples(), workload.Witness(given["marks"], int(given["digest_every"]))
    model = workload.model(int(given["megabytes"]))
    replica = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = workload.WitnessedSGD(model.parameters(), witness)
    if file.exists():
        kept = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
    while True:
        inputs, targets = workload.batch(data, optimizer.finished, rank, world)
        optimizer.zero_grad()
        torch.autograd.backward(witness.loss(replica(inputs), targets))
        optimizer.step()
        if rank == 0 and optimizer.finished % every == 0:
            save(file, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})


def save(file: Path, state: dict[str, object]) -> None:
    """Never half a file under the name that is read. No fsync: most scripts have none, and it would only cost time."""
    fresh = file.with_suffix(f".{os.getpid()}")
    torch.save(state, fresh)
    fresh.replace(file)


if __name__ == "__main__":
    main()
