"""Any grid of ranks trains what one process trains: data × pipeline × tensor or shard, whatever else is chosen with it."""

from __future__ import annotations

import os
from functools import cache

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor

from disttrain_contract.strategy import Parallelism, StrategyConfig
from disttrain_runtime.pipeline.balance import CHUNKS
from support.gloo_group import together
from support.mesh_stories import Way, drawn, one_process, trained

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]

SEED = os.environ.get("DISTTRAIN_MESHES_SEED", "20261141")
TIMES = int(os.environ.get("DISTTRAIN_MESHES", "1"))
"""`make explore-meshes` draws others, and more of them."""
SAMPLE = [way for world, count in ((2, 6), (3, 6), (4, 10)) for way in drawn(world, count * TIMES, SEED)]


def stages(count: int, schedule: str, microbatches: int, **more: object) -> StrategyConfig:
    cut = Parallelism(stages=count, schedule=schedule, microbatches=microbatches, **more)  # type: ignore[arg-type]
    return StrategyConfig(parallelism=cut, max_grad_norm=0.5)


CHOSEN = [
    Way(8, stages(2, "1f1b", 4, tensor=2)),
    Way(4, stages(2, "interleaved1f1b", 4)),
    Way(4, stages(2, "zeroBubble", 3, tensor=2)),
    Way(4, StrategyConfig(parallelism=Parallelism(tensor=2), accumulate=3, max_grad_norm=0.5), samples=33, batch_size=16),
]  # fmt: skip


@pytest.mark.parametrize("way", [*CHOSEN, *SAMPLE], ids=lambda way: f"{way.world}-{way}")
def test_it_trains_what_one_process_trains(way: Way) -> None:
    """Within what the order of additions changes in seven steps of AdamW: the tolerance of the strategies' own tests."""
    found, *others = together(way.world, trained, way)
    assert others == [None] * (way.world - 1), "a whole model is rank 0's alone"
    expected = reference(way.samples, way.batch_size, way.sequences, way.config.max_grad_norm)
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(
            torch.tensor(found[name]), value, rtol=5e-4, atol=5e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@cache
def reference(samples: int, batch_size: int, sequences: bool, limit: float | None) -> dict[str, Tensor]:
    config = StrategyConfig(max_grad_norm=limit)
    return one_process(Way(1, config, samples, batch_size, sequences=sequences))


def test_the_sample_has_something_of_everything() -> None:
    """Or a change of what is drawn would quietly leave a whole axis out."""
    cuts = [way.config.parallelism for way in SAMPLE]
    assert {cut.schedule for cut in cuts if cut.stages > 1} == set(CHUNKS)
    assert {cut.stages for cut in cuts} == {cut.tensor for cut in cuts} == {1, 2, 3, 4}
    assert {cut.shard for cut in cuts} == {"none", "full", "hybrid"}
    assert {bool(cut.split) for cut in cuts if cut.stages > 1} == {True, False} == {cut.sequence for cut in cuts}
    assert any(cut.microbatches is None for cut in cuts if cut.stages > 1)
    assert {way.config.accumulate for way in SAMPLE} == {1, 2, 3}
    assert {(way.samples, way.batch_size) for way in SAMPLE} == {(29, 8), (33, 16), (22, 10), (24, 8)}
    assert any(cut.stages > 1 and way.world > cut.stages * cut.tensor for way, cut in zip(SAMPLE, cuts, strict=True))
