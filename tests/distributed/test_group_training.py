"""Real gloo groups: exact gradients, exact metrics, exactly-once data, whatever the number of ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file

from disttrain_contract.env import CheckpointConfig, EvaluationConfig, RunConfig
from disttrain_contract.messages import Checkpoint, Failure, Progress
from disttrain_runtime.sampler import SampleOrder
from support.gloo_ranks import Door, Ranks

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]

PLAIN = ("--samples=50", "--noise=0", "--dropout=0", "--norm=false")
TASK = RunConfig(entrypoint="support.gloo_tasks:build", checkpoint=CheckpointConfig(every_steps=10, asynchronous=False))


def run(tmp_path: Path, name: str, config: RunConfig, world: int, **more: object) -> Ranks:
    """Run a group to its good end."""
    with Ranks(tmp_path / f"{name}-logs", config, world, job_dir=tmp_path / name, **more) as ranks:  # type: ignore[arg-type]
        assert ranks.ended() == [0] * world, ranks.output(0)
        return ranks


def weights(tmp_path: Path, name: str, step: int) -> dict[str, torch.Tensor]:
    return load_file(tmp_path / name / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


def test_three_ranks_train_what_one_rank_trains_although_batches_do_not_divide(tmp_path: Path) -> None:
    """50 samples in batches of 16: the last one has 2, so that one of three ranks has nothing to do."""
    config = replace(TASK, args=(*PLAIN, "--steps=20"))
    run(tmp_path, "one", config, 1)
    run(tmp_path, "three", config, 3)
    one, three = weights(tmp_path, "one", 20), weights(tmp_path, "three", 20)
    for name, value in one.items():
        torch.testing.assert_close(three[name], value, rtol=2e-5, atol=2e-6)


def test_metrics_are_sums_over_all_ranks_and_not_averages_of_averages(tmp_path: Path) -> None:
    """41 samples over three ranks: 14, 14 and 13."""
    config = replace(TASK, args=(*PLAIN, "--steps=5"), evaluation=EvaluationConfig(every_steps=2))
    one = run(tmp_path, "one", config, 1).told.progress
    three = run(tmp_path, "three", config, 3).told.progress
    assert (three.step, three.total_steps, three.epoch) == (5, 5, 1)
    assert three.metrics["accuracy"] * 41 == pytest.approx(round(three.metrics["accuracy"] * 41))
    assert three.metrics["accuracy"] == one.metrics["accuracy"]
    assert three.metrics["evalLoss"] == pytest.approx(one.metrics["evalLoss"], rel=1e-5)
    assert three.loss == pytest.approx(one.loss, rel=1e-5)


def expected_ledger(samples: int, batch_size: int, steps: int) -> torch.Tensor:
    """Each sample of each step, once, by the rule that `build_ledger` documents."""
    order, seen = SampleOrder(seed=0, samples=samples, batch_size=batch_size), torch.zeros(samples)
    for step in range(steps):
        batch = order.global_batch(step)
        seen[list(batch)] += 1.0 / len(batch)
    return seen


def test_every_sample_counts_exactly_once_an_epoch_through_kills_and_other_world_sizes(tmp_path: Path) -> None:
    """The model's weights are the ledger. 44 samples, 6 steps an epoch, 3 epochs; killed in the middle of two of them."""
    ledger = RunConfig(
        entrypoint="support.gloo_tasks:build_ledger", checkpoint=CheckpointConfig(every_steps=2, asynchronous=False)
    )
    for incarnation, (world, at) in enumerate([(2, 7), (3, 5)], start=1):
        folder = tmp_path / str(incarnation)
        door = Door(folder, at)
        config = replace(ledger, args=(f"--doors={folder}", f"--at=[{at}]"))
        with Ranks(folder / "logs", config, world, job_dir=tmp_path / "job", incarnation=incarnation) as ranks:
            door.arrive()
            ranks.kill(1)
            codes = ranks.ended()
        assert codes[1] == -9
        assert codes[0] == 1
    last = run(tmp_path, "job", ledger, 1, incarnation=3)
    assert last.told.restores[0].step == 10, "7 → 6 committed; 6 + 5 = 11 → 10 committed"
    torch.testing.assert_close(weights(tmp_path, "job", 18)["seen"], expected_ledger(44, 8, 18), rtol=1e-5, atol=1e-5)


def test_loader_processes_fetch_the_very_same_batches(tmp_path: Path) -> None:
    """Noise is drawn while fetching: in this process or in another, the numbers are those of (seed, step, rank)."""
    for name, loaders in (("here", 0), ("ahead", 2)):
        run(tmp_path, name, replace(TASK, args=("--steps=12", f"--loaders={loaders}")), 2)
    here, ahead = weights(tmp_path, "here", 12), weights(tmp_path, "ahead", 12)
    assert all(torch.equal(here[name], ahead[name]) for name in here)


def test_an_exception_in_one_rank_blames_that_rank_and_nobody_else(tmp_path: Path) -> None:
    config = replace(TASK, args=("--stumbles=true", "--rank=1", "--at=[4]"))
    with Ranks(tmp_path / "logs", config, 3, job_dir=tmp_path / "job") as ranks:
        assert ranks.ended() == [1, 1, 1]
        culprit = ranks.told.failure(1)
        assert (culprit.failure_class, culprit.message, culprit.step) == (
            "CodeError",
            "ValueError: the loss stumbled",
            4,
        )
        assert "in stumble" in culprit.traceback
        assert {ranks.told.failure(rank).failure_class for rank in (0, 2)} == {"Network"}


def test_survivors_of_a_kill_say_that_the_network_failed_them(tmp_path: Path) -> None:
    door = Door(tmp_path, at=3)
    with Ranks(
        tmp_path / "logs",
        replace(TASK, args=(f"--doors={tmp_path}", "--rank=0", "--at=[3]")),
        3,
        job_dir=tmp_path / "job",
    ) as ranks:
        door.arrive()
        ranks.kill(0)
        assert ranks.ended() == [-9, 1, 1]
        assert {f.failure_class for f in ranks.told.of(Failure)} == {"Network"}


def test_progress_comes_at_once_and_at_the_end(tmp_path: Path) -> None:
    told = run(tmp_path, "job", replace(TASK, args=("--steps=25",)), 2).told
    steps = [p.step for p in told.of(Progress, rank=0)]
    assert (steps[0], steps[-1]) == (1, 25)
    assert not told.of(Progress, rank=1), "rank 0 speaks for all"
    assert [c.step for c in told.of(Checkpoint)] == [10, 20, 25]
