"""Whether the loop asks before a step what is done behind it: by what the step itself took, not by the wait for the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor

from disttrain_contract.env import RunConfig
from disttrain_runtime.agreement import EARLY_SECONDS, Wishes
from disttrain_runtime.config import Identity, Place, WorkerConfig
from disttrain_runtime.data import Batch
from disttrain_runtime.groups import Group
from disttrain_runtime.pulse import Pulse
from disttrain_runtime.rendezvous import alone
from disttrain_runtime.reporting import Reporter
from disttrain_runtime.strategies import make_strategy
from disttrain_runtime.train import Training
from support.strategy_stories import smooth

pytestmark = pytest.mark.torch


@dataclass
class World:
    """A clock that goes on only in steps and in waits, and what happened."""

    step_seconds: float
    wait_seconds: float
    now: float = 0.0
    told: list[str] = field(default_factory=list)


class Far(Group):
    """Alone, but an answer takes as long as if the others were far away."""

    world: World

    def start_agree(self, wishes: Sequence[int]) -> Callable[[], list[int]]:
        answer = Group.start_agree(self, wishes)
        if len(wishes) == len(Wishes().row()):  # what is done behind a step, and no other question
            self.world.told.append("asks")

        def wait() -> list[int]:
            self.world.now += self.world.wait_seconds
            return answer()

        return wait


def course(world: World, steps: int = 3) -> list[str]:
    """Steps and questions, in order."""
    place = Place(rank=0, world_size=1, local_rank=0)
    config = WorkerConfig(place=place, identity=Identity(), run=RunConfig(entrypoint="story"))
    task, device = smooth(steps=steps), torch.device("cpu")
    strategy = make_strategy(config.run.strategy, task, device)
    inner = strategy.step

    def step(batch: Batch) -> Tensor:
        world.told.append("steps")
        world.now += world.step_seconds
        return inner(batch)

    strategy.step = step  # type: ignore[method-assign]
    quiet = Reporter(None, lambda text: None, lambda: world.now)
    training = Training(config, task, strategy, quiet, lambda: world.now, Pulse.from_env({}))
    training.rehearse()
    with alone():
        group = Far(0, 1, device)
        object.__setattr__(group, "world", world)
        assert training.run(group, config.identity)
    return world.told


def test_a_step_that_is_short_is_asked_about_before_it_is_made_however_long_an_answer_takes() -> None:
    """The first one is not: how long a step takes is not known yet."""
    world = World(step_seconds=0.95 * EARLY_SECONDS, wait_seconds=EARLY_SECONDS)
    assert course(world) == ["steps", "asks", "asks", "steps", "asks", "steps"]


def test_a_long_step_is_asked_about_behind_it() -> None:
    """A stop that is heard a step later would cost too much, and the question little beside the step."""
    world = World(step_seconds=1.05 * EARLY_SECONDS, wait_seconds=0.1)
    assert course(world) == ["steps", "asks"] * 3
