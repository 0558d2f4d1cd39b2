"""What every arm trains: the same model, data, optimizer and marks. Imports torch and nothing of ours but the marks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from benchmarks.recovery.marks import Writer
from torch import Tensor, nn
from torch.optim import SGD
from typing_extensions import override

SAMPLES, BATCH = 960, 24
"""Over all ranks together; an epoch has 40 steps, so that every run sees the end of one."""
STEPS_PER_EPOCH = SAMPLES // BATCH
FEATURES, CLASSES = 64, 10
LAYERS = 4
LEARNING_RATE = 1e-3

Place = Callable[[], tuple[int, int]]
"""This rank and how many take part."""


def model(megabytes: int) -> nn.Module:
    """So large that parameters and momentum together have about so many megabytes."""
    width = int((megabytes * 1e6 / 2 / 4 / LAYERS) ** 0.5)
    torch.manual_seed(0)
    inner = [m for _ in range(LAYERS) for m in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Linear(FEATURES, width), nn.ReLU(), *inner, nn.Linear(width, CLASSES))


class Samples(torch.utils.data.Dataset[tuple[Tensor, tuple[int, int]]]):
    """Made of their number; each says which it is."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(SAMPLES, FEATURES, generator=generator)
        self.labels = torch.randint(CLASSES, (SAMPLES,), generator=generator).tolist()

    def __len__(self) -> int:
        return SAMPLES

    @override
    def __getitem__(self, i: int) -> tuple[Tensor, tuple[int, int]]:
        return self.inputs[i], (self.labels[i], i)


class Witness:
    """Knows which samples the present step is about, and says when it is finished."""

    def __init__(self, marks: str, digest_every: int, place: Place | None = None) -> None:
        self._writer = Writer(marks)
        self._every = digest_every
        self._place = place or (lambda: (dist.get_rank(), dist.get_world_size()))
        self._samples: list[int] = []

    def loss(self, outputs: Tensor, targets: Any) -> Tensor:
        """Mean cross entropy."""
        labels, ids = targets
        self._samples = ids.tolist()
        return nn.functional.cross_entropy(outputs, labels)

    def finished(self, step: int, parameters: Iterable[Tensor]) -> None:
        """The parameters have been updated."""
        rank, world = self._place()
        digest = _digest(parameters) if step % self._every == 0 else ""
        self._writer.write(step, rank, world, digest, self._samples)


class WitnessedSGD(SGD):
    """SGD with momentum whose state also holds how many steps it has made."""

    def __init__(self, parameters: Iterable[nn.Parameter], witness: Witness) -> None:
        super().__init__(parameters, lr=LEARNING_RATE, momentum=0.9)
        self.param_groups[0]["finished"] = 0
        self._witness = witness

    @property
    def finished(self) -> int:
        """Steps in the state, restored ones included."""
        return int(self.param_groups[0]["finished"])

    @override
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update, count, say so."""
        super().step(closure)
        self.param_groups[0]["finished"] += 1
        self._witness.finished(self.finished, self.param_groups[0]["params"])


def batch(data: Samples, step: int, rank: int, world: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """This rank's part of a step (counted from 0), for the arms that bring no order of their own."""
    epoch, place = divmod(step, STEPS_PER_EPOCH)
    order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(epoch))
    ids = order[place * BATCH : (place + 1) * BATCH].chunk(world)[rank]
    labels = torch.tensor([data.labels[i] for i in ids.tolist()])
    return data.inputs[ids], (labels, ids)


def build(megabytes: int, steps: int, marks: str, digest_every: int) -> Any:
    """The entry point of a DistTrainJob."""
    from disttrain_runtime.task import Task

    witness = Witness(marks, digest_every)
    return Task(
        model=model(megabytes), train_data=Samples(), loss=witness.loss, batch_size=BATCH, steps=steps,
        optimizer=lambda parameters: WitnessedSGD(parameters, witness),
    )  # fmt: skip


def settings() -> dict[str, str]:
    """What the scripts of the other arms are told, without the prefix."""
    return {k.removeprefix("BENCH_").lower(): v for k, v in os.environ.items() if k.startswith("BENCH_")}


def _digest(tensors: Iterable[Tensor]) -> str:
    whole = hashlib.sha256()
    for tensor in tensors:
        whole.update(tensor.detach().numpy())  # type: ignore[arg-type]  # arrays have the buffer interface
    return whole.hexdigest()[:16]
