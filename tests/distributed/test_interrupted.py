"""Deaths at the worst moments: in the middle of giving or taking state, and when some ranks are a step ahead of others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.distributed.test_regroup import STEPS, TASK, WORLD, holding, quiet

from disttrain_contract.env import CheckpointConfig, RunConfig
from disttrain_contract.messages import Holding, Restore
from support.gloo_ranks import Door, Ranks, digests
from support.interrupted_tasks import GIVES

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]


def interrupted(doors: Path, *args: str) -> RunConfig:
    """Saves after step 8."""
    checkpoint = CheckpointConfig(every_steps=8, asynchronous=False)
    return replace(
        TASK, entrypoint="support.interrupted_tasks:build", args=(f"--doors={doors}", *args), checkpoint=checkpoint
    )


@contextmanager
def half_sent(folder: Path, world: int) -> Iterator[tuple[Ranks, Door, Door]]:
    """Rank 1 died in step 13; the group forms anew, and rank 0 has sent its successor a part of seven megabytes."""
    dying, giving = Door(folder, 13), Door(folder, GIVES)
    config = interrupted(folder, "--width=40000", "--giver=0", "--rank=1", "--at=13")
    with Ranks(folder / "logs", config, world, job_dir=folder / "job", regroups=True) as ranks:
        dying.arrive()
        ranks.kill(1)
        dying.open()
        holding(ranks, *({0, 2} & set(range(world))))
        ranks.told.messages.clear()
        ranks.regroup(incarnation=2)
        giving.arrive()
        yield ranks, giving, dying


def large(folder: Path) -> dict[str, str]:
    return quiet(folder, interrupted(folder, "--width=40000"))


def test_the_giver_of_the_state_dies_in_the_middle_and_another_one_gives(tmp_path: Path) -> None:
    """What rank 1 has got so far is worth nothing; rank 2 still holds all."""
    with half_sent(tmp_path, WORLD) as (ranks, _, _):
        ranks.kill(0)
        holding(ranks, 1, 2)
        ranks.regroup(incarnation=3)
        assert ranks.ended() == [0] * WORLD, ranks.output(1)
    assert ranks.told.restores == [Restore(step=13, source="survivor")]
    assert digests(tmp_path / "job", STEPS) == large(tmp_path)


def test_the_only_one_that_holds_the_state_dies_while_it_gives_it(tmp_path: Path) -> None:
    """Half a state is none: the volume is what is left."""
    with half_sent(tmp_path, 2) as (ranks, _, door):
        ranks.kill(0)
        holding(ranks, 1)
        ranks.regroup(incarnation=3)
        door.arrive()  # rank 1 makes its first 13 steps only now
        door.open()
        assert ranks.ended() == [0, 0], ranks.output(1)
    assert [(r.step, r.source) for r in ranks.told.restores] == [(8, "volume")]
    assert [c.step for c in ranks.told.checkpoints] == [16, 24]


def test_the_taker_of_the_state_dies_in_the_middle_and_its_successor_takes_it(tmp_path: Path) -> None:
    with half_sent(tmp_path, WORLD) as (ranks, door, _):
        ranks.kill(1)
        door.open()
        holding(ranks, 0, 2)
        ranks.regroup(incarnation=3)
        assert ranks.ended() == [0] * WORLD, ranks.output(0)
    assert ranks.told.restores[-1] == Restore(step=13, source="survivor")
    assert digests(tmp_path / "job", STEPS) == large(tmp_path)


@pytest.mark.parametrize(("ahead", "behind"), [(0, 1), (1, 0)])
def test_a_death_between_exchange_and_update_leaves_one_rank_a_step_ahead(
    tmp_path: Path, ahead: int, behind: int
) -> None:
    """Rank 2 dies when one of the others has made step 13 and the other one has not: they go on behind step 14, as if it
    had never happened. Also when it is rank 0, which saves, that is behind."""
    doors = Door(tmp_path, 13), Door(tmp_path, 14)
    config = interrupted(tmp_path, f"--ahead={ahead}", f"--behind={behind}", "--dead=2", "--at=13")
    with Ranks(tmp_path / "logs", config, WORLD, job_dir=tmp_path / "job", regroups=True) as ranks:
        for door in doors:
            door.arrive()
        ranks.kill(2)
        for door in doors:
            door.open()
        holding(ranks, 0, 1)
        steps = {rank: held.failure.step for rank in (0, 1) for held in ranks.told.of(Holding, rank)}
        assert steps == {ahead: 14, behind: 13}
        ranks.regroup(incarnation=2)
        assert ranks.ended() == [0] * WORLD, ranks.output(behind)
    assert ranks.told.restores[-1] == Restore(step=14, source="survivor")
    assert digests(tmp_path / "job", STEPS) == quiet(tmp_path, interrupted(tmp_path))


@pytest.mark.parametrize("dead", [0, 1])
def test_a_rank_that_dies_between_exchange_and_update_leaves_the_others_a_step_ahead(tmp_path: Path, dead: int) -> None:
    door = Door(tmp_path, 13)
    config = interrupted(tmp_path, f"--behind={dead}", "--at=13")
    with Ranks(tmp_path / "logs", config, WORLD, job_dir=tmp_path / "job", regroups=True) as ranks:
        door.arrive()
        ranks.kill(dead)
        holding(ranks, *({0, 1, 2} - {dead}))
        ranks.regroup(incarnation=2)
        assert ranks.ended() == [0] * WORLD, ranks.output(2)
    assert ranks.told.restores[-1] == Restore(step=14, source="survivor")
    assert digests(tmp_path / "job", STEPS) == quiet(tmp_path, interrupted(tmp_path))
