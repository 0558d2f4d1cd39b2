"""Compressed gradients: the bytes that the formula says, nothing lost for ever, and exact through breaks and restores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

pytest.importorskip("torch")

import torch
import torch.distributed as dist
from tests.distributed.test_regroup import holding, stopped_at
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

from disttrain_contract.env import CheckpointConfig, RunConfig
from disttrain_contract.messages import Restore
from disttrain_contract.strategy import Compression, StrategyConfig
from disttrain_runtime.strategies.compression import COMPRESSORS, make_compressor
from disttrain_runtime.strategies.compression.power_sgd import PowerSGD
from support.gloo_group import together
from support.gloo_ranks import Ranks, digests
from support.strategy_stories import Meet, broken_off, bytes_per_step, each, one_behind, overflowing, trained

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]

ALL = sorted(COMPRESSORS)
PLAIN = StrategyConfig()
WIDTH = 16384
WIDE = {"width": WIDTH, "batch_size": 8, "samples": 48, "steps": 20}
"""Large enough that messages stand out from gloo's frames, a few hundred bytes a step."""


def compressed(method: str, **more: Any) -> StrategyConfig:
    return replace(PLAIN, compression=Compression(method=method), **more)


def on_wire(ranks: int) -> dict[str, float]:
    """The formulas of the docs page, per rank and step: two matrices, of which one is worth compressing, and two biases."""
    first, others = 12 * WIDTH, WIDTH + 2 * WIDTH + 2
    n, ring = first + others, 2 * (ranks - 1) / ranks
    return {
        "none": ring * 4 * n,
        "fp16": ring * 2 * n,
        "bf16": ring * 2 * n,
        "topK": (ranks - 1) * 8 * math.ceil(0.01 * n),
        "sign": (ranks - 1) * (math.ceil(n / 8) + 4),
        "powerSGD": ring * 4 * (12 + WIDTH + others),
    }


def test_the_kernel_sends_the_bytes_of_the_formula() -> None:
    """Mean over the ranks: in a ring of three, pieces are not all of one size."""
    configs = {method: compressed(method) for method in ("none", *ALL)}
    sent = together(3, each, configs, bytes_per_step, WIDE, 10)
    for method, formula in on_wire(3).items():
        assert sum(by_rank[method] for by_rank in sent) / 3 == pytest.approx(formula, rel=0.02), method


@pytest.mark.parametrize("world", [2, 3, 4])
def test_what_keeps_nearly_all_trains_what_one_rank_trains(world: int) -> None:
    """Rank and ratio so large that nothing is left out. 44 samples in batches of 8: the last one has 4 for three ranks."""
    tolerances = {"fp16": 1e-4, "bf16": 2e-3, "powerSGD": 1e-5, "topK": 1e-5}
    full = {"rank": 16, "ratio": 1.0}
    configs = {m: replace(PLAIN, compression=Compression(method=m, **full)) for m in tolerances}  # type: ignore[arg-type]
    (one,) = together(1, trained, PLAIN, {}, 15)
    for several in together(world, each, configs, trained, {}, 15):
        for method, tolerance in tolerances.items():
            torch.testing.assert_close(torch.tensor(several[method]), torch.tensor(one), rtol=tolerance, atol=tolerance)


def test_replicas_stay_equal_bit_for_bit_with_accumulation_clipping_and_half_precision() -> None:
    configs = {m: compressed(m, accumulate=2, max_grad_norm=0.5, precision="bf16") for m in ALL}
    first, *others = together(3, each, configs, trained, {}, 12)
    assert all(weights == first for weights in others)
    assert all(map(math.isfinite, (weight for weights in first.values() for weight in weights)))


def test_with_error_feedback_a_coarse_message_trains_and_without_it_trains_worse() -> None:
    """After the same steps, the distance to what uncompressed gradients lead to."""
    coarse = {"powerSGD": {}, "sign": {}, "topK": {"ratio": 0.05}}
    configs = {
        f"{m} {feedback}": replace(PLAIN, compression=Compression(method=m, error_feedback=feedback, **more))  # type: ignore[arg-type]
        for m, more in coarse.items()
        for feedback in (True, False)
    }
    found, _ = together(2, each, {"none": PLAIN, **configs}, trained, {"learning_rate": 0.01}, 100)
    reference = torch.tensor(found["none"])
    far = {name: float((torch.tensor(weights) - reference).norm()) for name, weights in found.items()}
    for method in coarse:
        assert far[f"{method} True"] < 0.6 * far[f"{method} False"], far


