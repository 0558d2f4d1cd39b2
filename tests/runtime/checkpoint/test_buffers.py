"""The copy that training waits for."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from disttrain_runtime.checkpoint.buffers import Buffers
from disttrain_runtime.checkpoint.tensor_file import parse

pytestmark = pytest.mark.torch


def weights(buffers: Buffers, tensor: torch.Tensor) -> memoryview:
    body = buffers.capture({"model": {"w": tensor}}).finish().files["model.safetensors"].body
    assert body is not None
    return memoryview(body.map)


def test_training_may_go_on_changing_what_was_captured() -> None:
    weight = torch.ones(4)
    captured = weights(Buffers(), weight)
    weight.zero_()
    assert bytes(captured) == bytes(torch.ones(4).numpy().tobytes())


def test_the_memory_is_used_again() -> None:
    buffers = Buffers()
    first = weights(buffers, torch.ones(1000))
    second = weights(buffers, torch.zeros(1000))
    assert (
        torch.frombuffer(first, dtype=torch.float32).data_ptr()
        == torch.frombuffer(second, dtype=torch.float32).data_ptr()
    )


def test_state_that_has_grown_gets_more_memory() -> None:
    buffers = Buffers()
    weights(buffers, torch.ones(10))
    files = buffers.capture({"model": {"w": torch.ones(10), "v": torch.ones(20)}}).finish().files
    assert parse(b"".join(bytes(p) for p in files["model.safetensors"].parts))["v"].shape == (20,)
