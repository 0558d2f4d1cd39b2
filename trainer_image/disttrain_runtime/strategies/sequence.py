"""Between the layers that are cut, each rank has its part of every sequence: torch's sequence parallel.

Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models". In tensor parallel norms, dropout and residual sums
are computed by every rank, on whole activations. Here each of T ranks keeps 1/T of the places of a sequence for them: a `column` layer gathers
the places, a `row` layer's sum is scattered over them. That is what an all-reduce does in two halves: the bytes are those of tensor
parallel, and two gathers at the ends of each run of blocks; the memory for these activations is 1/T. gloo makes an all-reduce of each
scatter: there it is half as much again.

A block is an element of the model's chain of layers that holds cut `nn.Linear` layers; blocks that follow each other make a run, and sequences are
divided where a run begins and put together where it ends. Activations are (batch, sequence, features). What a block does outside its
cut layers must do the same to each place: norms over features, dropout, activations, residual sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.distributed.tensor.parallel.style import ParallelStyle

from disttrain_runtime.errors import TaskError
from disttrain_runtime.strategies.parted import add_up

COLUMN, ROW = "column", "row"
PLACES = 1
"""The dimension of an activation that is divided."""
_NORMS = (nn.LayerNorm, nn.RMSNorm)


def cut_sequences(chain: Sequence[tuple[str, nn.Module]], plan: Mapping[str, str], mesh: DeviceMesh) -> None:
    """In place, as `tensor.cut_layers` does it for layers alone. `chain`: modules that feed each other, by name."""
    cut = [any(_inside(layer, name) for layer in plan) for name, _ in chain]
    if not any(cut):
        return
    for number, (name, block) in enumerate(chain):
        if not cut[number]:
            continue
        parallelize_module(block, mesh, styles_of(name, block, plan, mesh.size()), src_data_rank=None)
        if number == 0 or not cut[number - 1]:
            _begin_run(name, block, mesh)
        if number + 1 == len(chain) or not cut[number + 1]:
            _end_run(block, mesh)


def styles_of(name: str, block: nn.Module, plan: Mapping[str, str], ranks: int) -> dict[str, ParallelStyle]:
    """What becomes of each module of a block. Raises TaskError for what cannot be computed place by place."""
    found: dict[str, ParallelStyle] = {}
    for inner, module in block.named_modules():
        own = f"{name}.{inner}" if inner else name
        if own in plan:
            require_even(own, module, plan[own], ranks)
            _require_inner(inner, own, module)
            found[inner] = (
                ColwiseParallel(input_layouts=Shard(PLACES))
                if plan[own] == COLUMN
                else RowwiseParallel(output_layouts=Shard(PLACES))
            )
        elif isinstance(module, _NORMS):
            _require_features(own, module)
            if any(True for _ in module.parameters()):
                found[inner] = SequenceParallel(sequence_dim=PLACES, use_local_output=True)
        elif any(True for _ in module.parameters(recurse=False)):
            raise TaskError(
                f"Task: parallelism.sequence gives each rank a part of every sequence, and cannot tell what {own!r} "
                f"({type(module).__name__}) does with it: "
                "beside the layers of tensor_plan a block may hold nn.LayerNorm and nn.RMSNorm; name the layer in tensor_plan, "
                "or leave parallelism.sequence out"
            )
    return found


def complete(parameters: Iterable[nn.Parameter], group: dist.ProcessGroup) -> None:
    """A norm's gradient is here from this rank's places only: it becomes the sum over the ranks. A collective."""
    unfinished = [p for p in parameters if _is_partial(p.grad)]
    add_up(unfinished, group)
    for parameter in unfinished:
        assert isinstance(parameter, DTensor) and isinstance(parameter.grad, DTensor), "see _is_partial"
        whole = parameter.grad.to_local()
        parameter.grad = DTensor.from_local(whole, parameter.device_mesh, parameter.placements, run_check=False)


def require_even(name: str, layer: nn.Module, way: str, ranks: int) -> None:
    """Raises TaskError when the features of a layer of the plan do not divide."""
    if isinstance(layer, nn.Linear):
        features = layer.out_features if way == COLUMN else layer.in_features
    else:
        assert isinstance(layer, nn.Embedding), "no other layer is in a plan"
        features = layer.embedding_dim if way == COLUMN else layer.num_embeddings
    if features % ranks:
        raise TaskError(f"Task: layer {name!r} has {features} features to cut over {ranks} ranks: make them divide")


def _begin_run(name: str, block: nn.Module, mesh: DeviceMesh) -> None:
    """Divide what comes in; before that, see whether it can be."""
    divide = PrepareModuleInput(
        input_layouts=(Replicate(),), desired_input_layouts=(Shard(PLACES),), use_local_output=True
    )
    parallelize_module(block, mesh, divide, src_data_rank=None)

    def check(_: nn.Module, given: tuple[Any, ...]) -> None:
        require_sequences(name, given, mesh.size())

    block.register_forward_pre_hook(check, prepend=True)


def _end_run(block: nn.Module, mesh: DeviceMesh) -> None:
    """Put together what comes out. What DTensor gives is a view, and a stage of a pipeline must own its outputs."""
    gather = PrepareModuleOutput(output_layouts=Shard(PLACES), desired_output_layouts=Replicate())
    parallelize_module(block, mesh, gather, src_data_rank=None)
    block.register_forward_hook(lambda _, given, whole: whole.clone())


def require_sequences(name: str, given: Sequence[Any], ranks: int) -> None:
    """Raises TaskError unless a block gets one activation of sequences that divide."""
    if len(given) != 1 or not isinstance(given[0], Tensor) or given[0].dim() != 3:
        shapes = ", ".join(str(tuple(x.shape)) if isinstance(x, Tensor) else type(x).__name__ for x in given)
        raise TaskError(
            f"Task: parallelism.sequence divides one activation of shape (batch, sequence, features), but block {name!r} gets {shapes or 'none'}: "
            "leave parallelism.sequence out"
        )
    if given[0].shape[PLACES] % ranks:
        raise TaskError(
            f"Task: parallelism.sequence: block {name!r} gets sequences of {given[0].shape[PLACES]} places for {ranks} ranks: "
            "make them divide (pad in collate), or leave parallelism.sequence out"
        )


def _is_partial(gradient: Tensor | None) -> bool:
    return isinstance(gradient, DTensor) and any(placement.is_partial() for placement in gradient.placements)


def _inside(layer: str, block: str) -> bool:
    return layer == block or layer.startswith(f"{block}.")


def _require_inner(inner: str, name: str, module: nn.Module) -> None:
    if not inner or isinstance(module, nn.Embedding):
        raise TaskError(
            f"Task: parallelism.sequence cuts nn.Linear layers inside blocks, but {name!r} of tensor_plan is "
            f"{'an nn.Embedding' if isinstance(module, nn.Embedding) else 'itself an element of the chain of layers'}: "
            "put it into a block with its norm, take it out of tensor_plan, or leave parallelism.sequence out"
        )


def _require_features(name: str, norm: nn.Module) -> None:
    shape = norm.normalized_shape
    if not isinstance(shape, tuple) or len(shape) != 1:
        raise TaskError(
            f"Task: parallelism.sequence: norm {name!r} is over {shape}, and may be over the features of one place only"
        )
