"""etcd is restored from an old backup under a job that trains: versions and numbers go back, agents do not."""

from __future__ import annotations

from disttrain_operator.core.conditions import Type, is_true
from disttrain_operator.shell.kinds import JOBS, Raw
from disttrain_operator.shell.resync import BLIND_SECONDS, Resync
from support.fake_kube import copied
from support.operator_world import KEY, STEPS, World, process_fails
from support.raw_objects import a_raw_job

Backup = tuple[int, dict[tuple[str, str, str], Raw]]


def backup(world: World) -> Backup:
    return world.kube.version, {place: copied(found) for place, found in world.kube.objects.items()}


def restore(world: World, saved: Backup) -> None:
    """The watch says nothing of it."""
    world.kube.version, world.kube.objects = saved
    world.kube.told.clear()


async def put_back(world: World) -> World:
    """A job in its second incarnation, of whose first one there is a backup."""
    await world.until(lambda w: w.training.step >= 2)
    saved = backup(world)
    await world.until(lambda w: w.training.by == 2 and w.training.step >= 6)
    restore(world, saved)
    return world


async def test_a_new_operator_goes_on_behind_what_the_agents_have_seen() -> None:
    world = await put_back(World(faults={4: process_fails(1)}))
    world.start_operator()
    assert world.status.incarnation == 1
    await world.until(lambda w: w.finished)
    assert is_true(world.status.conditions, Type.SUCCEEDED) and world.training.step == STEPS
    assert world.status.incarnation == 3, "no agent was told an incarnation that it had left"
    assert (world.status.attempts, world.status.recoveries) == (0, 0), "nobody had failed"
    notes = [e["note"] for e in world.kube.events if e["reason"] == "StatusPutBack"]
    assert len(notes) == 1 and "in incarnation 2, the status was in 1" in notes[0]


async def test_the_operator_that_was_there_takes_the_older_job_when_a_write_shows_it() -> None:
    world = await put_back(World(faults={4: process_fails(1)}))
    await world.until(lambda w: w.finished)
    assert is_true(world.status.conditions, Type.SUCCEEDED) and world.status.incarnation == 3


async def test_what_no_write_shows_the_comparison_finds() -> None:
    world, time = World(), 0.0
    resync = Resync(world.kube, world.cache, (), lambda key: None, clock=lambda: time)
    world.kube.put(JOBS, a_raw_job("other", uid="other-uid"))
    world.kube.deliver(world.cache)
    saved = backup(world)
    world.kube.change(JOBS, "team", "other", lambda job: job["spec"].update(workers=1))
    world.kube.deliver(world.cache)
    restore(world, saved)
    await resync.compare()
    time = BLIND_SECONDS
    await resync.compare()
    assert resync.problem() is not None, "the liveness probe fails, and the next operator reads everything anew"
    assert world.cache.job(KEY) is not None
