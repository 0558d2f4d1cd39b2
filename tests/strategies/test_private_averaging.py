"""Models that are averaged with noise: the formula, the noise that was promised, and an account that is right."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("opacus")

import torch
from opacus.accountants import RDPAccountant
from safetensors.torch import load_file

from disttrain_contract.env import CheckpointConfig, RunConfig
from disttrain_contract.messages import Failure, Progress, Restore
from disttrain_contract.strategy import Privacy, StrategyConfig, Synchronization
from disttrain_runtime.errors import NonFiniteError
from disttrain_runtime.generators import reseed
from disttrain_runtime.privacy import Span, noise_seed
from disttrain_runtime.privacy_ledger import Book, decode
from disttrain_runtime.randomness import Stream
from disttrain_runtime.sampler import SampleOrder
from disttrain_runtime.strategies.private_averaging import add_noise, clipped, own_share
from support.gloo_ranks import Door, Ranks, digests
from support.local_methods import STEPS, WORLD, weights, with_door
from support.local_tasks import build

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]

PRIVACY = Privacy(unit="worker", noise_multiplier=0.8, max_grad_norm=0.3, delta=1e-3)
SECRET = b"s" * 32
EVERY = 4
MEETINGS = [4, 8, 12, 16, 20, 22]


def config(method: str = "diLoCo", *args: str, save: int = 100, privacy: Privacy = PRIVACY) -> RunConfig:
    return RunConfig(
        entrypoint="support.local_tasks:build",
        args=(f"--steps={STEPS}", *args),
        checkpoint=CheckpointConfig(every_steps=save, asynchronous=False),
        strategy=StrategyConfig(synchronization=Synchronization(method=method, every_steps=EVERY), privacy=privacy),
    )


def volume(folder: Path, name: str) -> Path:
    """A job directory whose secret is known, so that two runs can be compared."""
    (folder / name).mkdir()
    (folder / name / "privacy.json").write_bytes(Book(SECRET).encode())
    return folder / name


def run(job_dir: Path, config: RunConfig, world: int = WORLD, incarnation: int = 1) -> Ranks:
    logs = job_dir.parent / f"logs-{job_dir.name}-{incarnation}"
    with Ranks(logs, config, world, job_dir=job_dir, incarnation=incarnation) as ranks:
        assert ranks.ended() == [0] * world, ranks.output(0)
        return ranks


def book(job_dir: Path) -> Book:
    return decode((job_dir / "privacy.json").read_bytes())


def opacus_says(meetings: int, sigma: float = PRIVACY.noise_multiplier) -> float:
    accountant = RDPAccountant()
    for _ in range(meetings):
        accountant.step(noise_multiplier=sigma, sample_rate=1.0)
    return float(accountant.get_epsilon(delta=PRIVACY.delta))


def one_process(span: Span, rate: float, momentum: float) -> torch.Tensor:
    """The formula, one worker after the other; each with an optimizer that begins anew after each exchange."""
    reseed(0, Stream.BUILD, 0, 0)
    task = build(steps=STEPS)
    order = SampleOrder(seed=0, samples=len(task.train_data), batch_size=task.batch_size)
    parameters = list(task.model.parameters())
    common = [p.detach().clone() for p in parameters]
    velocity = [torch.zeros_like(c) for c in common]
    begun = 0
    for number, meeting in enumerate(MEETINGS):
        total = [torch.zeros_like(c) for c in common]
        for rank in range(WORLD):
            for p, c in zip(parameters, common, strict=True):
                p.data.copy_(c)
            optimizer = task.optimizer(parameters)
            for step in range(begun, meeting):
                learning_rate = 0.01 * (1 + torch.cos(torch.tensor(torch.pi * step / STEPS, dtype=torch.float64))) / 2
                optimizer.param_groups[0]["lr"] = float(learning_rate)
                share = own_share(order, step, rank, WORLD)
                inputs, targets = zip(*(task.train_data[i] for i in share.indices), strict=True)
                optimizer.zero_grad()
                task.loss(task.model(torch.stack(inputs)), torch.stack(targets)).backward()
                optimizer.step()
            told = [c - p.detach() for c, p in zip(common, parameters, strict=True)]
            norm = torch.sqrt(sum(t.square().sum() for t in told))  # type: ignore[arg-type]
            generator = torch.Generator().manual_seed(noise_seed(SECRET, span, number, rank))
            for t, d in zip(total, told, strict=True):
                std = PRIVACY.noise_multiplier * PRIVACY.max_grad_norm / WORLD**0.5
                t += d * min(1.0, PRIVACY.max_grad_norm / float(norm))
                t += torch.normal(0.0, std, d.shape, generator=generator)
        for c, v, t in zip(common, velocity, total, strict=True):
            v.mul_(momentum).add_(t / WORLD)
            c.sub_(rate * (t / WORLD + momentum * v))
        begun = meeting
    return torch.cat([c.flatten() for c in common]).double()


@pytest.mark.parametrize(("method", "rate", "momentum"), [("diLoCo", 0.7, 0.9), ("modelAveraging", 1.0, 0.0)])
def test_three_workers_train_what_the_formula_says(tmp_path: Path, method: str, rate: float, momentum: float) -> None:
    """With clipping and noise, an AdamW that begins anew, and 50 samples in parts of 17, 17 and 16."""
    told = run(volume(tmp_path, "job"), config(method)).told
    (span,) = book(tmp_path / "job").spans
    assert (span.unit, span.world_size, span.sample_rate, span.first, span.end) == ("worker", WORLD, 1.0, 0, 6)
    torch.testing.assert_close(weights(tmp_path, "job"), one_process(span, rate, momentum), rtol=1e-4, atol=2e-5)
    assert told.progress.metrics["epsilon"] == pytest.approx(opacus_says(len(MEETINGS)), rel=1e-9)
    assert told.progress.loss is None
    assert '"loss"' not in (tmp_path / "job" / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    job_dir = volume(tmp_path_factory.mktemp("trained"), "job")
    run(job_dir, config())
    return job_dir


def test_nothing_that_noise_does_not_cover_is_in_a_checkpoint(trained: Path) -> None:
    """AdamW's moments are made of gradients. Its groups hold numbers of the schedule."""
    at = trained / "checkpoints" / f"step-{STEPS:08d}"
    tensors = {name for file in at.glob("*.safetensors") for name in load_file(file)}
    model = set(load_file(at / "model.safetensors"))
    assert {name.split(".")[0] for name in tensors - model} <= {str(i) for i in range(6)}, "the outer velocity"
    text = "".join(file.read_text() for file in at.glob("*.json"))
    assert "exp_avg" not in text
    assert "rank_" not in text


