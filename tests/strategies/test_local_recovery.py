"""Replicas that train alone are killed, stopped, started anew: they go on from the last time they met."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from disttrain_contract.env import RunConfig
from disttrain_contract.messages import Holding, Restore
from support.gloo_ranks import Door, Ranks, digests
from support.local_methods import SLOW_RING, STEPS, WORLD, config, run, with_door

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]

METHODS: dict[str, dict[str, Any]] = {
    "modelAveraging": {"every_steps": 4},
    "diLoCo": {"every_steps": 4, "fragments": 2},
    "roundRobin": {"every_steps": 2},
    "asyncRing": {"max_staleness": 2, "meet_every_steps": 4},
    "gossip": {"meet_every_steps": 4},
}
"""All of them meet after step 12."""


def of(method: str, *args: str, save: int = 100, **other: Any) -> RunConfig:
    """Deterministic: rounds of the ring come back when they are waited for, and not before."""
    chosen = config(method, *args, save=save, **(METHODS[method] | other))
    return replace(chosen, entrypoint=SLOW_RING) if method == "asyncRing" else chosen


def killed_at_13(folder: Path, chosen: RunConfig) -> Ranks:
    """One rank dies before step 13, the others hold."""
    door = Door(folder, 13)
    ranks = Ranks(folder / "logs", with_door(chosen, folder, 13), WORLD, job_dir=folder / "job", regroups=True)
    door.arrive()
    ranks.kill(1)
    holding = {0, 2}
    while holding:
        holding -= {rank for rank, _, body in ranks.told.messages if isinstance(body, Holding)}
        if holding:
            ranks.wait_for(lambda _, body: isinstance(body, Holding))
    return ranks


@pytest.mark.parametrize(
    ("method", "other"),
    [("modelAveraging", {}), ("diLoCo", {"fragments": 1}), ("asyncRing", {}), ("gossip", {})],
)
def test_a_killed_rank_costs_no_bit_if_it_has_nothing_of_its_own(
    tmp_path: Path, method: str, other: dict[str, Any]
) -> None:
    """With plain SGD only modelAveraging would have had moments, and those it averages: there AdamW is as good."""
    chosen = of(method, "--optimizer=adamw" if method == "modelAveraging" else "--optimizer=sgd", **other)
    run(tmp_path, "quiet", chosen)
    with killed_at_13(tmp_path, chosen) as ranks:
        ranks.regroup(incarnation=2)
        assert ranks.ended() == [0] * WORLD, ranks.output(0)
    assert ranks.told.restores[-1] == Restore(step=12, source="survivor")
    assert digests(tmp_path / "job", STEPS) == digests(tmp_path / "quiet", STEPS)


@pytest.mark.parametrize("method", ["roundRobin", "diLoCo", "gossip"])
@pytest.mark.parametrize("world", [WORLD, 2])
def test_what_only_the_dead_rank_had_is_lost_and_training_goes_on(tmp_path: Path, method: str, world: int) -> None:
    """With its place filled again, or without it: a turn passes, pairs are others."""
    with killed_at_13(tmp_path, of(method)) as ranks:
        if world < WORLD:
            ranks.kill(2)
        ranks.regroup(incarnation=2, world=world)
        assert ranks.ended()[:world] == [0] * world, ranks.output(0)
    assert ranks.told.restores[-1] == Restore(step=12, source="survivor")
    assert ranks.told.progress.metrics["accuracy"] > 0.6


@pytest.mark.parametrize("method", METHODS)
def test_killed_and_restored_from_the_volume_equals_never_killed_bit_for_bit(tmp_path: Path, method: str) -> None:
    """Each rank's own moments, replica and counts are in the checkpoint."""
    chosen = of(method, save=4)
    run(tmp_path, "quiet", chosen)
    door = Door(tmp_path, 13)
    with Ranks(tmp_path / "logs", with_door(chosen, tmp_path, 13), WORLD, job_dir=tmp_path / "job") as ranks:
        door.arrive()
        ranks.kill(1)
        ranks.ended()
    assert run(tmp_path, "job", chosen, incarnation=2).told.restores[0].step == 12
    assert digests(tmp_path / "job", STEPS) == digests(tmp_path / "quiet", STEPS)


@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_loads_into_another_world_size(tmp_path: Path, method: str) -> None:
    """Told to stop at 13: the group stops at its next meeting, and two ranks go on, then four."""
    chosen = of(method)
    door = Door(tmp_path, 13)
    with Ranks(tmp_path / "logs", with_door(chosen, tmp_path, 13), WORLD, job_dir=tmp_path / "job") as ranks:
        door.arrive()
        ranks.kill(1, signal.SIGTERM)
        door.open()
        assert ranks.ended() == [143] * WORLD
    met = ranks.told.checkpoints[-1].step
    assert 13 < met < STEPS
    for incarnation, world, steps in ((2, 2, STEPS), (3, 4, 30)):
        longer = replace(chosen, args=(f"--steps={steps}",))
        told = run(tmp_path, "job", longer, world=world, incarnation=incarnation).told
        assert (told.restores[0].step, told.progress.step) == (met, steps)
        assert told.progress.metrics["accuracy"] > 0.6
        met = steps


def test_a_checkpoint_of_another_method_is_refused_where_it_lacks_something(tmp_path: Path) -> None:
    run(tmp_path, "job", config("allReduce"))
    with Ranks(tmp_path / "logs", of("diLoCo"), 2, job_dir=tmp_path / "job", incarnation=2) as ranks:
        assert 0 not in ranks.ended()
        assert "in diLoCo" in ranks.told.failure(0).message


def test_a_rank_that_trains_alone_hears_that_its_group_is_over(tmp_path: Path) -> None:
    """Nothing breaks between two meetings, and the next one may be far."""
    chosen = with_door(config("modelAveraging", "--steps=3000", every_steps=3000), tmp_path, 5, rank=0)
    chosen = replace(chosen, args=tuple(a for a in chosen.args if a != f"--steps={STEPS}"))
    door = Door(tmp_path, 5)
    with Ranks(tmp_path / "logs", chosen, 2, job_dir=tmp_path / "job", regroups=True) as ranks:
        door.arrive()
        ranks.hold(incarnation=2)
        door.open()
        held = ranks.wait_for(lambda rank, body: rank == 0 and isinstance(body, Holding))
        assert 6 <= held.failure.step < 3000
