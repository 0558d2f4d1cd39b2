"""DP-SGD in real groups: the sum that one process would compute, the noise that was promised, and an account that is right."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("opacus")

import torch
from opacus.accountants import RDPAccountant
from safetensors.torch import load_file

from disttrain_contract.env import CheckpointConfig, EvaluationConfig, RunConfig
from disttrain_contract.messages import Progress, Restore
from disttrain_contract.strategy import Privacy, StrategyConfig
from disttrain_runtime.errors import EntrypointError
from disttrain_runtime.generators import reseed
from disttrain_runtime.privacy import Span, noise_seed, poisson
from disttrain_runtime.privacy_ledger import Book, decode
from disttrain_runtime.randomness import Stream
from disttrain_runtime.strategies import make_strategy
from support.gloo_ranks import Door, Ranks, digests
from support.gloo_tasks import build

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]

STEPS, SAMPLES, BATCH = 12, 60, 10
PRIVACY = Privacy(noise_multiplier=1.1, max_grad_norm=0.5, delta=1e-3)
PLAIN = (
    f"--steps={STEPS}",
    f"--samples={SAMPLES}",
    f"--batch-size={BATCH}",
    "--noise=0",
    "--dropout=0",
    "--norm=false",
)
TASK = RunConfig(
    entrypoint="support.gloo_tasks:build",
    args=PLAIN,
    strategy=StrategyConfig(privacy=PRIVACY),
    checkpoint=CheckpointConfig(every_steps=5, asynchronous=False),
)


def volume(folder: Path, name: str) -> Path:
    """A job directory whose secret is known, so that two runs can be compared."""
    (folder / name).mkdir()
    (folder / name / "privacy.json").write_bytes(Book(b"s" * 32).encode())
    return folder / name


def run(folder: Path, job_dir: Path, config: RunConfig = TASK, world: int = 2, incarnation: int = 1) -> Ranks:
    logs = folder / f"logs-{job_dir.name}-{incarnation}"
    with Ranks(logs, config, world, job_dir=job_dir, incarnation=incarnation) as ranks:
        assert ranks.ended() == [0] * world, ranks.output(0)
        return ranks


def book(job_dir: Path) -> Book:
    return decode((job_dir / "privacy.json").read_bytes())


def opacus_says(steps: int, privacy: Privacy = PRIVACY, rate: float = BATCH / SAMPLES) -> float:
    accountant = RDPAccountant()
    for _ in range(steps):
        accountant.step(noise_multiplier=privacy.noise_multiplier, sample_rate=rate)
    return float(accountant.get_epsilon(delta=privacy.delta))


def one_process(secret: bytes, span: Span) -> dict[str, torch.Tensor]:
    """The formula, sample by sample."""
    reseed(0, Stream.BUILD, 0, 0)
    task = build(steps=STEPS, samples=SAMPLES, batch_size=BATCH, noise=0, dropout=0, norm=False)
    parameters = list(task.model.parameters())
    optimizer = task.optimizer(parameters)
    assert task.schedule is not None
    schedule = task.schedule(optimizer)
    for step in range(STEPS):
        sums = [torch.zeros_like(p) for p in parameters]
        for index in poisson(secret, span, step, SAMPLES):
            inputs, target = task.train_data[index]
            gradients = torch.autograd.grad(task.loss(task.model(inputs[None]), target[None]), parameters)
            norm = torch.sqrt(sum(g.square().sum() for g in gradients))  # type: ignore[arg-type]
            factor = min(1.0, PRIVACY.max_grad_norm / (float(norm) + 1e-6))
            for total, gradient in zip(sums, gradients, strict=True):
                total += gradient * factor
        generator = torch.Generator().manual_seed(noise_seed(secret, span, step))
        for parameter, total in zip(parameters, sums, strict=True):
            std = PRIVACY.noise_multiplier * PRIVACY.max_grad_norm
            parameter.grad = (total + torch.normal(0.0, std, total.shape, generator=generator)) / BATCH
        optimizer.step()
        schedule.step()
    return dict(task.model.state_dict())


@pytest.mark.parametrize(("world", "accumulate"), [(2, 2), (3, 3), (4, 1)])
def test_any_number_of_ranks_trains_what_the_formula_says_sample_by_sample(
    tmp_path: Path, world: int, accumulate: int
) -> None:
    """Batches are drawn by chance: of any size, so that ranks may go without."""
    config = replace(TASK, strategy=StrategyConfig(privacy=PRIVACY, accumulate=accumulate))
    told = run(tmp_path, volume(tmp_path, "job"), config, world=world).told
    (span,) = book(tmp_path / "job").spans
    assert (span.world_size, span.first, span.end) == (world, 0, STEPS)
    expected = one_process(b"s" * 32, span)
    found = load_file(tmp_path / "job" / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=2e-5, atol=2e-6)
    assert told.progress.metrics["epsilon"] == pytest.approx(opacus_says(STEPS), rel=1e-9)
    assert told.progress.loss is None, "the loss on training data is not covered by epsilon, so nobody is told"
    assert '"loss"' not in (tmp_path / "job" / "metrics.jsonl").read_text()


def test_recomputed_layers_are_refused_because_each_sample_would_be_seen_twice() -> None:
    with pytest.raises(EntrypointError, match="opacus would see each layer run twice"):
        make_strategy(
            StrategyConfig(privacy=PRIVACY, activation_checkpointing=True), build(norm=False), torch.device("cpu")
        )


def test_a_death_in_the_middle_changes_neither_the_model_nor_what_is_spent(tmp_path: Path) -> None:
    """The step that was broken off is run again with the same sample and the same noise: one release."""
    door = Door(tmp_path, 7)
    config = replace(TASK, args=(*PLAIN, f"--doors={tmp_path}", "--at=[7]"))
    with Ranks(tmp_path / "quiet-logs", config, 2, job_dir=volume(tmp_path, "quiet")) as quiet:
        door.arrive()
        door.open()
        assert quiet.ended() == [0, 0], quiet.output(0)
    with Ranks(tmp_path / "logs", config, 2, job_dir=volume(tmp_path, "job"), regroups=True) as ranks:
        door.arrive()
        ranks.kill(1)
        door.open()
        ranks.regroup(incarnation=2)
        assert ranks.ended() == [0, 0], ranks.output(0)
    assert ranks.told.of(Restore)[-1] == Restore(step=7, source="survivor")
    assert digests(tmp_path / "job", STEPS) == digests(tmp_path / "quiet", STEPS)
    assert book(tmp_path / "job") == book(tmp_path / "quiet")
    assert ranks.told.progress.metrics["epsilon"] == pytest.approx(opacus_says(STEPS), rel=1e-9)


def test_restored_from_the_volume_it_ends_with_the_same_bits_and_never_says_less_than_before(tmp_path: Path) -> None:
    door = Door(tmp_path, 8)
    config = replace(TASK, args=(*PLAIN, f"--doors={tmp_path}", "--at=[8]"))
    run_through(tmp_path, config, door, "quiet", None)
    run_through(tmp_path, config, door, "job", signal.SIGKILL)
    assert book(tmp_path / "job").spans[0].end == 9, "what began is written down, finished or not"
    told = run(tmp_path, tmp_path / "job", config, incarnation=2).told
    assert told.restores[0].step == 5
    first = told.of(Progress)[0]
    assert first.step < 9
    assert first.metrics["epsilon"] == pytest.approx(opacus_says(9), rel=1e-9), (
        "steps 6 to 9 were run, whoever forgot them"
    )
    assert told.progress.metrics["epsilon"] == pytest.approx(opacus_says(STEPS), rel=1e-9)
    assert digests(tmp_path / "job", STEPS) == digests(tmp_path / "quiet", STEPS)


def run_through(folder: Path, config: RunConfig, door: Door, name: str, number: int | None) -> None:
    """Stop before the door; go on, or die."""
    with Ranks(folder / f"{name}-logs", config, 2, job_dir=volume(folder, name)) as ranks:
        door.arrive()
        if number is not None:
            ranks.kill(1, number)
        door.open()
        ranks.ended()


def test_steps_that_are_run_again_by_another_number_of_ranks_are_spent_twice(tmp_path: Path) -> None:
    """Other ranks draw other random numbers, so it is another release: sample and noise are its own, and both count."""
    door = Door(tmp_path, 8)
    config = replace(TASK, args=(*PLAIN, f"--doors={tmp_path}", "--at=[8]"))
    run_through(tmp_path, config, door, "job", signal.SIGKILL)
    told = run(tmp_path, tmp_path / "job", config, world=1, incarnation=2).told
    assert [(s.world_size, s.first, s.end) for s in book(tmp_path / "job").spans] == [(1, 5, STEPS), (2, 0, 9)]
    assert told.progress.metrics["epsilon"] == pytest.approx(opacus_says(9 + STEPS - 5), rel=1e-9)


def test_it_ends_well_before_the_target_is_passed(tmp_path: Path) -> None:
    target = opacus_says(8) * 1.0001
    config = replace(TASK, strategy=StrategyConfig(privacy=replace(PRIVACY, target_epsilon=target)))
    told = run(tmp_path, volume(tmp_path, "job"), config).told
    assert told.progress.step == told.progress.total_steps == 8
    assert told.progress.metrics["epsilon"] == pytest.approx(opacus_says(8), rel=1e-9)
    assert told.progress.ended is not None
    assert told.progress.ended.reason == "TargetEpsilonReached"
    assert told.checkpoints[-1].step == 8
    again = run(tmp_path, tmp_path / "job", config, incarnation=2).told
    assert (again.restores[0].step, again.progress.step, again.checkpoints) == (8, 8, [])


@pytest.mark.parametrize(
    ("args", "job_dir", "says"),
    [
        (PLAIN[:-1], True, "BatchNorm cannot support training with differential privacy"),
        ((*PLAIN, "--batch-size=70"), True, "choose a smaller batch_size"),
        (PLAIN, False, "needs a checkpoint volume"),
    ],
)
def test_what_cannot_be_private_is_refused(tmp_path: Path, args: tuple[str, ...], job_dir: bool, says: str) -> None:
    config = replace(TASK, args=args, checkpoint=CheckpointConfig())
    with Ranks(tmp_path / "logs", config, 1, job_dir=tmp_path / "job" if job_dir else None) as ranks:
        assert ranks.ended() == [64]
    assert says in ranks.told.failure(0).message


def test_a_model_that_was_trained_without_privacy_cannot_become_private(tmp_path: Path) -> None:
    run(tmp_path, tmp_path / "job", replace(TASK, strategy=StrategyConfig(), args=(*PLAIN, "--steps=5")), world=1)
    with Ranks(tmp_path / "logs", TASK, 1, job_dir=tmp_path / "job", incarnation=2) as ranks:
        assert ranks.ended() == [64]
    assert "cannot go on from one without" in ranks.told.failure(0).message


def test_who_was_in_the_data_can_be_told_from_a_plain_model_and_not_from_a_private_one(tmp_path: Path) -> None:
    """Yeom et al. 2018: guess that a sample was trained on when its loss is below the average. Labels are coin flips, so a model
    can know those of its samples only by heart. The advantage of the guess is the rate of hits minus that of false alarms: 0.5 for
    a perfect memory, because half of the other labels are right by chance."""
    args = ("--steps=150",)
    config = replace(TASK, entrypoint="support.private_tasks:build", args=args, evaluation=EvaluationConfig())
    plain = replace(config, strategy=StrategyConfig())
    private = replace(config, strategy=StrategyConfig(privacy=replace(PRIVACY, noise_multiplier=4.0)))
    advantage: dict[str, float] = {}
    for name, each in {"plain": plain, "private": private}.items():
        run(tmp_path, volume(tmp_path, name), each, world=2)
        advantage[name] = attack(load_file(tmp_path / name / "checkpoints" / "step-00000150" / "model.safetensors"))
    assert advantage["plain"] > 0.4
    assert advantage["private"] < 0.15


def attack(weights: dict[str, torch.Tensor]) -> float:
    from support.private_tasks import coins, model

    attacked = model()
    attacked.load_state_dict(weights)

    def losses(members: bool) -> torch.Tensor:
        points, labels = coins(members)
        with torch.no_grad():
            return torch.nn.functional.cross_entropy(attacked(points), labels, reduction="none")

    inside, outside = losses(True), losses(False)
    threshold = torch.cat([inside, outside]).mean()
    return float((inside < threshold).double().mean() - (outside < threshold).double().mean())
