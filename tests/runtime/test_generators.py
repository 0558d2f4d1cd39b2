"""The global generators, started anew."""

from __future__ import annotations

import random

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from disttrain_runtime.generators import reseed
from disttrain_runtime.randomness import Stream

pytestmark = pytest.mark.torch


def draw(*where: int) -> tuple[float, float, float]:
    reseed(0, Stream.MODEL, *where)
    return float(torch.rand(())), float(np.random.rand()), random.random()


def test_the_same_step_draws_the_same_numbers_and_its_neighbours_others() -> None:
    first = draw(5, 1)
    for other in (draw(6, 1), draw(5, 0)):
        assert all(a != b for a, b in zip(first, other, strict=True))
    assert draw(5, 1) == first
