"""Ways to spread a model over ranks, drawn at random, and what each of them trains; see gloo_group.together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from disttrain_contract.strategy import NONE, Parallelism, StrategyConfig
from disttrain_runtime.data import training_batches
from disttrain_runtime.pipeline.balance import CHUNKS
from disttrain_runtime.precision import KEY
from disttrain_runtime.sampler import SampleOrder
from disttrain_runtime.strategies.parted import Parted
from disttrain_runtime.strategies.replica import Replica
from disttrain_runtime.task import Task
from support.split_tasks import build, build_sequences
from support.strategy_stories import Meet, Run

STEPS = 7
"""More than two epochs of any of the data sets."""
DATA = ((29, 8), (33, 16), (22, 10), (24, 8))
"""Samples, and how many in a batch. The last batch of an epoch has 5, 1, 2, or as many as the others."""
BLOCKS = 6
"""So many, and a layer before and behind them: enough for four stages of two runs each."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Way:
    """So many ranks, and what each of them does."""

    world: int
    config: StrategyConfig
    samples: int = 29
    batch_size: int = 8
    per_worker: int = 1
    sequences: bool = False
    """The model is a transformer, else a chain of residual blocks."""

    def __str__(self) -> str:
        cut, config = self.config.parallelism, self.config
        data = self.world // (cut.stages * cut.tensor)
        words = [f"{data}x{cut.stages}x{cut.tensor}"]
        words += (
            [f"{cut.schedule}-{cut.microbatches or 'default'}-{'+'.join(cut.split) or 'balanced'}"]
            if cut.stages > 1
            else []
        )
        words += [cut.shard] * (cut.shard != NONE) + ["sequence"] * cut.sequence + ["transformer"] * self.sequences
        words += [f"accumulate{config.accumulate}"] * (config.accumulate > 1)
        words += ["clipped"] * (config.max_grad_norm is not None) + ["recomputed"] * config.activation_checkpointing
        return "-".join([*words, f"{self.samples}in{self.batch_size}"])

    def task(self) -> Task:
        """The same on every rank, and without chance."""
        torch.manual_seed(3)
        sizes: dict[str, Any] = {"steps": STEPS, "batch_size": self.batch_size, "samples": self.samples}
        task = build_sequences(**sizes) if self.sequences else build(blocks=BLOCKS, width=12, planned=True, **sizes)
        if self.config.precision == "fp32":
            return task
        # AdamW would not see whether gradients are their true size, and makes whole steps of what rounding leaves of small ones
        return replace(task, optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9))


def drawn(world: int, count: int, seed: str) -> Iterator[Way]:
    """So many different ways, all of which the API lets through."""
    random, seen = Random(f"{seed}-{world}"), set[str]()
    while len(seen) < count:
        way = _draw(world, random)
        if str(way) not in seen:
            seen.add(str(way))
            yield way


def _draw(world: int, random: Random) -> Way:
    sizes = range(1, world + 1)
    stages, tensor = random.choice([(s, t) for s in sizes for t in sizes if world % (s * t) == 0])
    sequences = tensor < 3 and random.random() < 0.4  # the transformer has 4 heads and 6 places
    names = [name for name, _ in Way(world, StrategyConfig(), sequences=sequences).task().model.named_children()]
    whole = stages == tensor == 1
    shard = random.choice((NONE, "full", "hybrid") if world == 4 else (NONE, "full")) if whole else NONE
    cut = Parallelism(tensor=tensor, shard=shard, sequence=sequences and tensor == 2 and random.random() < 0.6)
    if stages > 1:
        cut = _with_stages(cut, stages, names, random)
    config = StrategyConfig(
        parallelism=cut,
        accumulate=random.choice((1, 2, 3)) if stages == 1 else 1,
        max_grad_norm=random.choice((None, 0.5)),
        activation_checkpointing=random.random() < 0.3 and cut.schedule != "zeroBubble",
    )
    samples, batch_size = random.choice(DATA)
    return Way(world, config, samples, batch_size, 2 if shard == "hybrid" else 1, sequences)


