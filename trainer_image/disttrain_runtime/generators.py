"""The global generators of torch, numpy and Python, started anew from a key at every step."""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import torch

from disttrain_runtime.randomness import Stream, key


def reseed(seed: int, stream: Stream, step: int, rank: int) -> None:
    """Start torch's, numpy's and Python's global generators from (seed, step, rank). About 40 µs on a CPU."""
    bits = key(seed, stream, step, rank)
    reseed_torch(bits)
    np.random.seed((bits & 0xFFFFFFFF, bits >> 32))
    random.seed(bits)


def reseed_torch(bits: int) -> None:
    """`torch.manual_seed`. Where there is no GPU, without noting the caller's stack for one that may come: a third of a millisecond."""
    if _has_gpu():
        torch.manual_seed(bits)
    else:
        torch.default_generator.manual_seed(bits)


@cache
def _has_gpu() -> bool:
    """Asked once: it is asked in every step."""
    return torch.cuda.is_available()
