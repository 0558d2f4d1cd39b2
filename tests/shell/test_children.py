"""Somebody deletes the Service or the claim of a job that trains. Nobody watches them: they are looked at every five minutes."""

from __future__ import annotations

import pytest

from disttrain_operator.shell.kinds import CLAIMS, SERVICES, Kind
from support.operator_world import World

FIVE_MINUTES = 300 + 10
"""In rounds of a second, with some to spare."""


@pytest.mark.parametrize(
    ("kind", "name"), [(SERVICES, "mnist"), (CLAIMS, "mnist-checkpoints")], ids=["service", "claim"]
)
async def test_what_is_deleted_under_a_running_job_is_made_again_and_training_goes_on(kind: Kind, name: str) -> None:
    world = World(steps=1000)
    await world.until(lambda w: w.training.step >= 3)
    world.kube.remove(kind, "team", name)
    await world.until(lambda w: name in w.kube.named(kind), rounds=FIVE_MINUTES)
    step = world.training.step
    await world.until(lambda w: w.training.step >= step + 3)
    assert (world.status.incarnation, world.status.recoveries, world.status.attempts) == (1, 0, 0)
    assert [w.name for w in world.kube.writes if w.kind == kind.plural] == [name, name], "made twice, and no more"