def _with_stages(cut: Parallelism, stages: int, names: list[str], random: Random) -> Parallelism:
    schedule = random.choice([s for s in sorted(CHUNKS) if CHUNKS[s] * stages <= len(names)])
    counts: list[int | None] = [None, *(m for m in range(1, 9) if fits(schedule, m, stages))]
    runs = CHUNKS[schedule] * stages
    split = sorted(random.sample(names[1:], runs - 1), key=names.index) if random.random() < 0.5 else []
    return replace(cut, stages=stages, schedule=schedule, microbatches=random.choice(counts), split=tuple(split))


def fits(schedule: str, microbatches: int, stages: int) -> bool:
    """What torch's schedules ask for."""
    if schedule == "interleaved1f1b":
        return microbatches % max(1, microbatches // stages) == 0
    return schedule != "1f1b" or microbatches >= stages


def trained(meet: Meet, way: Way) -> dict[str, Any] | None:
    """The whole model, on rank 0, as lists: tensors would travel in memory that ends with their process."""
    run = Run(meet, way.config, way.task(), per_worker=way.per_worker)
    if way.config.precision == "fp16":
        _scale(run, 2.0**10)  # or the first step overflows in a large piece of a batch and not in a small one
    whole = run.train(range(STEPS)).strategy.whole()
    run.done()
    return {name: tensor.tolist() for name, tensor in whole["model"].items()} if run.group.leads else None


def one_process(way: Way) -> dict[str, Tensor]:
    """The textbook's loop over the same batches, which knows nothing of strategies."""
    task = way.task()
    order = SampleOrder(seed=0, samples=way.samples, batch_size=way.batch_size)
    optimizer = task.optimizer(task.model.parameters())
    assert task.schedule is not None
    schedule = task.schedule(optimizer)
    for batch in training_batches(task, order, (order.share(step, 0, 1) for step in range(STEPS)), CPU):
        optimizer.zero_grad()
        task.loss(task.model(batch.inputs), batch.targets).backward()
        if way.config.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(task.model.parameters(), way.config.max_grad_norm)
        optimizer.step()
        schedule.step()
    return task.model.state_dict()


def overflowing(meet: Meet, way: Way, victim: int) -> tuple[list[float], bool, bool]:
    """Two steps, then one whose gradient overflows in the part of one rank, then that again, and again from a copy made between.

    The scale before, after one, after two, and after the copy came back; whether this rank's part stayed as it was; whether it
    moved in a step without overflow."""
    run = Run(meet, way.config, way.task(), per_worker=way.per_worker).train(range(2))
    strategy = run.strategy
    assert isinstance(strategy, Parted)
    quiet, update = strategy.update, partial(_spoilt, strategy, strategy.update)
    before, scales = deepcopy(strategy.part_state()), [strategy.precision.scale]
    strategy.update = update if run.group.rank == victim else quiet  # type: ignore[method-assign]
    run.train(range(2, 3))
    scales.append(strategy.precision.scale)
    copy = deepcopy(strategy.part_state())
    stayed = _same(before, copy)
    run.train(range(3, 4))
    scales.append(strategy.precision.scale)
    strategy.load_part(copy)
    scales.append(strategy.precision.scale)
    strategy.update = quiet  # type: ignore[method-assign]
    run.train(range(3, 4)).done()
    return scales, stayed, not _same(before, strategy.part_state())


def _scale(run: Run, scale: float) -> None:
    assert isinstance(run.strategy, Replica)
    state = run.strategy.precision.state()
    run.strategy.precision.load({KEY: {**state[KEY], "scale": scale}})


def _spoilt(strategy: Parted, update: Callable[[], bool]) -> bool:
    gradient = next(p.grad for p in strategy.model.parameters() if p.grad is not None and p.grad.numel())
    (gradient.to_local() if isinstance(gradient, DTensor) else gradient).fill_(torch.inf)
    return update()


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(torch.equal(value, other["model"][name]) for name, value in one["model"].items())
