"""Numbers of half the width in forward and backward passes; parameters and their updates stay in single precision.

Loss scaling as in Micikevicius et al. 2018, "Mixed Precision Training": a step whose gradients overflow is left out, and
the scale is halved. Gradients are alike on all ranks when they are looked at, so all leave out the same step. Where each rank
has gradients of its own part of the model, all agree (`true_gradients`, `settle`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
KEY = "scaler"


class Precision:
    """Of one rank's model."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.dtype, self.device = DTYPES[name], device
        self._scaler = torch.amp.GradScaler(device.type) if self.dtype is torch.float16 else None

    def forward(self) -> AbstractContextManager[Any]:
        """Around forward pass and loss."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def scaled(self, loss: Tensor) -> Tensor:
        """What to run backward."""
        return self._scaler.scale(loss) if self._scaler is not None else loss

    @property
    def scale(self) -> float:
        """What gradients are multiplied by until `update`."""
        return self._scaler.get_scale() if self._scaler is not None else 1.0

    def update(self, optimizer: Optimizer, max_norm: float | None, parameters: Iterable[nn.Parameter]) -> bool:
        """Clip the true gradients, all of them together, and step. False: some are not finite, and the step is left out."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)
        if max_norm is not None:
            nn.utils.clip_grad_norm_(parameters, max_norm)
        if self._scaler is None:
            optimizer.step()
            return True
        self._scaler.step(optimizer)
        before = self._scaler.get_scale()
        self._scaler.update()
        return self._scaler.get_scale() >= before

    def true_gradients(self, gradients: Iterable[Tensor]) -> bool:
        """Make these, which are plain tensors, what they are without the scale. False: some are not finite."""
        if self._scaler is None:
            return True
        sound = torch.ones((), dtype=torch.bool, device=self.device)
        for gradient in gradients:
            gradient.div_(self.scale)
            sound &= gradient.isfinite().all()
        return bool(sound)

    def settle(self, overflowed: bool) -> None:
        """The scale of the next step: what `update` does, where it is agreed whether this one overflowed."""
        if self._scaler is None:
            return
        state = self._scaler.state_dict()
        state["_growth_tracker"] = 0 if overflowed else state["_growth_tracker"] + 1
        if overflowed:
            state["scale"] *= state["backoff_factor"]
        elif state["_growth_tracker"] == state["growth_interval"]:
            state["scale"] *= state["growth_factor"]
            state["_growth_tracker"] = 0
        self._scaler.load_state_dict(state)

    def state(self) -> dict[str, Any]:
        """Of the loss scale, if there is one."""
        return {KEY: self._scaler.state_dict()} if self._scaler is not None else {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Its inverse. A checkpoint of another precision has none: the scale is found again in some steps."""
        if self._scaler is not None and KEY in state:
            self._scaler.load_state_dict(dict(state[KEY]))
