"""The operator dies, or is lied to, at every single write of a job's life. Whatever happens, the job ends as it would have.

The life: made, a process fails, a pod vanishes, suspended and resumed, finished, deleted after its time. Every write that the
undisturbed life makes is disturbed once in every way; then pairs of writes, at random.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from functools import cache

import pytest

from disttrain_operator.core.conditions import Type, is_true
from disttrain_operator.core.model import Status
from disttrain_operator.shell.errors import ClusterError, Conflict
from disttrain_operator.shell.kinds import CLAIMS, JOBS, PODS, Raw
from support.fake_kube import Fault, Write, crash_after, crash_before, done_but_failed, not_arrived, reply_lost
from support.operator_world import STEPS, World, pod_vanishes, process_fails

Do = Callable[[], Raw | None]


def suspends(world: World) -> None:
    world.kube.change(
        JOBS, "team", "mnist", lambda j: (j["spec"].update(suspend=True), j["metadata"].update(generation=2))
    )


def resume(world: World) -> None:
    world.kube.change(
        JOBS, "team", "mnist", lambda j: (j["spec"].update(suspend=False), j["metadata"].update(generation=3))
    )


def a_life() -> World:
    faults = {3: process_fails(1), 6: pod_vanishes(0), 9: suspends}
    return World(workers=2, faults=faults, ttlSecondsAfterFinished=3)


async def live(world: World) -> Status:
    """To the end; the last status that was seen."""
    last = world.status
    for _ in range(200):
        if "mnist" not in world.kube.named(JOBS):
            return last
        if is_true(last.conditions, Type.SUSPENDED) and world.kube.named(JOBS)["mnist"]["spec"]["suspend"]:
            resume(world)
        await world.round()
        last = world.status if "mnist" in world.kube.named(JOBS) else last
    raise AssertionError(f"no end: {last.state} in incarnation {last.incarnation}; {world.agents}")


def disturbed(at: frozenset[int], how: Callable[[World], Fault]) -> tuple[World, Status]:
    world = a_life()
    fault = how(world)

    def once(number: int, write: Write, do: Do) -> Raw | None:
        return fault(number, write, do) if number in at else do()

    world.kube.fault = once
    return world, asyncio.run(live(world))


@cache
def undisturbed() -> tuple[World, Status]:
    return disturbed(frozenset(), lambda world: reply_lost)


def conflicts(world: World) -> Fault:
    """Somebody else writes the object first."""

    def fault(number: int, write: Write, do: Do) -> Raw | None:
        if write.verb == "update":
            world.kube.change(
                JOBS, "team", "mnist", lambda j: j["metadata"].setdefault("annotations", {}).update(a="b")
            )
            raise Conflict("modified", code=409)
        raise ClusterError("500", code=500)

    return fault


def goes_deaf(world: World) -> Fault:
    """The write is done, and the watch tells nothing for a while."""

    def fault(number: int, write: Write, do: Do) -> Raw | None:
        world.deaf_rounds = 4
        return do()

    return fault


def relists_the_past(world: World) -> Fault:
    """The reply is lost, the operator dies, and its successor sees the watch late."""

    def fault(number: int, write: Write, do: Do) -> Raw | None:
        world.deaf_rounds = 2
        return crash_after(number, write, do)

    return fault


WAYS: dict[str, Callable[[World], Fault]] = {
    "crash before": lambda world: crash_before,
    "crash after": lambda world: crash_after,
    "reply lost": lambda world: reply_lost,
    "done but 500": lambda world: done_but_failed,
    "not arrived": lambda world: not_arrived,
    "conflict": conflicts,
    "deaf watch": goes_deaf,
    "crash and deaf": relists_the_past,
}


def check(world: World, last: Status) -> None:
    expected = undisturbed()[1]
    assert is_true(last.conditions, Type.SUCCEEDED), last
    assert (last.incarnation, last.attempts, last.recoveries) == (
        expected.incarnation,
        expected.attempts,
        expected.recoveries,
    )
    history = world.training.history
    assert history[-1][1] == STEPS and [n for n, _ in history] == sorted(n for n, _ in history)
    assert not world.kube.named(PODS), "nothing is left over"
    assert "mnist-checkpoints" in world.kube.named(CLAIMS), "but the checkpoints"
    events = Counter((e["reason"], e["note"]) for e in world.kube.events)
    assert max(events.values()) == 1, f"said twice: {events}"


def test_the_undisturbed_life_is_what_we_think_it_is() -> None:
    world, last = undisturbed()
    check(world, last)
    assert (last.incarnation, last.attempts, last.recoveries) == (4, 1, 2)
    verbs = Counter((w.verb, w.kind) for w in world.kube.writes)
    assert verbs["create", "pods"] == 5 and verbs["delete", "disttrainjobs"] == 1
    assert verbs["update", "disttrainjobs"] <= 20


@pytest.mark.parametrize("way", WAYS, ids=WAYS)
def test_every_write_may_go_wrong(way: str) -> None:
    for number in range(len(undisturbed()[0].kube.writes)):
        world, last = disturbed(frozenset({number}), WAYS[way])
        try:
            check(world, last)
        except AssertionError as error:
            raise AssertionError(f"write {number}, {world.kube.writes[number]}: {error}") from error


@pytest.mark.parametrize("way", WAYS, ids=WAYS)
def test_any_writes_may_go_wrong_together(way: str) -> None:
    chance = random.Random(way)
    for _ in range(15):
        at = frozenset(chance.sample(range(len(undisturbed()[0].kube.writes)), 4))
        world, last = disturbed(at, WAYS[way])
        try:
            check(world, last)
        except AssertionError as error:
            raise AssertionError(f"writes {sorted(at)}: {error}") from error
