"""Parameters cut over the ranks: the same training with a part of the memory, from and into any other way to train."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
import torch.distributed as dist
from tests.strategies.test_pipeline import STEPS, TASK, run, state

from disttrain_contract.env import CheckpointConfig, EvaluationConfig, RunConfig
from disttrain_contract.messages import Checkpoint, Progress
from disttrain_contract.strategy import Parallelism
from disttrain_runtime.strategies.reduce_scatter import ExchangeAndAdd
from support.gloo_group import together
from support.gloo_ranks import Door, Ranks, digests, writer_of
from support.strategy_stories import Meet

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]


def cut(shard: str = "full", config: RunConfig = TASK, **more: object) -> RunConfig:
    strategy = replace(config.strategy, parallelism=Parallelism(shard=shard), **more)  # type: ignore[arg-type]
    return replace(config, strategy=strategy)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], dict[str, float], float]:
    folder = tmp_path_factory.mktemp("alone")
    told = run(folder, "one", TASK, 1).told
    return state(folder, "one"), dict(told.progress.metrics), told.of(Progress)[0].loss


@pytest.mark.parametrize(
    ("world", "shard", "accumulate", "recomputed"),
    [(2, "full", 1, False), (3, "full", 2, False), (2, "full", 1, True), (4, "hybrid", 1, False)],
)
def test_it_trains_what_one_process_trains(
    tmp_path: Path, alone: tuple[dict[str, torch.Tensor], dict[str, float], float], world: int, shard: str, accumulate: int, recomputed: bool
) -> None:  # fmt: skip
    """Also where shapes do not divide (12 inputs and 2 outputs over 3 ranks), with clipping and uneven last batches."""
    config = cut(shard, accumulate=accumulate, activation_checkpointing=recomputed)
    told = run(tmp_path, "job", config, world, env={"LOCAL_WORLD_SIZE": "2"}).told
    weights, metrics, loss = alone
    found = state(tmp_path, "job")
    assert list(found) == list(weights)
    for name, value in weights.items():
        torch.testing.assert_close(found[name], value, rtol=5e-4, atol=5e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert told.progress.metrics["accuracy"] == metrics["accuracy"]
    assert told.progress.metrics["evalLoss"] == pytest.approx(metrics["evalLoss"], rel=1e-4)
    assert told.of(Progress)[0].loss == pytest.approx(loss, rel=1e-4)


def test_without_copies_a_killed_rank_costs_the_steps_since_the_checkpoint_and_no_bit(tmp_path: Path) -> None:
    config = cut(config=replace(TASK, args=(*TASK.args, "--dropout=0.2"), buddy_every_steps=0))
    run(tmp_path, "quiet", config, 3)
    door = Door(tmp_path, 8)
    config = replace(config, args=(*config.args, f"--doors={tmp_path}", "--at=[8]", "--rank=1"))
    with Ranks(tmp_path / "logs", config, 3, job_dir=tmp_path / "job", regroups=True) as ranks:
        pid = ranks.processes[2].pid
        door.arrive()
        ranks.kill(1)
        door.open()
        ranks.regroup(incarnation=2)
        assert ranks.ended() == [0] * 3, "\n".join(ranks.output(r) for r in range(3))
        assert ranks.processes[2].pid == pid
    assert [(r.step, r.source) for r in ranks.told.restores] == [(0, "none"), (5, "volume")]
    assert digests(tmp_path / "job", STEPS) == digests(tmp_path / "quiet", STEPS)


def test_a_save_under_way_is_waited_for_because_all_start_from_it(tmp_path: Path) -> None:
    """The disk takes its time over step 6; rank 1 dies two steps later."""
    saved, stuck, dying = Door(tmp_path, 3), Door(tmp_path, 4), Door(tmp_path, 6)
    often = CheckpointConfig(every_steps=3, asynchronous=True)
    config = cut(
        config=replace(TASK, checkpoint=often, evaluation=EvaluationConfig(), buddy_every_steps=0)
    )  # which would come to the doors, too
    config = replace(config, args=(*config.args, f"--doors={tmp_path}", "--at=[3,4,6]", "--rank=1"))
    with Ranks(tmp_path / "logs", config, 2, job_dir=tmp_path / "job", regroups=True) as ranks:
        saved.arrive()
        writer = writer_of(ranks.processes[0].pid)
        while not (tmp_path / "job" / "checkpoints" / "step-00000003").exists():
            time.sleep(0.01)
        saved.open()
        stuck.arrive()
        ranks.wait_for(lambda _, body: isinstance(body, Checkpoint))
        os.kill(writer, signal.SIGSTOP)
        stuck.open()
        dying.arrive()
        ranks.kill(1)
        ranks.regroup(incarnation=2)
        time.sleep(3)  # only if the new group forms before the disk is done is there anything to wait for
        os.kill(writer, signal.SIGCONT)
        for door in (saved, stuck):  # the replacement counts its own steps
            door.arrive()
            door.open()
        assert ranks.ended() == [0] * 2, ranks.output(0)
    assert [(r.step, r.source) for r in ranks.told.restores] == [(0, "none"), (6, "volume")]
    assert [(c.step, c.incarnation) for c in ranks.told.checkpoints] == [(3, 1), (6, 1), (9, 2), (12, 2)]


def test_a_checkpoint_does_not_know_over_how_many_ranks_it_was_cut(
    tmp_path: Path, alone: tuple[dict[str, torch.Tensor], dict[str, float], float]
) -> None:
    """Two ranks, then three, then plain replicas."""
    for incarnation, (world, config) in enumerate([(2, cut()), (3, cut()), (2, TASK)], start=1):
        config = replace(config, args=(*config.args, f"--until={4 * incarnation}"))
        told = run(tmp_path, "job", config, world, incarnation=incarnation).told
        assert (told.restores[-1].step, told.restores[-1].source) == (
            4 * (incarnation - 1),
            "volume" if incarnation > 1 else "none",
        )
    found = state(tmp_path, "job")
    for name, value in alone[0].items():
        torch.testing.assert_close(found[name], value, rtol=5e-4, atol=5e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_hybrid_needs_workers_with_several_ranks(tmp_path: Path) -> None:
    with Ranks(tmp_path / "logs", cut("hybrid"), 2, job_dir=tmp_path / "job") as ranks:
        ranks.ended()
        assert "set processesPerWorker to 2 or more" in ranks.told.failure(0).message


@pytest.mark.parametrize("world", [2, 3])
def test_gradients_are_scattered_as_torch_does_it_with_half_of_gloos_bytes(world: int) -> None:
    for plain, waited, later, ours, gloos in together(world, scattered):
        for op in plain:
            torch.testing.assert_close(torch.tensor(waited[op]), torch.tensor(plain[op]), rtol=1e-6, atol=1e-6)
            assert later[op] == waited[op]
        assert ours == pytest.approx(gloos / 2, rel=0.05)


def scattered(
    meet: Meet,
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, list[float]], int, int]:
    """By operation: torch's, ours, and ours while something else is done; bytes sent by ours and torch's."""
    group, connections = meet()
    ranks, world = group.world_size, dist.group.WORLD
    assert world is not None
    values = torch.randn(ranks * 50_000, generator=torch.Generator().manual_seed(group.rank))
    outputs = [[torch.empty(50_000) for _ in range(2)] for _ in range(3)]
    sent = []
    for number, op in enumerate((dist.ReduceOp.SUM, dist.ReduceOp.AVG)):
        plain, waited, later = (row[number] for row in outputs)
        marks = [connections.sent()]
        ExchangeAndAdd()(waited, values, world, op)
        group.barrier()
        marks.append(connections.sent())
        dist.reduce_scatter_single(plain, values, op=op)
        group.barrier()
        marks.append(connections.sent())
        work = ExchangeAndAdd()(later, values, world, op, async_op=True)
        assert work is not None
        work.wait()
        sent = [after - before for before, after in pairwise(marks)]
    found = [{op: row[i].tolist() for i, op in enumerate(("sum", "avg"))} for row in outputs]
    group.barrier()
    return found[0], found[1], found[2], sent[0], sent[1]
