"""Parameters, gradients and optimizer state are cut over the ranks that train on different samples: torch's FSDP2.

Rajbhandari et al. 2020, "ZeRO"; Zhao et al. 2023, "PyTorch FSDP". A block's parameters are gathered before it runs and dropped after;
its gradients are averaged and cut in one go. Bytes a rank sends each step, P parameters of b bytes, N ranks: 3 (N - 1) / N × P b
(gather forward, gather backward, scatter gradients), half as much again as all-reduce; memory for state falls by N. gloo has no
reduce-scatter (it makes an all-reduce of it, and the 3 a 4), so on CPUs the ranks exchange their parts and add them up here.
`hybrid` cuts inside a worker and keeps whole copies between workers, so that only 1 / n of the gradients leaves a worker of n ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from typing_extensions import override

from disttrain_runtime.data import Batch
from disttrain_runtime.errors import EntrypointError
from disttrain_runtime.groups import Group
from disttrain_runtime.strategies.blocks import blocks_of, recompute
from disttrain_runtime.strategies.microbatch import Microbatch
from disttrain_runtime.strategies.parted import Parted
from disttrain_runtime.strategies.reduce_scatter import ExchangeAndAdd

_COPIES, _CUT = "copies", "cut"


class FullyShard(Parted):
    """`shard: full` or `hybrid`."""

    @override
    def join(self, group: Group) -> None:
        super().join(group)
        device, shape = group.device.type, (group.world_size // self.parts, self.parts)
        if shape[0] == 1:
            self._mesh: DeviceMesh = init_device_mesh(device, shape[1:], mesh_dim_names=(_CUT,))
        else:
            self._mesh = init_device_mesh(device, shape, mesh_dim_names=(_COPIES, _CUT))

    @property
    @override
    def parts(self) -> int:
        return self.group.world_size if self.config.parallelism.shard == "full" else _inside(self.group)

    @override
    def part(self, model: nn.Module) -> nn.Module:
        """Blocks one by one, then what is left of the model."""
        model.to(self.device)
        blocks = [block for block in blocks_of(model) if block is not model]
        if self.config.activation_checkpointing:
            recompute(blocks or [model])
        scatter = ExchangeAndAdd() if self.device.type == "cpu" else None
        for block in (*blocks, model):
            cut = fully_shard(block, mesh=self._mesh, reshard_after_forward=True)
            if scatter is not None:
                cut.set_custom_reduce_scatter(scatter)
        return model

    @override
    def cut_axis(self) -> dist.ProcessGroup:
        return self._mesh.get_group(_CUT)

    @override
    def step(self, batch: Batch) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.backward(batch, batch.share.weight(self.group.world_size))
        self.update()
        return loss

    @override
    def passes(self, batch: Batch) -> Sequence[Microbatch]:
        """As many on every rank, as each pass is a collective: who has too few samples repeats some, with weight zero."""
        count = self.config.accumulate
        found = list(super().passes(batch))
        found += [replace(found[0], part=0.0)] * (count - len(found))
        return [replace(micro, last=number == count - 1) for number, micro in enumerate(found)]

    @override
    def unsynchronised(self) -> AbstractContextManager[None]:
        """Gradients of these microbatches stay whole, on every rank."""
        return self._adding_up()

    @contextmanager
    def _adding_up(self) -> Iterator[None]:
        model = self.model
        assert isinstance(model, FSDPModule), "fully_shard makes it one"
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)

    @override
    def evaluation_model(self) -> nn.Module:
        """Buffers are each rank's own; rank 0's count. The forward pass gathers the rest."""
        self.group.equalise(self.model.buffers())
        return self.model


def _inside(group: Group) -> int:
    """Ranks of one worker."""
    if group.per_worker < 2 or group.world_size % group.per_worker:
        raise EntrypointError(
            f"strategy.parallelism.shard hybrid cuts the model over the ranks of a worker, "
            f"but a worker has {group.per_worker} of {group.world_size}: "
            f"set processesPerWorker to 2 or more, or shard: full"
        )
    return group.per_worker
