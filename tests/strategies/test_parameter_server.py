"""Parameter servers: synchronous ones train what one rank trains; asynchronous ones are as old as they may be; any rank may die."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from tests.distributed.test_group_training import weights
from tests.distributed.test_regroup import holding, stopped_at

from disttrain_contract.env import CheckpointConfig, RunConfig
from disttrain_contract.messages import Restore
from disttrain_contract.strategy import StrategyConfig, Synchronization
from disttrain_runtime.checkpoint.structure import tensors_in
from disttrain_runtime.errors import EntrypointError
from disttrain_runtime.strategies import make_strategy
from disttrain_runtime.strategies.parameter_server import MEETING
from disttrain_runtime.strategies.push_pull import Parts
from disttrain_runtime.strategies.rows import Pool
from disttrain_runtime.strategies.shard_server import ShardServer
from support.gloo_group import together
from support.gloo_ranks import Ranks, digests
from support.strategy_stories import Meet, Run, bytes_per_step, each, smooth, stale, trained

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]

PLAIN = StrategyConfig()


def served(servers: int | None = None, staleness: int | None = None, **more: Any) -> StrategyConfig:
    method = Synchronization(method="parameterServer", servers=servers, max_staleness=staleness)
    return replace(PLAIN, synchronization=method, **more)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_synchronous_servers_train_what_one_rank_trains(world: int) -> None:
    """Whatever their number, with clipping over all parts, and parts of batches; the last batch of 44 has 4 for three ranks."""
    configs = {"one": served(1), "two": served(2), "all": served(), "parts": served(2, 0, accumulate=2)}
    clipped = {f"clipped {n}": served(n, max_grad_norm=0.2) for n in (1, world)}
    steps = 2 * MEETING
    alone = together(1, each, {"plain": PLAIN, "clipped": replace(PLAIN, max_grad_norm=0.2)}, trained, {}, steps)[0]
    for found in together(world, each, configs | clipped, trained, {}, steps):
        for name, several in found.items():
            one = alone["clipped" if "clipped" in name else "plain"]
            torch.testing.assert_close(torch.tensor(several), torch.tensor(one), rtol=2e-5, atol=2e-6)


def test_a_rank_that_is_alone_serves_itself() -> None:
    found = together(1, each, {"plain": PLAIN, "served": served()}, trained, {}, MEETING)[0]
    assert found["served"] == found["plain"]


def test_the_kernel_sends_the_bytes_of_the_formula() -> None:
    """Whatever the number of servers: 2 (W-1) · 4N in all per step, and at a meeting the momentum, (W-1) · 4N."""
    width, ranks = 16384, 3
    task = {"width": width, "batch_size": 8, "samples": 48, "steps": 2 * MEETING}
    parameters = 12 * width + width + 2 * width + 2
    formula = (ranks - 1) * 4 * parameters * (2 + 1 / MEETING)
    told = together(ranks, each, {"1": served(1), "3": served()}, bytes_per_step, task, MEETING)
    for by_rank in zip(*(by_config.values() for by_config in told), strict=True):
        assert sum(by_rank) == pytest.approx(formula, rel=0.02)


def test_a_slow_rank_makes_the_others_train_with_older_parameters_and_never_older_than_the_bound() -> None:
    """All at their own pace, until the bound holds the quick ones; at the meeting all are together again."""
    for bound in (1, 3):
        told = together(3, stale, served(2, bound), MEETING)
        ages, finished = [t[0] for t in told], [t[1] for t in told]
        assert max(ages[0]) == bound and max(max(a) for a in ages) <= bound
        assert finished[0] == finished[1] == finished[2]
        assert told[0][2]["stalenessMax"] == bound and 0 < told[0][2]["stalenessMean"] <= bound


def test_synchronous_servers_never_use_old_parameters() -> None:
    assert all(set(ages) == {0} for ages, *_ in together(3, stale, served(2, 0), MEETING))


TASK = RunConfig(
    entrypoint="support.gloo_tasks:build",
    args=("--steps=24", "--norm=false"),
    checkpoint=CheckpointConfig(every_steps=100, asynchronous=False),
    strategy=served(2),
)


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_whoever_dies_a_server_too_the_group_goes_on_from_the_last_meeting_and_changes_no_bit(
    tmp_path: Path, victim: int
) -> None:
    """Ranks 0 and 1 are servers, 2 is not. The last meeting was after step 16."""
    ranks, _ = stopped_at(tmp_path, at=20, rank=victim, config=TASK)
    with ranks:
        ranks.kill(victim)
        holding(ranks, *({0, 1, 2} - {victim}))
        ranks.regroup(incarnation=2)
        assert ranks.ended() == [0] * 3, ranks.output(0)
    assert ranks.told.restores[-1] == Restore(step=MEETING, source="survivor")
    assert digests(tmp_path / "job", 24) == quiet_digests(tmp_path)


def quiet_digests(folder: Path) -> dict[str, str]:
    with Ranks(folder / "quiet-logs", TASK, 3, job_dir=folder / "quiet") as ranks:
        assert ranks.ended() == [0] * 3, ranks.output(0)
    return digests(folder / "quiet", 24)


def test_an_asynchronous_server_is_replaced_in_the_middle_of_a_leg(tmp_path: Path) -> None:
    config = replace(TASK, strategy=served(1, 2))
    ranks, _ = stopped_at(tmp_path, at=20, rank=0, config=config)
    with ranks:
        ranks.kill(0)
        holding(ranks, 1, 2)
        ranks.regroup(incarnation=2)
        assert ranks.ended() == [0] * 3, ranks.output(0)
    assert ranks.told.restores[-1] == Restore(step=MEETING, source="survivor")
    assert ranks.told.progress.metrics["stalenessMax"] <= 2


def test_a_checkpoint_of_three_servers_goes_on_with_one(tmp_path: Path) -> None:
    def run(name: str, world: int, strategy: StrategyConfig) -> Ranks:
        args = ("--steps=24", "--norm=false", "--dropout=0", "--noise=0")
        config = replace(TASK, args=args, strategy=strategy, checkpoint=CheckpointConfig(every_steps=MEETING, asynchronous=False))  # fmt: skip
        with Ranks(tmp_path / f"{name}-logs", config, world, job_dir=tmp_path / name) as ranks:
            assert ranks.ended() == [0] * world, ranks.output(0)
            return ranks

    run("quiet", 1, PLAIN)
    run("job", 3, served())
    for file in (last := tmp_path / "job" / "checkpoints" / "step-00000024").iterdir():
        file.unlink()
    last.rmdir()
    told = run("job", 2, served(1)).told
    assert told.restores[0].step == MEETING
    for name, value in weights(tmp_path, "quiet", 24).items():
        torch.testing.assert_close(weights(tmp_path, "job", 24)[name], value, rtol=2e-4, atol=2e-5)


def test_parts_are_whole_tensors_of_nearly_equal_size_and_no_server_goes_without() -> None:
    parts = Parts.of([100, 10, 60, 50, 1], 2)
    assert sorted(i for part in parts.indices for i in part) == [0, 1, 2, 3, 4]
    assert [sum([100, 10, 60, 50, 1][i] for i in part) for part in parts.indices] == [111, 110]
    assert Parts.of([5, 5], 7).count == 2


def test_a_server_has_memory_for_its_own_part_only_and_the_optimizer_sees_every_shape() -> None:
    """What an optimizer does may depend on a parameter's shape or place."""
    seen: list[tuple[int, ...]] = []
    task = smooth()
    make = task.optimizer

    def spy(parameters: Any) -> torch.optim.Optimizer:
        held = list(parameters)
        seen.extend(tuple(p.shape) for p in held)
        return make(held)

    first, *others = task.model.parameters()
    server = ShardServer(replace(task, optimizer=spy), task.model, [first], None)
    server.load({"model": task.model.state_dict(), **server.state()})
    assert seen == [tuple(p.shape) for p in (first, *others)]
    before = first.detach().clone()
    for sign in (1.0, 3.0):
        server.add(torch.full((first.numel(),), sign))
    after = torch.empty(first.numel())
    server.update(2, lambda own: own, after)
    torch.testing.assert_close(after, before.reshape(-1) - 0.05 * 2.0)
    assert list(server.state()["optimizer"]["state"]) == [0]


