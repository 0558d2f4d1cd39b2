"""Loss scaling where no rank has the whole model: a step that overflows in one part is left out by all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from tests.strategies.test_pipeline import STEPS, TASK, run

from disttrain_contract.strategy import Parallelism, StrategyConfig
from disttrain_runtime.precision import KEY, Precision
from support.gloo_group import together
from support.gloo_ranks import digests
from support.mesh_stories import Way, overflowing, trained

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]


def half(world: int, per_worker: int = 1, limit: float | None = None, **cut: object) -> Way:
    parallelism = Parallelism(**cut)  # type: ignore[arg-type]
    config = StrategyConfig(parallelism=parallelism, precision="fp16", max_grad_norm=limit)
    return Way(world, config, per_worker=per_worker)


WAYS = {
    "pipeline": half(2, stages=2, microbatches=4),
    "zero bubble": half(2, stages=2, microbatches=4, schedule="zeroBubble"),
    "tensor": half(2, tensor=2),
    "clipped": half(2, limit=0.3, stages=2, microbatches=4),
    "shard": half(2, shard="full"),
    "hybrid": half(4, per_worker=2, shard="hybrid"),
    "pipeline and tensor": half(4, stages=2, microbatches=2, tensor=2),
}


@pytest.mark.parametrize("name", WAYS)
def test_it_trains_what_one_process_trains_with_fp16(name: str) -> None:
    """Gradients are scaled once, and are their true size when they are clipped and when the step is taken: a plain SGD step
    grows with them. fp16 has three digits, and weights move by a tenth or more."""
    way = WAYS[name]
    found, *_ = together(way.world, trained, way)
    alone, *_ = together(
        1, trained, replace(way, world=1, per_worker=1, config=replace(way.config, parallelism=Parallelism()))
    )
    for weight, value in alone.items():
        torch.testing.assert_close(torch.tensor(found[weight]), torch.tensor(value), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["pipeline", "tensor", "shard", "pipeline and tensor"])
def test_an_overflow_in_one_part_leaves_the_step_out_on_all_ranks_and_the_scale_goes_with_the_state(name: str) -> None:
    way = WAYS[name]
    for scales, stayed, moved in together(way.world, overflowing, way, way.world - 1):
        before, once, twice, recalled = scales
        assert (once, twice, recalled) == (before / 2, before / 4, before / 2)
        assert stayed and moved


def test_the_scale_grows_again_as_it_does_where_a_rank_has_the_whole_model() -> None:
    """The same numbers as torch's own scaler, through an overflow and 2,000 quiet steps."""
    ours, torchs = (Precision("fp16", torch.device("cpu")) for _ in range(2))
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    for step in range(2003):
        factor = float("inf") if step == 1 else 1.0
        optimizer.zero_grad()
        torchs.scaled(weight.sum() * factor).backward()
        gradient = weight.grad.clone()  # type: ignore[union-attr]
        torchs.update(optimizer, None, [weight])
        ours.settle(overflowed=not ours.true_gradients([gradient]))
        assert ours.scale == torchs.scale, step
    assert ours.state()[KEY] == torchs.state()[KEY]
    assert ours.scale == 2.0**16


def test_a_checkpoint_holds_the_scale(tmp_path: Path) -> None:
    """With the number of quiet steps behind it: forgotten, the last checkpoint would count two and not twelve."""
    config = replace(TASK, strategy=WAYS["shard"].config)
    run(tmp_path, "quiet", config, 2)
    for incarnation, until in enumerate((10, STEPS), start=1):
        stop = replace(config, args=(*config.args, f"--until={until}"))
        run(tmp_path, "job", stop, 2, incarnation=incarnation)
    assert digests(tmp_path / "job", STEPS) == digests(tmp_path / "quiet", STEPS)
