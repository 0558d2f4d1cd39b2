"""Differentially private averaging of models: what it becomes hardly depends on any one worker's data.

Each rank has a part of the data of its own and trains on it alone. At a meeting, with c the common model,

    d_r = c - x_r      Δ = ( Σ_r  d_r · min(1, C / |d_r|)  +  N(0, (σC)² I) ) / W      c ← outer step with Δ

McMahan et al. 2018, "Learning Differentially Private Recurrent Language Models" (DP-FedAvg), where all take part in every
round and weigh the same. The outer step is DiLoCo's; with modelAveraging it is c ← c - Δ. All that comes of Δ may be seen.

Each rank adds its share of the noise, N(0, (σC)² / W), before anything leaves it: the shares add up to the whole, and no
message of any rank is without. The rest of what a rank learns stays there, because no noise covers it: moments are neither averaged
nor saved, but begin anew after every meeting, and buffers may not change. So a round is a function of the common model, the
step and the rank, and one that is broken off and run again is the same release.
"""

from __future__ import annotations

import math
import zlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from disttrain_contract.strategy import WORKER, StrategyConfig
from disttrain_runtime.checkpoint.manifest import Fingerprint
from disttrain_runtime.config import WorkerConfig
from disttrain_runtime.data import Batch
from disttrain_runtime.errors import EntrypointError, NonFiniteError, TaskError
from disttrain_runtime.groups import Group
from disttrain_runtime.privacy import Span, noise_seed
from disttrain_runtime.privacy_account import Account, run_name
from disttrain_runtime.sampler import SampleOrder, Share, split
from disttrain_runtime.strategies.di_lo_co import DiLoCo
from disttrain_runtime.strategies.local import GROUPS
from disttrain_runtime.strategies.model_averaging import ModelAveraging
from disttrain_runtime.strategies.strategy import Limit
from disttrain_runtime.strategies.weighted_sum import weighted_sum
from disttrain_runtime.task import Task

METHODS = ("modelAveraging", "diLoCo")
_MARGIN = 1e-6
"""Of the bound: each value is rounded to 6e-8 of itself, and the bound must hold."""


class PrivateAveraging(DiLoCo):
    """diLoCo or modelAveraging, clipped and with noise."""

    has_own = False
    tells_loss = False

    def __init__(self, task: Task, config: StrategyConfig, device: torch.device) -> None:
        assert config.privacy is not None
        _check(config)
        super().__init__(task, config, device)
        self.privacy = config.privacy
        self.synchronous_steps = config.synchronization.synchronous_steps or 0
        if config.synchronization.method == METHODS[0]:
            self.every = config.synchronization.every_steps or ModelAveraging.default_every
            self.rate, self.momentum = 1.0, 0.0
        self._still = {name: value.clone() for name, value in self.model.named_buffers()}
        self._meetings = [step for step in range(1, task.total_steps + 1) if self.meets(step)]
        """Each of them is a release."""

    @override
    def meets(self, finished: int) -> bool:
        return finished <= self.synchronous_steps or super().meets(finished)

    @override
    def rehearse(self, batch: Batch) -> None:
        self._keep_buffers()
        torch.autograd.backward(self.loss(batch))
        self._require_still()
        self.undo()

    @override
    def join(self, group: Group) -> None:
        _require_parts(self.task, group.world_size)
        super().join(group)

    @override
    def begin(self, config: WorkerConfig, step: int) -> Limit | None:
        done = bisect_right(self._meetings, step)
        span = Span(
            run=self._run_name(config),
            world_size=self.group.world_size,
            noise_multiplier=self.privacy.noise_multiplier,
            sample_rate=1.0,
            first=done,
            end=done,
            unit=WORKER,
        )
        last = len(self._meetings)
        self.account = Account(self.privacy, config, self.group, span, trained=step, last=last)
        limit = self.account.limit
        if limit >= last:
            return None
        end = step if limit <= done else self._meetings[limit - 1]
        return Limit(end, self.account.ending(end, self.task.total_steps))

    def _run_name(self, config: WorkerConfig) -> str:
        """On an accelerator the last bits of a step may differ when it is run again, and many steps alone make them more. So
        what another group runs there is another release: noise of its own, and it counts beside the first."""
        name = run_name(config)
        return name if self.device.type == "cpu" else f"{name}/{config.identity.incarnation}"

    @override
    def share(self, order: SampleOrder, step: int) -> Share:
        """From this rank's part of the data, which no other rank ever sees, in an order of its own."""
        return own_share(order, step, self.group.rank, self.group.world_size)

    @override
    @torch.no_grad()
    def come_together(self) -> None:
        number = bisect_right(self._meetings, self.finished) - 1
        self._require_alike()
        told = clipped([c - p for c, p in zip(self.common, self.live, strict=True)], self.privacy.max_grad_norm)
        self.account.reserve(number)
        seed = noise_seed(self.account.secret, self.account.span, number, self.group.rank)
        size = self.group.world_size
        add_noise(told, self.privacy.noise_multiplier * self.privacy.max_grad_norm, size, seed)
        self.outer_step(range(len(told)), weighted_sum(told, 1 / size))
        self.optimizer.state.clear()

    @override
    def _average_buffers(self) -> None:
        """There is nothing to average, or it would leave the rank without noise."""
        self._require_still()

    def _require_still(self) -> None:
        for name, value in self.model.named_buffers():
            if name not in self._still or not torch.equal(value, self._still[name]):
                raise TaskError(
                    f"Task: with strategy.privacy.unit worker the buffer {name!r} changes in training, and no noise would cover what it "
                    "tells about a worker's data: use layer or group normalisation in place of batch normalisation, and no running statistics"
                )

    def _require_alike(self) -> None:
        """A collective. The optimizer's numbers are saved: they may follow from the step, not from the data."""
        groups: Any = self.optimizer.state_dict()["param_groups"]
        digest = zlib.crc32(repr(groups).encode())
        largest, negative_smallest = self.group.agree([digest, -digest])
        if largest != -negative_smallest:
            raise TaskError(
                "Task: with strategy.privacy.unit worker the optimizer's groups hold other numbers on this rank than on another, so they follow from "
                "its data, and no noise covers them: use an optimizer whose learning rate is set by the schedule (SGD, Adam, AdamW)"
            )

    @override
    def state(self) -> Mapping[str, Any]:
        """Moments are nobody's: see above. There are none at a meeting."""
        whole = dict(super().state())
        whole[GROUPS] = whole.pop("optimizer")["param_groups"]
        return whole

    @override
    def become(self, state: Mapping[str, Any]) -> None:
        super().become({**state, "optimizer": {"state": {}, "param_groups": state[GROUPS]}})

    @override
    def fingerprint(self) -> Fingerprint:
        found = super().fingerprint()
        return replace(found, optimizer=f"{found.optimizer} in private {self.config.synchronization.method}")

    @override
    def metrics(self) -> Mapping[str, float]:
        return {"epsilon": self.account.epsilon(bisect_right(self._meetings, self.finished))}


