"""Handwritten digits with a small convolutional network: scikit-learn's 1,797 images of 8×8 pixels, nothing to download."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from disttrain_runtime.task import Task

TEST_PART = 5
"""Every fifth image, after a fixed shuffle, is kept for the test."""


class Digits(Dataset[tuple[Tensor, Tensor]]):
    """Images with their labels; when training, each image is shifted by up to a pixel, differently in every epoch."""

    def __init__(self, images: Tensor, labels: Tensor, *, shift: bool) -> None:
        self.images, self.labels, self.shift = images, labels, shift

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index]
        if self.shift:
            row, column = torch.randint(0, 3, (2,)).tolist()
            image = functional.pad(image, (1, 1, 1, 1))[:, row : row + 8, column : column + 8]
        return image, self.labels[index]


def load() -> tuple[Digits, Digits]:
    """Training and test data."""
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    images = torch.tensor(bunch.images[order], dtype=torch.float32).unsqueeze(1) / 16.0
    labels = torch.tensor(bunch.target[order], dtype=torch.int64)
    test = torch.arange(len(labels)) % TEST_PART == 0
    return Digits(images[~test], labels[~test], shift=True), Digits(images[test], labels[test], shift=False)


def network(width: int) -> nn.Module:
    """Three convolutions, the middle ones seeing 8×8 and 4×4 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(8 * width, 10),
    )  # fmt: skip


def correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 for each image that is recognised: the runtime adds them up over all workers."""
    return outputs.argmax(dim=1) == targets


def build(epochs: int = 60, batch_size: int = 96, lr: float = 0.004, width: int = 32) -> Task:
    """What to train.

    Args:
        epochs: how often each image is seen
        batch_size: images per step, over all workers together
        lr: the highest learning rate; it falls to zero along a cosine
        width: channels of the first convolution
    """
    train, test = load()
    steps = epochs * -(-len(train) // batch_size)
    return Task(
        model=network(width),
        train_data=train,
        eval_data=test,
        loss=functional.cross_entropy,
        metrics={"accuracy": correct},
        optimizer=partial(torch.optim.AdamW, lr=lr),
        schedule=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps),
        batch_size=batch_size,
        epochs=epochs,
    )
