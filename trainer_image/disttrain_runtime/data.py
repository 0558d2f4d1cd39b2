"""Batches for one rank: the samples of its shares, in order, fetched here or ahead in loader processes.

A share is fetched under generators seeded from (seed, step, rank), so augmentation draws the same numbers whether it
runs in this process, in a loader process, or again after a recovery.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from typing_extensions import override

from disttrain_runtime.errors import SharedMemoryError, TaskError
from disttrain_runtime.generators import reseed
from disttrain_runtime.randomness import Stream
from disttrain_runtime.sampler import SampleOrder, Share
from disttrain_runtime.task import Task

_Fetched = tuple[Share, Any, Any]


@dataclass(frozen=True, slots=True)
class Batch:
    """What a strategy trains on."""

    share: Share
    inputs: Any
    targets: Any


def training_batches(task: Task, order: SampleOrder, shares: Iterable[Share], device: torch.device) -> Iterator[Batch]:
    """This rank's batch of each step."""
    return batches(_Fetch(task.train_data, task, order.seed), shares, task.num_loader_workers, device)


def evaluation_batches(task: Task, shares: Iterable[Share], device: torch.device) -> Iterator[Batch]:
    """Evaluation data; its seed is fixed, because a measurement must not depend on the run's seed."""
    return batches(_Fetch(task.eval_data, task, 0), shares, task.num_loader_workers, device)


def batches(fetch: _Fetch, shares: Iterable[Share], loader_workers: int, device: torch.device) -> Iterator[Batch]:
    """Fetch share by share, in order, and move each to the device."""
    fetched: Iterable[_Fetched] = map(fetch.__getitem__, shares)
    if loader_workers:
        # batch_size=None: a share is one item. A generator of its own: the loader must not draw from the model's.
        # fork: ready in milliseconds, and the dataset need not be pickled; a fresh interpreter would import torch anew.
        fetched = DataLoader(
            fetch, batch_size=None, sampler=shares, num_workers=loader_workers, collate_fn=_as_it_is,
            generator=torch.Generator(), multiprocessing_context="fork", pin_memory=device.type == "cuda",
        )  # fmt: skip
    for share, inputs, targets in _begun(fetched, loader_workers):
        yield Batch(share, to_device(inputs, device), to_device(targets, device))


def _begun(fetched: Iterable[_Fetched], loader_workers: int) -> Iterator[_Fetched]:
    """Loader processes get their locks and queues here; those live in shared memory."""
    try:
        return iter(fetched)
    except OSError as error:
        if loader_workers and error.errno == errno.ENOSPC:
            raise SharedMemoryError(
                "/dev/shm has no room for the loader processes: raise spec.sharedMemory, or lower num_loader_workers"
            ) from error
        raise


class _Fetch(Dataset[Any]):
    """A dataset whose index is a share and whose item is a collated batch."""

    def __init__(self, data: Any, task: Task, seed: int) -> None:
        self.data, self.seed = data, seed
        self.collate = task.collate or default_collate

    @override
    def __getitem__(self, share: Share) -> tuple[Share, Any, Any]:
        reseed(self.seed, Stream.DATA, share.step, share.rank)
        batch = self.collate([self.data[i] for i in share.indices])
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TaskError(f"Task: a collated batch must be a pair (inputs, targets), got {type(batch).__name__}")
        return share, batch[0], batch[1]


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors, however nested, on the device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {k: to_device(v, device) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(to_device(v, device) for v in value))
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(v, device) for v in value)
    return value


def _as_it_is(item: Any) -> Any:
    return item
