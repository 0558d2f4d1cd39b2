"""Gradients are averaged over all ranks in every step: torch's DistributedDataParallel, with compression if wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from disttrain_contract.strategy import StrategyConfig
from disttrain_runtime.data import Batch
from disttrain_runtime.groups import Group
from disttrain_runtime.strategies.compression import make_compressor
from disttrain_runtime.strategies.replica import Replica
from disttrain_runtime.task import Task

_MEGABYTE = 1024 * 1024


class AllReduce(Replica):
    """Replicas that start equal and stay equal.

    DDP is made once, in a group of this process alone, and moves from group to group: what it has learnt about the
    order of the gradients outlives a failure, and a replacement learns it before it is needed.
    """

    quiet_until_update = frozenset({"optimizer"})

    def __init__(self, task: Task, config: StrategyConfig, device: torch.device) -> None:
        super().__init__(task, config, device)
        self._replica: DistributedDataParallel | None = None
        self.compressor = make_compressor(config.compression, self.model)
        self.has_own = self.compressor is not None and self.compressor.feedback

    @override
    def rehearse(self, batch: Batch) -> None:
        """Let DDP see the order of the gradients before the first step that counts.

        DDP lays its buckets out anew after its first backward pass, and the order in which three or more ranks' values
        are added depends on the place in the bucket. Without a rehearsal the first step after a restart would
        differ in the last bit from the same step of an uninterrupted run. `_rebuild_buckets` is what its next forward
        pass would begin with.

        In its first pass over a static graph DDP notes the gradients in the model's order, and in that in which they come only in
        the first one in its next group. Survivors would then have laid out other buckets than a replacement, and add up what
        does not belong together. So the order is learnt here, in a second pass.
        """
        devices = [self.device] if self.device.type == "cuda" else None
        self._replica = DistributedDataParallel(
            self.model,
            device_ids=devices,
            gradient_as_bucket_view=True,
            init_sync=False,
            bucket_cap_mb=self.bucket_megabytes,
            static_graph=self.config.synchronization.static_graph,
        )
        self._learn_order(batch)
        if self.config.synchronization.static_graph:
            self._replica._update_process_group(dist.group.WORLD)  # type: ignore[no-untyped-call]
            self._learn_order(batch)
        if self.compressor is not None:
            hook = self.compressor.hook
            self._replica.register_comm_hook(None, lambda _, bucket: hook(bucket))

    def _learn_order(self, batch: Batch) -> None:
        self._keep_buffers()
        torch.autograd.backward(self.loss(batch))
        self.replica.reducer._rebuild_buckets()
        self.undo()

    @property
    def bucket_megabytes(self) -> int | None:
        """Gradients that travel together are at most so large. None: torch's default, 25 (the first one 1)."""
        if self.compressor is None or not self.compressor.one_bucket:
            return self.config.synchronization.bucket_megabytes
        return 1 + sum(p.numel() * p.element_size() for p in self.model.parameters()) // _MEGABYTE

    @override
    def join(self, group: Group) -> None:
        super().join(group)
        self.optimizer.zero_grad(set_to_none=True)
        self.replica._update_process_group(dist.group.WORLD)  # type: ignore[no-untyped-call]

    @override
    def step(self, batch: Batch) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        if self.compressor is not None:
            self.compressor.scale = self.precision.scale
        loss = self.backward(batch, batch.share.weight(self.group.world_size))
        taken = self.update()
        if self.compressor is not None:
            self.compressor.taken() if taken else self.compressor.undo()
        return loss

    @override
    def undo(self) -> None:
        super().undo()
        if self.compressor is not None:
            self.compressor.undo()

    @override
    def state(self) -> Mapping[str, Any]:
        return {**super().state(), **(self.compressor.state() if self.compressor is not None else {})}

    @override
    def load(self, state: Mapping[str, Any]) -> None:
        super().load(state)
        if self.compressor is not None:
            if self.precision.scale < self.compressor.scale:  # its peers have left out the step that it was in
                self.compressor.undo()
            self.compressor.load(state)

    @override
    def own(self) -> Mapping[str, Any]:
        return self.compressor.own() if self.compressor is not None else {}

    @override
    def load_own(self, parts: Sequence[Mapping[str, Any]]) -> None:
        if self.compressor is not None:
            self.compressor.load_own(parts, self.group.rank, self.group.world_size)

    @property
    def replica(self) -> DistributedDataParallel:
        """The model, as it trains together with the others'."""
        assert self._replica is not None, "rehearse first"
        return self._replica

    @property
    @override
    def forward_model(self) -> nn.Module:
        return self.replica

    @override
    def unsynchronised(self) -> AbstractContextManager[None]:
        return self.replica.no_sync()
