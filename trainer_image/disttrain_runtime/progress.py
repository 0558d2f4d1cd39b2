"""Loss and speed between two reports."""

from __future__ import annotations

import torch
from torch import Tensor

from disttrain_runtime.data import Batch


class Meter:
    """Adds up on the device, without making the processor wait for it; read only when a report is due."""

    def __init__(self, device: torch.device, now: float) -> None:
        self._since = now
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._own = self._total = 0

    def add(self, loss: Tensor, batch: Batch, *, counts: bool = True) -> None:
        """One step: this rank's mean loss counts as often as it has samples, unless another rank speaks for it."""
        if counts:
            self._loss = self._loss + loss.double() * batch.share.own
            self._own += batch.share.own
        self._total += batch.share.total

    @property
    def sums(self) -> tuple[float, float]:
        """This rank's: of losses, and of samples."""
        return float(self._loss), float(self._own)

    def read(self, loss: float, samples: float, now: float) -> tuple[float | None, float]:
        """From the sums over all ranks: mean loss and samples per second since the last reading."""
        speed = self._total / max(now - self._since, 1e-9)
        self._loss, self._own, self._total, self._since = torch.zeros_like(self._loss), 0, 0, now
        return (loss / samples if samples else None), speed