def test_a_row_is_used_again_when_its_last_user_is_done_with_it() -> None:
    pool = Pool()
    row = pool.take(4, torch.float32, users=2)
    place = row.values.data_ptr()
    row.done()
    assert pool.take(4, torch.float32).values.data_ptr() != place
    row.done()
    assert pool.take(4, torch.float64).values.data_ptr() != place
    assert pool.take(4, torch.float32).values.data_ptr() == place


def test_what_a_server_does_after_a_restore_does_not_reach_into_what_it_would_go_back_to() -> None:
    assert together(1, restored_and_updated, served()) == [True]


def restored_and_updated(meet: Meet, config: StrategyConfig) -> bool:
    run = Run(meet, config, smooth()).train(range(MEETING))
    strategy: Any = run.strategy
    strategy.load(deepcopy(strategy.state()))
    met, server = deepcopy(strategy.state()), strategy._server
    count = sum(p.numel() for p in strategy.trained)
    server.add(torch.ones(count))
    server.update(1, lambda own: own, torch.empty(count))
    run.done()
    pairs = zip(tensors_in(met), tensors_in(strategy.state()), strict=True)
    return all(torch.equal(before, after) for before, after in pairs)


def test_loss_scaling_is_refused_with_the_reason() -> None:
    with pytest.raises(EntrypointError, match="no parameter server sees as a whole: use bf16"):
        make_strategy(served(precision="fp16"), smooth(), torch.device("cpu"))
