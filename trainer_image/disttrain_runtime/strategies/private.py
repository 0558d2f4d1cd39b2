"""Differentially private SGD: what the model becomes hardly depends on any one sample.

Each sample of the data set takes part in a step with probability q = batch_size / samples, independently. Its gradient is
clipped to the norm C; the sum over all ranks gets Gaussian noise of standard deviation (noise multiplier) × C and is
divided by the expected batch size:

    g = ( Σ_i  g_i · min(1, C / |g_i|)  +  N(0, (σC)² I) ) / batch_size

Abadi et al. 2016, "Deep Learning with Differential Privacy". Per-sample gradients, clipping and noise are opacus's.
Rank 0 adds the whole noise before the gradients are exchanged, so it is the same for any number of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from opacus.validators import ModuleValidator
from torch import Tensor, nn
from typing_extensions import override

from disttrain_contract.stall import Phase
from disttrain_contract.strategy import StrategyConfig
from disttrain_runtime.config import WorkerConfig
from disttrain_runtime.data import Batch
from disttrain_runtime.errors import EntrypointError, TaskError
from disttrain_runtime.guard import require_finite
from disttrain_runtime.privacy import Span, noise_seed, poisson
from disttrain_runtime.privacy_account import Account, run_name
from disttrain_runtime.sampler import SampleOrder, Share, share_of
from disttrain_runtime.strategies.microbatch import Microbatch, microbatches
from disttrain_runtime.strategies.replica import Replica
from disttrain_runtime.strategies.strategy import Limit
from disttrain_runtime.task import Task, call


class Private(Replica):
    """Replicas that start equal and stay equal, and the account of what they have told about the data."""

    tells_loss = False

    def __init__(self, task: Task, config: StrategyConfig, device: torch.device) -> None:
        assert config.privacy is not None
        _check(task)
        if config.activation_checkpointing:
            raise EntrypointError(
                "strategy.privacy with activationCheckpointing is not built: opacus would see each layer run twice; use accumulate"
            )
        super().__init__(task, config, device)
        self.privacy = config.privacy
        self._samples = _per_sample(self.model)
        self._generator = torch.Generator(device)
        self._private = DPOptimizer(
            self.optimizer,
            noise_multiplier=self.privacy.noise_multiplier,
            max_grad_norm=self.privacy.max_grad_norm,
            expected_batch_size=task.batch_size,
            generator=self._generator,
        )
        self._finished = 0

    @property
    @override
    def forward_model(self) -> nn.Module:
        samples: nn.Module = self._samples
        return samples

    @override
    def rehearse(self, batch: Batch) -> None:
        self._keep_buffers()
        torch.autograd.backward(self.loss(batch))
        self.undo()

    @override
    def begin(self, config: WorkerConfig, step: int) -> Limit | None:
        span = Span(
            run=run_name(config),
            world_size=self.group.world_size,
            noise_multiplier=self.privacy.noise_multiplier,
            sample_rate=self.task.batch_size / len(self.task.train_data),
            first=step,
            end=step,
        )
        self.account = Account(self.privacy, config, self.group, span, trained=step, last=self.task.total_steps)
        self._finished = step
        limit, total = self.account.limit, self.task.total_steps
        return Limit(limit, self.account.ending(limit, total)) if limit < total else None

    @override
    def share(self, order: SampleOrder, step: int) -> Share:
        drawn = poisson(self.account.secret, self.account.span, step, order.samples)
        return share_of(drawn, step, self.group.rank, self.group.world_size)

    @override
    def step(self, batch: Batch) -> Tensor:
        self.account.reserve(batch.share.step)
        self._private.zero_grad(set_to_none=True)
        loss = self._clipped(batch) if batch.share.own else torch.zeros((), device=self.device)
        self._exchange(batch.share.step)
        self.update()
        self._finished = batch.share.step + 1
        return loss

    @override
    def undo(self) -> None:
        super().undo()
        self._private.zero_grad(set_to_none=True)

    @override
    def metrics(self) -> Mapping[str, float]:
        return {"epsilon": self.account.epsilon(self._finished)}

    def _clipped(self, batch: Batch) -> Tensor:
        """The sum of the clipped gradients of this rank's samples, in `summed_grad` of each parameter."""
        mean = torch.zeros((), device=self.device)
        self._keep_buffers()
        for micro in microbatches(batch, self.config.accumulate):
            loss = self.loss(micro)
            require_finite(loss, batch.share.step, self.group.rank)
            self.enter(Phase.BACKWARD)
            torch.autograd.backward(loss)
            self._private.clip_and_accumulate()
            for parameter in self._private.params:
                parameter.grad_sample = None
            mean += loss.detach() * micro.part
        return mean

    def _exchange(self, step: int) -> None:
        """`grad` of each parameter becomes that of the whole step, noise and all. One message: clipping needs the norm over
        all layers, so there is nothing that could travel earlier."""
        parameters = self._private.params
        for parameter in parameters:
            if parameter.summed_grad is None:  # no sample fell to this rank
                parameter.summed_grad = torch.zeros_like(parameter)
        if self.group.leads:
            self._generator.manual_seed(noise_seed(self.account.secret, self.account.span, step))
            self._private.add_noise()
            parts = [parameter.grad for parameter in parameters]
        else:
            parts = [parameter.summed_grad for parameter in parameters]
        self.enter(Phase.SYNCHRONISING)
        flat = torch.cat([part.reshape(-1) for part in parts])
        dist.all_reduce(flat)
        flat /= self.task.batch_size
        for parameter, part in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)

    @override
    def loss(self, batch: Batch | Microbatch) -> Tensor:
        self.enter(Phase.FORWARD)
        loss = self.task.loss(call(self.forward_model, batch.inputs), batch.targets)
        if not isinstance(loss, Tensor) or loss.dim() != 0 or not loss.requires_grad:
            raise TaskError("Task: loss must give a scalar tensor that depends on the parameters")
        return loss


def _check(task: Task) -> None:
    if task.batch_size > len(task.train_data):
        raise TaskError(
            f"Task: with strategy.privacy each sample is drawn with probability batch_size / samples, but batch_size is {task.batch_size} "
            f"and there are {len(task.train_data)} samples: choose a smaller batch_size"
        )
    if problems := ModuleValidator.validate(task.model, strict=False):
        raise TaskError(
            f"Task: with strategy.privacy the gradient of each sample must be its own: {'; '.join(map(str, problems))}"
        )


def _per_sample(model: nn.Module) -> GradSampleModule:
    try:
        return GradSampleModule(model, loss_reduction="mean")
    except NotImplementedError as error:
        raise TaskError(f"Task: opacus has no per-sample gradients for this model: {error}") from None