def test_a_step_that_is_broken_off_has_used_up_no_residual() -> None:
    for by_method in together(2, each, {m: compressed(m) for m in ALL}, broken_off, 5, 9):
        for method, (expected, found) in by_method.items():
            assert found == expected, method


def test_a_rank_that_is_given_its_peers_step_keeps_the_residual_that_it_had_in_it() -> None:
    for by_method in together(3, each, {m: compressed(m) for m in ALL}, one_behind, 5, 9):
        for expected, found in by_method.values():
            torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-6, atol=1e-7)


def test_an_overflow_leaves_the_step_out_and_the_residual_as_it_was() -> None:
    configs = {m: compressed(m, precision="fp16") for m in ALL}
    for by_method in together(2, each, configs, overflowing, 6):
        for method, (fell, weights_stay, residual_stays) in by_method.items():
            assert fell and weights_stay and residual_stays, method


def job(method: str, steps: int, *args: str, every: int = 100) -> RunConfig:
    return RunConfig(
        entrypoint="support.gloo_tasks:build",
        args=(f"--steps={steps}", *args),
        checkpoint=CheckpointConfig(every_steps=every, asynchronous=False),
        strategy=compressed(method),
    )


@pytest.mark.parametrize("method", ["powerSGD", "sign"])
def test_a_restore_from_the_volume_changes_no_bit(tmp_path: Path, method: str) -> None:
    """Stopped after 7 steps by a shorter run of the same task, and taken up again."""
    config = job(method, 14, "--norm=false", every=7)
    for folder, last in (("quiet", 14), ("job", 7), ("job", 14)):
        if folder == "job" and last == 14:
            forget(tmp_path / "job", 14)
        with Ranks(tmp_path / "logs", config, 2, job_dir=tmp_path / folder) as ranks:
            assert ranks.ended() == [0, 0], ranks.output(0)
    assert ranks.told.restores[-1].step == 7
    assert digests(tmp_path / "job", 14) == digests(tmp_path / "quiet", 14)
    assert {"rank_0.safetensors", "rank_1.safetensors"} <= digests(tmp_path / "job", 14).keys()


def forget(job_dir: Path, step: int) -> None:
    """As if the run had been lost before this checkpoint."""
    folder = job_dir / "checkpoints" / f"step-{step:08d}"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def test_a_dead_ranks_replacement_begins_with_no_residual_and_training_ends_well(tmp_path: Path) -> None:
    ranks, _ = stopped_at(tmp_path, at=13, config=job("powerSGD", 24))
    with ranks:
        ranks.kill(1)
        holding(ranks, 0, 2)
        ranks.regroup(incarnation=2)
        assert ranks.ended() == [0] * 3, ranks.output(0)
    assert ranks.told.restores[-1] == Restore(step=13, source="survivor")


def test_residuals_of_two_become_their_mean_on_each_of_three() -> None:
    """The mean over ranks, which is what a step adds to the gradient, stays what it was."""
    compressor = make_compressor(Compression(method="sign"), torch.nn.Linear(2, 1, bias=False))
    assert compressor is not None
    parts = [{"residual": {"weight": torch.tensor([1.0, 2.0])}}, {"residual": {"weight": torch.tensor([3.0, 0.0])}}]
    compressor.load_own(parts, rank=2, world_size=3)
    assert compressor.own()["residual"]["weight"].tolist() == [2.0, 1.0]
    compressor.load_own(parts, rank=1, world_size=2)
    assert compressor.own()["residual"]["weight"].tolist() == [3.0, 0.0]
    compressor.load_own([], rank=0, world_size=2)
    assert compressor.own()["residual"] == {}


def test_power_sgd_says_what_torchs_hook_says_in_two_messages() -> None:
    """Three of one shape, one alone, a bias; a rank for each of both ways to orthogonalise. The second step starts warm."""
    for rank in (2, 4):
        for ours, torchs, messages in together(2, beside_torchs, rank):
            assert messages == 2
            for mine, theirs in zip(ours, torchs, strict=True):
                torch.testing.assert_close(torch.tensor(mine), torch.tensor(theirs), rtol=1e-4, atol=1e-6)