@pytest.mark.parametrize("method", ["modelAveraging", "diLoCo"])
def test_a_death_between_two_exchanges_changes_neither_the_model_nor_what_is_spent(tmp_path: Path, method: str) -> None:
    """The round that was broken off is run again by all, with the same data and the same noise: one release."""
    chosen = with_door(config(method), tmp_path, 13)
    door = Door(tmp_path, 13)
    with Ranks(tmp_path / "quiet-logs", chosen, WORLD, job_dir=volume(tmp_path, "quiet")) as quiet:
        door.arrive()
        door.open()
        assert quiet.ended() == [0] * WORLD, quiet.output(0)
    with Ranks(tmp_path / "logs", chosen, WORLD, job_dir=volume(tmp_path, "job"), regroups=True) as ranks:
        door.arrive()
        ranks.kill(1)
        door.open()
        ranks.regroup(incarnation=2)
        assert ranks.ended() == [0] * WORLD, ranks.output(0)
    assert ranks.told.of(Restore)[-1] == Restore(step=12, source="survivor")
    assert digests(tmp_path / "job", STEPS) == digests(tmp_path / "quiet", STEPS)
    assert book(tmp_path / "job") == book(tmp_path / "quiet")
    assert ranks.told.progress.metrics["epsilon"] == pytest.approx(opacus_says(len(MEETINGS)), rel=1e-9)


def test_restored_from_the_volume_it_ends_with_the_same_bits_and_never_says_less_than_before(tmp_path: Path) -> None:
    """Saved after 8 steps, killed behind the exchange after 12: what was told is counted, whoever forgot it, and once."""
    door, chosen = Door(tmp_path, 15), with_door(config(save=8), tmp_path, 15)
    for name in ("quiet", "job"):
        with Ranks(tmp_path / f"{name}-logs", chosen, WORLD, job_dir=volume(tmp_path, name)) as ranks:
            door.arrive()
            if name == "job":
                ranks.kill(1, signal.SIGKILL)
            door.open()
            ranks.ended()
    assert [s.end for s in book(tmp_path / "job").spans] == [3]
    told = run(tmp_path / "job", chosen, incarnation=2).told
    assert told.restores[0].step == 8
    first = told.of(Progress)[0]
    assert first.step == 12
    assert first.metrics["epsilon"] == pytest.approx(opacus_says(3), rel=1e-9)
    assert told.progress.metrics["epsilon"] == pytest.approx(opacus_says(len(MEETINGS)), rel=1e-9)
    assert digests(tmp_path / "job", STEPS) == digests(tmp_path / "quiet", STEPS)
    assert book(tmp_path / "job") == book(tmp_path / "quiet")


