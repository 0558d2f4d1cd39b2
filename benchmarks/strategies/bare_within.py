"""Bare loops of what goes on within a rank: half the width, activations computed again, single samples' gradients. DDP or opacus's own beside it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from opacus import PrivacyEngine
from opacus.distributed import DifferentiallyPrivateDistributedDataParallel
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.utils.data import DataLoader
from typing_extensions import override

from benchmarks.strategies.bare_ddp import Ddp
from benchmarks.strategies.bare_loop import Bare


class Autocast(Ddp):
    """Forward and backward in half the width, as torch's documentation has it."""

    @override
    def begin(self) -> None:
        super().begin()
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[self.chosen["precision"]]
        self.scaler = torch.amp.GradScaler("cpu", enabled=self.dtype is torch.float16)

    @override
    def train(self, inputs: Tensor, targets: Tensor) -> None:
        self.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=self.dtype):
            loss = self.task.loss(self.model(inputs), targets)
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.step(self.optimizer)
        self.scaler.update()


class Recomputed(Ddp):
    """Each layer with parameters keeps what goes into it."""

    @override
    def begin(self) -> None:
        apply_activation_checkpointing(self.task.model, check_fn=lambda layer: isinstance(layer, nn.Linear))
        super().begin()


class Opacus(Bare):
    """DP-SGD as its tutorial has it: its own data parallel, its Poisson sampling."""

    @override
    def begin(self) -> None:
        super().begin()
        privacy = self.chosen["privacy"]
        self.model, self.optimizer, self.loader = PrivacyEngine().make_private(
            module=DifferentiallyPrivateDistributedDataParallel(self.task.model),
            optimizer=self.optimizer,
            data_loader=DataLoader(self.task.train_data, self.task.batch_size),
            noise_multiplier=privacy.noise_multiplier,
            max_grad_norm=privacy.max_grad_norm,
        )

    @override
    def _endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self.loader

    @override
    def train(self, inputs: Tensor, targets: Tensor) -> None:
        self.optimizer.zero_grad()
        torch.autograd.backward(self.task.loss(self.model(inputs), targets))
        self.optimizer.step()