def own_share(order: SampleOrder, step: int, rank: int, world_size: int) -> Share:
    """What a rank that has a part of the data to itself sees in a step. Pure."""
    first, end = split(order.samples, rank, world_size)
    begin, finish = split(order.batch_size, rank, world_size)
    mine = SampleOrder(seed=order.seed, samples=end - first, batch_size=finish - begin)
    batch = tuple(first + index for index in mine.global_batch(step))
    return Share(step, rank, batch, len(batch), order.batch_size)


def clipped(tensors: Sequence[Tensor], bound: float) -> list[Tensor]:
    """All together have this norm at most. Raises NonFiniteError: what is no number cannot be bounded."""
    norm = math.sqrt(sum(float(t.double().square().sum()) for t in tensors))
    if not math.isfinite(norm):
        raise NonFiniteError(
            "what this rank has learnt since the last exchange is NaN or infinite: lower the learning rate, or clip gradients"
        )
    factor = 1.0 if norm <= bound else (1 - _MARGIN) * bound / norm
    return [t * factor for t in tensors]


@torch.no_grad()
def add_noise(tensors: Sequence[Tensor], std: float, ranks: int, seed: int) -> None:
    """One rank's share, in place: those of all ranks add up to noise of this standard deviation."""
    generator = torch.Generator(tensors[0].device)
    generator.manual_seed(seed)
    for t in tensors:
        noise = torch.normal(0.0, std / math.sqrt(ranks), t.shape, generator=generator, device=t.device, dtype=t.dtype)
        t.add_(noise)


def _check(config: StrategyConfig) -> None:
    """What the API server refuses, for those who start ranks without one."""
    chosen = config.synchronization
    if chosen.method not in METHODS or (chosen.fragments or 1) > 1 or config.precision == "fp16":
        raise EntrypointError(
            f"strategy.privacy.unit worker goes with synchronization.method {' and '.join(METHODS)}, without fragments and fp16: "
            "what else leaves a rank would be without noise"
        )


def _require_parts(task: Task, world_size: int) -> None:
    least = min(task.batch_size, len(task.train_data))
    if least < world_size:
        raise TaskError(
            f"Task: with strategy.privacy.unit worker each of {world_size} ranks trains on a part of the data of its own, "
            f"but batch_size is {task.batch_size} and there are {len(task.train_data)} samples: at least one of each for every rank"
        )
