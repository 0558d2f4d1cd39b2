"""A rank dies, the others live: the group forms anew from what they hold, and nobody can tell from the result."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from safetensors.numpy import load_file
from tests.distributed.test_group_training import expected_ledger

from disttrain_contract.env import CheckpointConfig, RunConfig
from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import Holding, RankEvent, Restore
from support.gloo_ranks import Door, Ranks, digests

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]

WORLD, STEPS = 3, 24
PLAIN = ("--norm=false",)
"""Batch statistics are each rank's own between two steps; the new rank 0 of a group has others than the old one had."""
TASK = RunConfig(
    entrypoint="support.gloo_tasks:build",
    args=(f"--steps={STEPS}",),
    checkpoint=CheckpointConfig(every_steps=100, asynchronous=False),
)


def quiet(folder: Path, config: RunConfig = TASK) -> dict[str, str]:
    """What an uninterrupted run ends with."""
    with Ranks(folder / "quiet-logs", config, WORLD, job_dir=folder / "quiet") as ranks:
        assert ranks.ended() == [0] * WORLD, ranks.output(0)
    return digests(folder / "quiet", STEPS)


def stopped_at(folder: Path, at: int, rank: int = 1, config: RunConfig = TASK) -> tuple[Ranks, Door]:
    """A group whose rank stands before step `at`; the others wait for it inside that step.

    Late, so that a replacement, which counts its own steps, does not come to the door again.
    """
    door = Door(folder, at)
    config = replace(config, args=(*config.args, f"--doors={folder}", f"--at=[{at}]", f"--rank={rank}"))
    ranks = Ranks(folder / "logs", config, WORLD, job_dir=folder / "job", regroups=True)
    door.arrive()
    return ranks, door


def holding(ranks: Ranks, *who: int) -> None:
    """Wait until these ranks have said that they hold."""
    waiting = set(who)
    while waiting - {rank for rank, event, _ in ranks.told.messages if event is RankEvent.HOLDING}:
        ranks.wait_for(lambda rank, body: isinstance(body, Holding))


@pytest.mark.parametrize(("victim", "extra"), [(1, ()), (2, ()), (0, PLAIN)])
def test_a_killed_rank_costs_no_step_and_no_bit(tmp_path: Path, victim: int, extra: tuple[str, ...]) -> None:
    """Also when it is rank 0, which held the store, the reports and the checkpoints."""
    config = replace(TASK, args=(*TASK.args, *extra))
    ranks, _ = stopped_at(tmp_path, at=13, rank=victim, config=config)
    with ranks:
        ranks.kill(victim)
        holding(ranks, *({0, 1, 2} - {victim}))
        ranks.regroup(incarnation=2)
        assert ranks.ended() == [0] * WORLD, ranks.output(0)
    assert ranks.told.restores[-1] == Restore(step=13, source="survivor")
    assert digests(tmp_path / "job", STEPS) == quiet(tmp_path, config)


def test_survivors_say_who_they_are_victims_of_and_keep_their_process(tmp_path: Path) -> None:
    ranks, _ = stopped_at(tmp_path, at=15)
    with ranks:
        pids = [process.pid for process in ranks.processes]
        ranks.kill(1)
        holding(ranks, 0, 2)
        assert {h.failure.failure_class for h in ranks.told.of(Holding)} == {FailureClass.NETWORK}
        assert {h.failure.step for h in ranks.told.of(Holding)} == {15}
        ranks.regroup(incarnation=2)
        assert ranks.ended() == [0] * WORLD
        assert [p.pid for p in ranks.processes][::2] == pids[::2] and ranks.processes[1].pid != pids[1]


def test_an_order_ends_the_wait_for_a_rank_that_is_stopped(tmp_path: Path) -> None:
    """No connection breaks when a process is stopped: the others would wait for half an hour."""
    ranks, _ = stopped_at(tmp_path, at=14)
    with ranks:
        ranks.kill(1, signal.SIGSTOP)
        ranks.hold(incarnation=2)
        holding(ranks, 0, 2)
        ranks.kill(1)
        ranks.regroup(incarnation=2)
        assert ranks.ended() == [0] * WORLD
    assert digests(tmp_path / "job", STEPS) == quiet(tmp_path)


def test_three_deaths_in_a_row(tmp_path: Path) -> None:
    """Also while the group is forming: the order for the third group overtakes the second one."""
    ranks, _ = stopped_at(tmp_path, at=14)
    with ranks:
        ranks.kill(1)
        holding(ranks, 0, 2)
        ranks.regroup(incarnation=2)
        ranks.kill(1)
        ranks.regroup(incarnation=3)
        ranks.wait_for(lambda _, body: isinstance(body, Restore) and body.source == "survivor")
        ranks.kill(2)
        ranks.regroup(incarnation=4)
        assert ranks.ended() == [0] * WORLD, ranks.output(0)
    assert digests(tmp_path / "job", STEPS) == quiet(tmp_path)


def test_all_but_one_die(tmp_path: Path) -> None:
    ranks, _ = stopped_at(tmp_path, at=16)
    with ranks:
        for rank in (1, 2):
            ranks.kill(rank)
        holding(ranks, 0)
        ranks.regroup(incarnation=2)
        assert ranks.ended() == [0] * WORLD
    assert digests(tmp_path / "job", STEPS) == quiet(tmp_path)


def test_a_rank_that_is_told_to_stop_while_it_holds_saves_what_it_has(tmp_path: Path) -> None:
    ranks, _ = stopped_at(tmp_path, at=11)
    with ranks:
        ranks.kill(1)
        holding(ranks, 0, 2)
        ranks.kill(0, signal.SIGTERM)
        ranks.kill(2, signal.SIGTERM)
        assert ranks.ended()[::2] == [143, 143]
    assert ranks.told.checkpoints[-1].step == 11


def test_the_group_shrinks_and_grows_and_sees_every_sample_once(tmp_path: Path) -> None:
    """Rank 2 dies and nobody takes its place for a while: the same batches, in larger shares."""
    config = replace(TASK, entrypoint="support.gloo_tasks:build_ledger", args=(f"--doors={tmp_path}", "--at=[7,12]"))
    doors = Door(tmp_path, 7), Door(tmp_path, 12)
    with Ranks(tmp_path / "logs", config, WORLD, job_dir=tmp_path / "job", regroups=True) as ranks:
        doors[0].arrive()
        ranks.kill(2)
        doors[0].open()
        holding(ranks, 0, 1)
        ranks.regroup(incarnation=2, world=2)
        doors[1].arrive()
        ranks.hold(incarnation=3)
        doors[1].open()
        ranks.regroup(incarnation=3, world=3)
        assert ranks.ended() == [0] * 3, ranks.output(0)
    assert [r.source for r in ranks.told.restores] == ["none", "survivor", "survivor"]
    seen = load_file(tmp_path / "job" / "checkpoints" / "step-00000018" / "model.safetensors")["seen"]
    assert abs(seen - expected_ledger(44, 8, 18).numpy()).max() < 1e-5