def test_it_ends_well_before_the_target_is_passed(tmp_path: Path) -> None:
    """At an exchange: there is nothing to be saved between two."""
    target = opacus_says(3) * 1.0001
    chosen = config(privacy=replace(PRIVACY, target_epsilon=target))
    told = run(volume(tmp_path, "job"), chosen).told
    assert told.progress.step == told.progress.total_steps == 12
    assert told.progress.metrics["epsilon"] == pytest.approx(opacus_says(3), rel=1e-9)
    assert told.progress.ended is not None
    assert told.progress.ended.reason == "TargetEpsilonReached"
    again = run(tmp_path / "job", chosen, incarnation=2).told
    assert (again.restores[0].step, again.progress.step, again.checkpoints) == (12, 12, [])


def test_another_number_of_workers_would_have_other_parts_of_the_data(tmp_path: Path, trained: Path) -> None:
    shutil.copytree(trained, tmp_path / "job")
    longer = replace(config(), args=("--steps=30",))
    with Ranks(tmp_path / "logs", longer, 2, job_dir=tmp_path / "job", incarnation=2) as ranks:
        assert set(ranks.ended()) == {64}
    assert "account is of each of 3 workers, and there are 2 now" in ranks.told.failure(0).message


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        (config("diLoCo", "--norm=true"), "the buffer '1.running_mean' changes in training"),
        (config("diLoCo", "--batch-size=1"), "at least one of each for every rank"),
        (config("gossip"), "goes with synchronization.method modelAveraging and diLoCo"),
    ],
)
def test_what_cannot_be_private_is_refused(tmp_path: Path, chosen: RunConfig, says: str) -> None:
    with Ranks(tmp_path / "logs", chosen, 2, job_dir=tmp_path / "job") as ranks:
        assert 64 in ranks.ended()
    assert any(says in failure.message for failure in ranks.told.of(Failure)), ranks.output(0)


def test_the_shares_of_all_ranks_add_up_to_the_noise_that_was_promised() -> None:
    """100,000 values: a standard deviation is known to half a percent, a correlation to a hundredth."""
    ranks, std = 4, 2.5
    span = Span(run="a", world_size=ranks, noise_multiplier=5.0, sample_rate=1.0, unit="worker")
    shares = []
    for rank in range(ranks):
        share = [torch.zeros(60_000), torch.zeros(40_000)]
        add_noise(share, std, ranks, noise_seed(SECRET, span, 7, rank))
        shares.append(torch.cat(share))
    total = torch.stack(shares).sum(0)
    assert float(total.std()) == pytest.approx(std, rel=0.01)
    assert float(total.mean()) == pytest.approx(0.0, abs=0.03)
    within = float(((total.abs() < std).double()).mean())
    assert within == pytest.approx(0.6827, abs=0.01), "as a normal distribution has it"
    correlations = torch.corrcoef(torch.stack(shares)) - torch.eye(ranks)
    assert float(correlations.abs().max()) < 0.015, "each rank's is its own"
    again = [torch.zeros(60_000), torch.zeros(40_000)]
    add_noise(again, std, ranks, noise_seed(SECRET, span, 7, 0))
    assert torch.equal(torch.cat(again), shares[0]), "the same exchange, run again"
    assert noise_seed(SECRET, span, 8, 0) != noise_seed(SECRET, span, 7, 0)


def test_what_is_told_has_the_norm_that_was_promised_at_most() -> None:
    big = [torch.full((10, 10), 3.0), torch.full((5,), -4.0)]
    told = clipped(big, 0.5)
    norm = float(torch.cat([t.flatten() for t in told]).double().norm())
    assert norm == pytest.approx(0.5, rel=3e-6)
    assert norm <= 0.5
    torch.testing.assert_close(told[0] / told[0][0, 0], big[0] / big[0][0, 0])
    small = [torch.full((4,), 0.01)]
    assert torch.equal(clipped(small, 0.5)[0], small[0])
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        clipped([torch.tensor([float("nan")])], 0.5)


def test_each_worker_sees_its_own_part_of_the_data_and_all_of_it() -> None:
    """Even, uneven, and over several of its own epochs."""
    for samples, batch, world in ((50, 16, 3), (12, 4, 4), (7, 7, 2)):
        order = SampleOrder(seed=3, samples=samples, batch_size=batch)
        seen = [[i for step in range(40) for i in own_share(order, step, rank, world).indices] for rank in range(world)]
        parts = [set(part) for part in seen]
        assert set().union(*parts) == set(range(samples))
        assert sum(map(len, parts)) == samples, "no sample is two workers'"
        for rank, part in enumerate(parts):
            first = seen[rank][: len(part)]
            assert set(first) == part, "each once, before any of them twice"
