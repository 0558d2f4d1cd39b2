"""Ranks that share layers and divide sequences train what one process trains, and what cannot be divided is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from tests.strategies.test_pipeline import TASK, run, state
from torch import nn
from torch.distributed.tensor.parallel import SequenceParallel

from disttrain_contract.env import RunConfig
from disttrain_contract.messages import Holding, Restore
from disttrain_contract.strategy import Parallelism
from disttrain_runtime.errors import TaskError
from disttrain_runtime.strategies.sequence import cut_sequences, require_sequences, styles_of
from support.gloo_ranks import Door, Ranks, digests
from support.split_tasks import PLAN, Attention, Block

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]

WHOLE = replace(TASK, entrypoint="support.split_tasks:build_sequences")
RECOMPUTED = replace(WHOLE, strategy=replace(WHOLE.strategy, activation_checkpointing=True))
ACCUMULATED = replace(WHOLE, strategy=replace(WHOLE.strategy, accumulate=2))


def divided(config: RunConfig = WHOLE, **more: object) -> RunConfig:
    parallelism = Parallelism(tensor=2, sequence=True, **more)  # type: ignore[arg-type]
    return replace(config, strategy=replace(config.strategy, parallelism=parallelism))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    folder = tmp_path_factory.mktemp("alone")
    told = run(folder, "one", WHOLE, 1).told
    return state(folder, "one"), dict(told.progress.metrics)


@pytest.mark.parametrize(
    ("world", "config"),
    [
        (2, divided()),
        (4, divided(ACCUMULATED)),
        (2, divided(RECOMPUTED)),
        (4, divided(stages=2, microbatches=4)),
        (4, divided(stages=2, microbatches=4, schedule="zeroBubble")),
    ],
)
def test_it_trains_what_one_process_trains(
    tmp_path: Path, alone: tuple[dict[str, torch.Tensor], dict[str, float]], world: int, config: RunConfig
) -> None:
    """A transformer: alone, with two replicas, recomputed, and in stages; with clipping and uneven last batches."""
    told = run(tmp_path, "job", config, world).told
    weights, metrics = alone
    found = state(tmp_path, "job")
    assert list(found) == list(weights)
    for name, value in weights.items():
        torch.testing.assert_close(found[name], value, rtol=5e-4, atol=5e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert told.progress.metrics["accuracy"] == metrics["accuracy"]
    assert told.progress.metrics["evalLoss"] == pytest.approx(metrics["evalLoss"], rel=1e-4)


def test_a_death_costs_no_bit(tmp_path: Path) -> None:
    """The dead rank's part comes from the volume: its norms are whole there, as all else is."""
    door = Door(tmp_path, 7)
    chosen = divided()
    chosen = replace(chosen, args=(*chosen.args, f"--doors={tmp_path}", "--at=[7]"))
    with Ranks(tmp_path / "quiet-logs", chosen, 2, job_dir=tmp_path / "quiet") as quiet:
        door.arrive()
        door.open()
        assert quiet.ended() == [0, 0], quiet.output(0)
    with Ranks(tmp_path / "logs", chosen, 2, job_dir=tmp_path / "job", regroups=True) as ranks:
        door.arrive()
        ranks.kill(1)
        door.open()
        ranks.wait_for(lambda rank, body: rank == 0 and isinstance(body, Holding))
        ranks.regroup(incarnation=2)
        assert ranks.ended() == [0, 0], ranks.output(0)
    restored = ranks.told.of(Restore)[-1]
    assert 5 <= restored.step <= 7
    assert digests(tmp_path / "job", 12) == digests(tmp_path / "quiet", 12)


@pytest.mark.parametrize(
    ("entrypoint", "args", "says"),
    [
        ("build_sequences", ("--places=3",), "sequences of 3 places for 2 ranks"),
        ("build", ("--planned=true",), r"block '1' gets \(16, 16\)"),
    ],
)
def test_sequences_that_cannot_be_divided_are_named(
    tmp_path: Path, entrypoint: str, args: tuple[str, ...], says: str
) -> None:
    chosen = replace(divided(), entrypoint=f"support.split_tasks:{entrypoint}", args=(*TASK.args, *args))
    with Ranks(tmp_path / "logs", chosen, 2, job_dir=tmp_path / "job") as ranks:
        assert 64 in ranks.ended()
        said = ranks.told.failure(0).message
    assert says.replace("\\", "") in said


def test_one_activation_of_three_dimensions_is_divided() -> None:
    require_sequences("block", [torch.zeros(2, 6, 4)], 3)
    for given in ([torch.zeros(2, 6)], [torch.zeros(2, 6, 4), torch.zeros(1)], [], [None]):
        with pytest.raises(TaskError, match=r"shape \(batch, sequence, features\)"):
            require_sequences("block", given, 2)


def test_norms_are_computed_place_by_place_and_layers_that_are_cut_gather_and_scatter() -> None:
    plan = {f"3.{layer}": way for layer, way in (("query", "column"), ("key", "column"), ("out", "row"))}
    block = Attention(8)
    block.value = nn.Identity()
    styles = styles_of("3", block, plan, 2)
    assert {name: type(style).__name__ for name, style in styles.items()} == {
        "norm": "SequenceParallel",
        "query": "ColwiseParallel",
        "key": "ColwiseParallel",
        "out": "RowwiseParallel",
    }
    assert isinstance(styles["norm"], SequenceParallel)


class Scaled(Block):
    def __init__(self) -> None:
        super().__init__(8, 0.0)
        self.scale = nn.Parameter(torch.ones(8))


class Wide(Block):
    def __init__(self) -> None:
        super().__init__(8, 0.0)
        self.norm = nn.LayerNorm((6, 8))


@pytest.mark.parametrize(
    ("block", "plan", "says"),
    [
        (Attention(8), {"0.query": "column"}, "cannot tell what '0.value'"),
        (Scaled(), {"0.up": "column", "0.down": "row"}, r"cannot tell what '0' \(Scaled\)"),
        (Wide(), {"0.up": "column", "0.down": "row"}, "the features of one place only"),
        (nn.Linear(8, 8), {"0": "column"}, "itself an element of the chain"),
        (Block(7, 0.0), {"0.up": "column", "0.down": "row"}, "make them divide"),
        (nn.Sequential(nn.Embedding(8, 8)), {"0.0": "row"}, "an nn.Embedding"),
    ],
)
def test_what_a_block_may_not_hold_is_named(block: nn.Module, plan: dict[str, str], says: str) -> None:
    with pytest.raises(TaskError, match=says):
        styles_of("0", block, plan, 4)


def test_a_stage_without_cut_layers_stays_as_it_is() -> None:
    layer = nn.Linear(4, 4)
    cut_sequences([("0", layer)], PLAN, None)  # type: ignore[arg-type]
    assert not layer._forward_pre_hooks