def beside_torchs(meet: Meet, rank: int) -> tuple[list[list[float]], list[list[float]], int]:
    """Means of two steps by both hooks, and the all-reduces that a step of ours makes."""
    group, _ = meet()
    model = torch.nn.Sequential(*(torch.nn.Linear(24, 24, bias=False) for _ in range(3)), torch.nn.Linear(24, 40))
    compressor = make_compressor(Compression(method="powerSGD", rank=rank, error_feedback=False), model)
    state = PowerSGDState(None, rank, start_powerSGD_iter=2, use_error_feedback=False, orthogonalization_epsilon=1e-8)
    state.iter = 2
    assert isinstance(compressor, PowerSGD)
    shapes = [compressor._sorted(compressor._pieces(OneBucket(model, 0)))[0]]  # type: ignore[arg-type]
    starts = [compressor._start(piece.name, alike) for alike in shapes[0] for piece in alike.pieces]
    state.q_memory_dict[0] = torch.cat([start.reshape(-1) for start in starts])
    state.p_memory_dict[0] = torch.empty(sum(a.rows * a.rank * len(a.pieces) for a in shapes[0]))
    ours, torchs, messages = [], [], 0
    for step in range(2):
        for found, hook in ((ours, compressor.hook), (torchs, lambda bucket: powerSGD_hook(state, bucket))):
            bucket = OneBucket(model, 10 * step + group.rank)
            with counting() as count:
                hook(bucket).wait()  # type: ignore[arg-type]
            found.append(bucket.buffer().tolist())
            if found is ours:
                compressor.taken()
                messages = count()
    return ours, torchs, messages


class OneBucket:
    """Gradients of a model, drawn anew, as DDP would show them to a hook."""

    def __init__(self, model: torch.nn.Module, seed: int) -> None:
        self._parameters = list(model.parameters())
        sizes = [p.numel() for p in self._parameters]
        self._buffer = torch.randn(sum(sizes), generator=torch.Generator().manual_seed(seed))
        self._parts = torch.split(self._buffer, sizes)

    def index(self) -> int:
        return 0

    def is_last(self) -> bool:
        return True

    def buffer(self) -> torch.Tensor:
        return self._buffer

    def parameters(self) -> list[torch.nn.Parameter]:
        return self._parameters

    def gradients(self) -> list[torch.Tensor]:
        return [part.view(p.shape) for part, p in zip(self._parts, self._parameters, strict=True)]


@contextmanager
def counting() -> Iterator[Callable[[], int]]:
    """All-reduces made inside."""
    with patch.object(dist, "all_reduce", wraps=dist.all_reduce) as made:
        yield lambda: made.call_count


@pytest.mark.parametrize("count", [1, 7, 8, 9, 1000, 100_003])
def test_a_message_of_signs_says_one_scale_and_every_sign(count: int) -> None:
    compressor = make_compressor(Compression(method="sign"), torch.nn.Linear(2, 1))
    values = torch.randn(count, generator=torch.Generator().manual_seed(count))
    message = compressor.encode(values)  # type: ignore[union-attr]
    assert message.numel() == math.ceil(count / 8) + 4
    decoded = torch.zeros(count)
    compressor.add(decoded, message, 1.0)  # type: ignore[union-attr]
    expected = values.abs().mean() * torch.where(values >= 0, 1.0, -1.0)
    assert torch.equal(decoded, expected)
    half = compressor.encode(values.bfloat16())  # type: ignore[union-attr]  # numpy has no such numbers
    assert torch.equal(half[:-2], message[:-4])


def test_what_fp16_cannot_hold_is_sent_as_its_largest_and_what_is_infinite_stays_so() -> None:
    with_one = together(1, narrowed, [1e9, -1e9, 1.0, math.inf])
    assert with_one == [[65504.0, -65504.0, 1.0, math.inf]]


def narrowed(meet: object, values: list[float]) -> list[float]:
    meet()  # type: ignore[operator]
    compressor = make_compressor(Compression(method="fp16"), torch.nn.Linear(2, 1))
    return compressor.narrow(torch.tensor(values), 1).tolist()  # type: ignore[union-attr, no-any-return]
