"""The operator is replaced by another release in the middle of a recovery, and finds a status that it would not have written."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from disttrain_operator.core.conditions import Type, is_true
from disttrain_operator.shell.kinds import JOBS, Raw
from support.fake_kube import Write, crash_after
from support.operator_world import STEPS, World, process_fails


def newer(job: Raw) -> None:
    """It says more than we know, and in words that we do not know."""
    status = job["status"]
    status |= {"quorum": {"votes": [1, 2]}, "state": "Reconvening"}
    status["workers"]["quarantined"] = 1
    status["recovery"]["last"] |= {"class": "CosmicRay", "reviewedBy": ["a", "b"]}
    status["conditions"].append(
        {"type": "Quorate", "status": "Unknown", "reason": "Voting", "message": "", "lastTransitionTime": "2030-01-01T00:00:00Z"}
    )  # fmt: skip


def older(job: Raw) -> None:
    """It knew of nothing but the group, its pods and their number."""
    kept = (
        "conditions",
        "incarnation",
        "attempts",
        "workers",
        "observedGeneration",
        "startTime",
        "replacing",
        "restartAfter",
    )
    job["status"] = {name: value for name, value in job["status"].items() if name in kept}


@pytest.mark.parametrize("edit", [newer, older])
async def test_a_recovery_that_another_release_began_is_carried_through(edit: Callable[[Raw], None]) -> None:
    world = World(faults={6: process_fails(1)})
    await world.until(lambda w: w.training.step == 6)

    def dies(number: int, write: Write, do: Callable[[], Raw | None]) -> Raw | None:
        if write.verb != "update":
            return do()
        world.kube.fault = lambda number, write, do: do()
        return crash_after(number, write, do)

    world.kube.fault = dies
    await world.until(lambda w: w.crashes == 1)
    assert world.status.incarnation == 2 and {a.seen for a in world.agents.values()} == {1}, "written, not acted on"
    world.kube.change(JOBS, "team", "mnist", edit)
    world.start_operator()
    await world.until(lambda w: w.finished)
    assert is_true(world.status.conditions, Type.SUCCEEDED) and world.training.step == STEPS
    assert (world.status.incarnation, world.status.attempts) == (2, 1), "not charged again"
