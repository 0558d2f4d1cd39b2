"""What ranks do in stories about models that are cut; see gloo_group.together."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from disttrain_contract.strategy import Parallelism, StrategyConfig
from disttrain_runtime.buddies import Buddies
from disttrain_runtime.data import training_batches
from disttrain_runtime.groups import Group, leave_group
from disttrain_runtime.sampler import SampleOrder
from disttrain_runtime.strategies import make_strategy
from disttrain_runtime.strategies.fsdp import FullyShard
from disttrain_runtime.survivors import NOTHING
from support.split_tasks import build
from support.strategy_stories import BrokenOff, Meet

STEPS, BROKEN = 8, 5


class Half:
    """One rank's strategy: a model cut in two inside a worker, with a copy in another worker."""

    def __init__(self, group: Group) -> None:
        torch.manual_seed(3)
        self.task, self.group = build(steps=STEPS), group
        config = StrategyConfig(parallelism=Parallelism(shard="hybrid"), max_grad_norm=0.5)
        made = make_strategy(config, self.task, torch.device("cpu"))
        assert isinstance(made, FullyShard)
        self.strategy = made
        self.strategy.join(group)
        self.buddies = Buddies(self.strategy, 0, time.monotonic)
        self.buddies.join(group)

    def train(self, steps: range) -> Half:
        order = SampleOrder(seed=0, samples=len(self.task.train_data), batch_size=self.task.batch_size)
        shares = (self.strategy.share(order, step) for step in steps)
        for batch in training_batches(self.task, order, shares, self.group.device):
            self.strategy.step(batch)
        return self

    @property
    def weights(self) -> list[list[float]]:
        model: Mapping[str, Tensor] = self.strategy.part_state()["model"]
        return [tensor.reshape(-1).tolist() for tensor in model.values()]


def broken_off_before_its_update(
    meet: Meet, victims: tuple[int, ...]
) -> tuple[Any, list[list[float]], list[list[float]]]:
    """Some are broken off while they wait in step 5, which the others finish; the last rank dies. Where they go on from;
    the weights at the end, and those of a quiet run."""
    group, _ = meet()
    group = replace(group, per_worker=2)
    quiet = Half(group)
    quiet.strategy.equalise()
    expected = quiet.train(range(STEPS)).weights
    half = Half(group)
    half.strategy.equalise()
    half.train(range(BROKEN))
    met = BROKEN + 1
    if group.rank in victims:
        half.strategy.before_update = _break
        met = BROKEN
    with suppress(BrokenOff):
        half.train(range(BROKEN, BROKEN + 1))
    half.strategy.before_update = lambda: None
    group.barrier()  # or the end of the group would break off others, too
    leave_group()
    group = replace(meet()[0], per_worker=2)
    if group.rank == group.world_size - 1:
        half, met = Half(group), NOTHING
    else:
        half.group = group
        half.strategy.join(group)
        half.buddies.join(group)
    went_on = half.buddies.recall(met, 0)
    return went_on, half.train(range(BROKEN + 1, STEPS)).weights, expected


def _break() -> None:
    raise BrokenOff
