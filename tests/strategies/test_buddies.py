"""A rank of a split model dies, and its part is in somebody's memory: nobody needs the volume, and nobody can tell from the result."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.strategies.test_pipeline import STEPS, TASK, piped, run

from disttrain_contract.env import EvaluationConfig, RunConfig
from disttrain_contract.messages import Holding, RankEvent
from disttrain_contract.strategy import Parallelism
from support.gloo_group import together
from support.gloo_ranks import Door, Ranks, digests
from support.split_stories import BROKEN, broken_off_before_its_update

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]

SPLIT = replace(
    TASK, args=(*TASK.args, "--dropout=0.2", "--planned=true"), buddy_every_steps=3, evaluation=EvaluationConfig()
)
"""Copies of steps 1, 3, 5 (with the checkpoint) and 6; the loss is asked for once in a step where there are no microbatches."""


def cut(**how: object) -> RunConfig:
    return replace(SPLIT, strategy=replace(SPLIT.strategy, parallelism=Parallelism(**how)))  # type: ignore[arg-type]


def stopped(folder: Path, config: RunConfig, world: int, call: int, **more: object) -> tuple[Ranks, Door]:
    """The group with 8 finished steps, at this call of the loss on its last rank; copies that were begun have arrived.

    The first call has number -1; a microbatch without samples makes none.
    """
    door = Door(folder, call)
    config = replace(config, args=(*config.args, f"--doors={folder}", f"--at=[{call}]", f"--rank={world - 1}"))
    ranks = Ranks(folder / "logs", config, world, job_dir=folder / "job", regroups=True, **more)  # type: ignore[arg-type]
    door.arrive()
    time.sleep(1)
    return ranks, door


def went_on(ranks: Ranks) -> list[tuple[int, str]]:
    return [(r.step, r.source) for r in ranks.told.restores]


def holding(ranks: Ranks, *who: int) -> None:
    waiting = set(who)
    while waiting - {rank for rank, event, _ in ranks.told.messages if event is RankEvent.HOLDING}:
        ranks.wait_for(lambda rank, body: isinstance(body, Holding))


@pytest.mark.parametrize(
    ("how", "world", "victim", "call"),
    [
        ({"shard": "full"}, 3, 1, 7),
        ({"shard": "full"}, 3, 0, 7),
        ({"tensor": 2}, 2, 1, 7),
        ({"stages": 2, "microbatches": 4}, 2, 0, 8 * 4),
        ({"stages": 2, "tensor": 2, "microbatches": 4}, 4, 2, 8 * 4),
    ],
    ids=str,
)
def test_all_go_back_to_the_last_copies_and_no_bit_is_lost(
    tmp_path: Path, how: dict[str, object], world: int, victim: int, call: int
) -> None:
    config = cut(**how)
    run(tmp_path, "quiet", config, world)
    ranks, door = stopped(tmp_path, config, world, call)
    with ranks:
        others = [r for r in range(world) if r != victim]
        pids = [ranks.processes[r].pid for r in others]
        ranks.kill(victim)
        door.open()
        holding(ranks, *others)
        ranks.regroup(incarnation=2)
        assert ranks.ended() == [0] * world, "\n".join(ranks.output(r) for r in range(world))
        assert [ranks.processes[r].pid for r in others] == pids
    assert went_on(ranks) == [(0, "none"), (6, "buddy")]
    assert digests(tmp_path / "job", STEPS) == digests(tmp_path / "quiet", STEPS)


def test_a_part_that_a_replica_holds_costs_no_step(tmp_path: Path) -> None:
    """Cut inside a worker, whole between workers: a rank of the other worker has the dead one's part, as it was a moment ago."""
    config, env = cut(shard="hybrid"), {"LOCAL_WORLD_SIZE": "2"}
    run(tmp_path, "quiet", config, 4, env=env)
    ranks, door = stopped(tmp_path, config, 4, 7, env=env)
    with ranks:
        for victim in (2, 3):
            ranks.kill(victim)
        door.open()
        holding(ranks, 0, 1)
        ranks.regroup(incarnation=2)
        assert ranks.ended() == [0] * 4, ranks.output(0)
    assert went_on(ranks) == [(0, "none"), (8, "survivor")]
    assert digests(tmp_path / "job", STEPS) == digests(tmp_path / "quiet", STEPS)


def test_a_replica_fewer_is_no_reason_to_go_back_either(tmp_path: Path) -> None:
    """Two replicas of a pipeline become one."""
    config = piped(2, config=SPLIT)
    ranks, door = stopped(tmp_path, config, 4, 7 * 4)
    with ranks:
        for victim in (2, 3):
            ranks.kill(victim)
        door.open()
        holding(ranks, 0, 1)
        ranks.regroup(incarnation=2, world=2)
        assert ranks.ended()[:2] == [0, 0], ranks.output(0)
    assert went_on(ranks) == [(0, "none"), (8, "survivor")]


def test_copies_of_another_cut_are_of_no_use(tmp_path: Path) -> None:
    """Three parts do not become two."""
    ranks, door = stopped(tmp_path, cut(shard="full"), 3, 7)
    with ranks:
        ranks.kill(2)
        door.open()
        holding(ranks, 0, 1)
        ranks.regroup(incarnation=2, world=2)
        assert ranks.ended()[:2] == [0, 0], ranks.output(0)
    assert went_on(ranks) == [(0, "none"), (5, "volume")]


def test_a_rank_and_its_buddy_die_together(tmp_path: Path) -> None:
    """Its copy is gone with it: the volume is left."""
    config = cut(shard="full")
    run(tmp_path, "quiet", config, 3)
    ranks, door = stopped(tmp_path, config, 3, 7)
    with ranks:
        for victim in (0, 1):
            ranks.kill(victim)
        door.open()
        holding(ranks, 2)
        ranks.regroup(incarnation=2)
        assert ranks.ended() == [0] * 3, ranks.output(2)
    assert went_on(ranks) == [(0, "none"), (5, "volume")]
    assert digests(tmp_path / "job", STEPS) == digests(tmp_path / "quiet", STEPS)


def test_a_second_death_before_new_copies_are_made(tmp_path: Path) -> None:
    """The replacement dies as soon as it has its part: its buddy still has the copy."""
    config = cut(shard="full")
    run(tmp_path, "quiet", config, 3)
    ranks, door = stopped(tmp_path, config, 3, 7)
    with ranks:
        ranks.kill(1)
        door.open()
        holding(ranks, 0, 2)
        ranks.regroup(incarnation=2)
        ranks.wait_for(lambda _, body: getattr(body, "source", "") == "buddy")
        ranks.kill(1)
        ranks.regroup(incarnation=3)
        assert ranks.ended() == [0] * 3, ranks.output(0)
    assert went_on(ranks)[0:2] == [(0, "none"), (6, "buddy")]
    assert {source for _, source in went_on(ranks)[1:]} <= {"buddy", "survivor"}
    assert digests(tmp_path / "job", STEPS) == digests(tmp_path / "quiet", STEPS)


@pytest.mark.parametrize("victims", [(0,), (1,), (0, 1), (2,)], ids=str)
def test_a_rank_that_is_broken_off_before_its_update_makes_it_when_others_have(victims: tuple[int, ...]) -> None:
    """All of them had their gradients, or nobody would have got so far: no step is lost, no bit differs."""
    for went_on, weights, quiet in together(4, broken_off_before_its_update, victims):
        assert went_on == (BROKEN + 1, "survivor")
        assert weights == quiet
