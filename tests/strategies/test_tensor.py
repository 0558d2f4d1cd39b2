"""Layers that several ranks compute together train what one process trains, alone and inside a pipeline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from tests.strategies.test_pipeline import TASK, run, state
from torch import nn

from disttrain_contract.env import RunConfig
from disttrain_contract.strategy import Parallelism
from disttrain_runtime.errors import TaskError
from disttrain_runtime.strategies.tensor import plan_of

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]

PLANNED = replace(TASK, args=(*TASK.args, "--planned=true"))
RECOMPUTED = replace(PLANNED, strategy=replace(TASK.strategy, activation_checkpointing=True))


def shared(tensor: int = 2, config: RunConfig = PLANNED, **more: object) -> RunConfig:
    parallelism = Parallelism(tensor=tensor, **more)  # type: ignore[arg-type]
    return replace(config, strategy=replace(config.strategy, parallelism=parallelism))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    folder = tmp_path_factory.mktemp("alone")
    told = run(folder, "one", TASK, 1).told
    return state(folder, "one"), dict(told.progress.metrics)


@pytest.mark.parametrize(
    ("world", "config"),
    [(2, shared()), (4, shared()), (4, shared(stages=2, microbatches=4)), (2, shared(config=RECOMPUTED))],
)
def test_it_trains_what_one_process_trains(
    tmp_path: Path, alone: tuple[dict[str, torch.Tensor], dict[str, float]], world: int, config: RunConfig
) -> None:
    """Alone, with two replicas, and in two stages; with clipping and uneven last batches."""
    told = run(tmp_path, "job", config, world).told
    weights, metrics = alone
    found = state(tmp_path, "job")
    assert list(found) == list(weights)
    for name, value in weights.items():
        torch.testing.assert_close(found[name], value, rtol=5e-4, atol=5e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert told.progress.metrics["accuracy"] == metrics["accuracy"]
    assert told.progress.metrics["evalLoss"] == pytest.approx(metrics["evalLoss"], rel=1e-4)


def test_pairs_of_layers_are_found_where_only_activations_are_between() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    assert plan_of(model, {}) == {"0": "column", "3": "row"}


def test_a_plan_names_layers_by_pattern() -> None:
    model = nn.ModuleDict({f"block{i}": nn.ModuleDict({"up": nn.Linear(4, 8)}) for i in range(2)})
    assert plan_of(model, {"block*.up": "column"}) == {"block0.up": "column", "block1.up": "column"}
    with pytest.raises(TaskError, match=r"no nn.Linear or nn.Embedding is called so"):
        plan_of(model, {"down": "row"})


def test_a_model_in_which_nothing_would_be_cut_is_an_error() -> None:
    with pytest.raises(TaskError, match="finds no pair"):
        plan_of(nn.Sequential(nn.Linear(4, 8)), {})
