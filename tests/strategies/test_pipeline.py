"""A model cut into stages trains what one process trains, in every schedule, from any cut into any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file

from disttrain_contract.env import CheckpointConfig, EvaluationConfig, RunConfig
from disttrain_contract.messages import Progress
from disttrain_contract.strategy import Parallelism, StrategyConfig
from support.gloo_ranks import Door, Ranks, digests

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]

STEPS = 12
TASK = RunConfig(
    entrypoint="support.split_tasks:build",
    args=(f"--steps={STEPS}",),
    checkpoint=CheckpointConfig(every_steps=5, asynchronous=False),
    strategy=StrategyConfig(max_grad_norm=0.5),
    evaluation=EvaluationConfig(every_steps=4),
)


def piped(
    stages: int, schedule: str = "1f1b", microbatches: int = 4, config: RunConfig = TASK, **more: Any
) -> RunConfig:
    parallelism = Parallelism(stages=stages, schedule=schedule, microbatches=microbatches, **more)
    return replace(config, strategy=replace(config.strategy, parallelism=parallelism))


def run(folder: Path, name: str, config: RunConfig, world: int, **more: Any) -> Ranks:
    with Ranks(folder / f"{name}-logs", config, world, job_dir=folder / name, **more) as ranks:
        assert ranks.ended() == [0] * world, "\n".join(ranks.output(r) for r in range(world))
        return ranks


def state(folder: Path, name: str, step: int = STEPS) -> dict[str, torch.Tensor]:
    at = folder / name / "checkpoints" / f"step-{step:08d}"
    return {
        f"{file}:{k}": v for file in ("model", "optimizer") for k, v in load_file(at / f"{file}.safetensors").items()
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], dict[str, float], float]:
    """What one process with the whole model comes to."""
    folder = tmp_path_factory.mktemp("alone")
    told = run(folder, "one", TASK, 1).told
    return state(folder, "one"), dict(told.progress.metrics), told.of(Progress)[0].loss


@pytest.mark.parametrize(
    ("world", "stages", "schedule"),
    [
        (2, 2, "gpipe"),
        (3, 3, "1f1b"),
        (4, 2, "1f1b"),
        (2, 2, "interleaved1f1b"),
        (2, 2, "zeroBubble"),
        (4, 2, "zeroBubble"),
    ],
)
def test_every_schedule_trains_what_one_process_trains(
    tmp_path: Path,
    alone: tuple[dict[str, torch.Tensor], dict[str, float], float],
    world: int,
    stages: int,
    schedule: str,
) -> None:
    """Also with two replicas, a last batch of 5 samples in 4 microbatches, and clipping over all stages."""
    told = run(tmp_path, "job", piped(stages, schedule), world).told
    weights, metrics, loss = alone
    found = state(tmp_path, "job")
    assert list(found) == list(weights)
    for name, value in weights.items():
        torch.testing.assert_close(found[name], value, rtol=5e-4, atol=5e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert told.progress.metrics["accuracy"] == metrics["accuracy"]
    assert told.progress.metrics["evalLoss"] == pytest.approx(metrics["evalLoss"], rel=1e-4)
    assert told.of(Progress)[0].loss == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("victim", [0, 3])
def test_a_killed_stage_of_two_replicas_costs_no_step_and_no_bit(tmp_path: Path, victim: int) -> None:
    """The other replica has its layers. Also when rank 0 dies, whose successor would cut elsewhere. With dropout and recomputation."""
    config = piped(2, config=replace(TASK, args=(*TASK.args, "--dropout=0.2")))
    config = replace(config, strategy=replace(config.strategy, activation_checkpointing=True))
    run(tmp_path, "quiet", config, 4)
    door = Door(tmp_path, 8 * 4)  # the loss is asked for once in a microbatch, on the last stage only
    config = replace(config, args=(*config.args, f"--doors={tmp_path}", f"--at=[{8 * 4}]", "--rank=1"))
    with Ranks(tmp_path / "logs", config, 4, job_dir=tmp_path / "job", regroups=True) as ranks:
        pid = ranks.processes[2].pid
        door.arrive()
        ranks.kill(victim)
        door.open()
        ranks.regroup(incarnation=2)
        assert ranks.ended() == [0] * 4, "\n".join(ranks.output(r) for r in range(4))
        assert ranks.processes[2].pid == pid
    assert [(r.step, r.source) for r in ranks.told.restores] == [(0, "none"), (8, "survivor")]
    assert digests(tmp_path / "job", STEPS) == digests(tmp_path / "quiet", STEPS)


def test_without_a_checkpoint_or_copies_survivors_begin_again_at_the_very_beginning(tmp_path: Path) -> None:
    """What they have trained is no part of it."""
    config = piped(2, config=replace(TASK, buddy_every_steps=0))
    run(tmp_path, "quiet", config, 2)
    door = Door(tmp_path, 3 * 4)
    config = replace(config, args=(*config.args, f"--doors={tmp_path}", f"--at=[{3 * 4}]", "--rank=1"))
    with Ranks(tmp_path / "logs", config, 2, job_dir=tmp_path / "job", regroups=True) as ranks:
        door.arrive()
        ranks.kill(1)
        door.open()
        ranks.regroup(incarnation=2)
        door.arrive()  # the new rank 1, too
        door.open()
        assert ranks.ended() == [0] * 2, ranks.output(0) + ranks.output(1)
    assert digests(tmp_path / "job", STEPS) == digests(tmp_path / "quiet", STEPS)


def test_a_checkpoint_goes_from_one_cut_into_another_and_into_no_cut_at_all(
    tmp_path: Path, alone: tuple[dict[str, torch.Tensor], dict[str, float], float]
) -> None:
    """One process, then two stages cut unevenly by name, then an interleaved pipeline, then two plain replicas."""
    ways = [
        (1, TASK), (2, piped(2, split=("5",))), (2, piped(2, "interleaved1f1b")), (2, TASK),
    ]  # fmt: skip
    for incarnation, (world, config) in enumerate(ways, start=1):
        steps = 3 * incarnation
        stop = replace(config, args=(*config.args, f"--until={steps}"))
        told = run(tmp_path, "job", stop, world, incarnation=incarnation).told
        restore = told.restores[-1]
        assert (restore.step, restore.source) == (steps - 3, "volume" if incarnation > 1 else "none")
    found = state(tmp_path, "job")
    for name, value in alone[0].items():
        torch.testing.assert_close(found[name], value, rtol=5e-4, atol=5e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_half_precision_passes_between_stages(tmp_path: Path) -> None:
    config = piped(2)
    told = run(tmp_path, "job", replace(config, strategy=replace(config.strategy, precision="bf16")), 2).told
    assert told.progress.metrics["accuracy"] > 0.8


@pytest.mark.parametrize(
    ("config", "world", "says"),
    [
        (piped(2), 3, "tensor 1 × pipeline.stages 2 = 2 does not divide the world size 3"),
        (piped(4, "interleaved1f1b"), 4, "wants 8 runs of layers, but the model has 6 layers"),
        (piped(2, split=("9",)), 2, "split names '9', but the model's layers are: 0, 1, 2, 3, 4, 5"),
        (piped(2, config=replace(TASK, entrypoint="support.gloo_tasks:build", args=("--samples=50",))), 2, "batch normalisation in a pipeline"),
        (piped(2, config=replace(TASK, entrypoint="support.gloo_tasks:build_ledger", args=())), 2, "the model is a Ledger"),
    ],
)  # fmt: skip
def test_what_cannot_be_cut_is_said_by_every_rank(tmp_path: Path, config: RunConfig, world: int, says: str) -> None:
    config = replace(config, strategy=replace(config.strategy, max_grad_norm=None))
    with Ranks(tmp_path / "logs", config, world, job_dir=tmp_path / "job") as ranks:
        ranks.ended()
        assert all(says in ranks.told.failure(rank).message for rank in range(world)), ranks.output(0)


def test_a_mistake_in_a_layer_is_told_as_it_is(tmp_path: Path) -> None:
    """And not as the stage's, in whose words torch wraps it."""
    config = piped(2, split=("4",), config=replace(TASK, args=(*TASK.args, "--stumbles=true")))
    with Ranks(tmp_path / "logs", config, 2, job_dir=tmp_path / "job") as ranks:
        ranks.ended()
        failure = ranks.told.failure(1)
    assert failure.message == "ValueError: the layer stumbled" and "in forward" in failure.traceback
