"""Our writer, the library's reader."""

from __future__ import annotations

import struct

import pytest

pytest.importorskip("torch")

import torch

from disttrain_runtime.checkpoint.buffers import Buffers
from disttrain_runtime.checkpoint.tensor_file import NAMES, lay_out, parse
from disttrain_runtime.errors import TaskError

pytestmark = pytest.mark.torch


def file_of(tensors: dict[str, torch.Tensor]) -> bytes:
    return b"".join(
        bytes(part) for part in Buffers().capture({"model": tensors}).finish().files["model.safetensors"].parts
    )


def test_every_dtype_and_shape_reads_back_to_the_bit() -> None:
    tensors = {
        f"{name}.{shape}": torch.randint(0, 256, (*shape, dtype.itemsize), dtype=torch.uint8).view(dtype).squeeze(-1)
        for dtype, name in NAMES.items() if dtype != torch.bool for shape in [(), (1,), (3, 5)]
    }  # fmt: skip
    tensors |= {"flags": torch.tensor([True, False, True]), "none": torch.zeros(0, 4), "scalar": torch.tensor(1.5)}
    back = parse(file_of(tensors))
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (back[name].dtype, back[name].shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(back[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), name


def test_views_and_tied_weights_are_written_as_what_they_are() -> None:
    base = torch.arange(12.0).reshape(3, 4)
    back = parse(file_of({"turned": base.t(), "part": base[1:, ::2], "tied": base, "tied too": base}))
    assert torch.equal(back["turned"], base.t())
    assert torch.equal(back["part"], base[1:, ::2])
    assert torch.equal(back["tied too"], base)


def test_data_is_aligned_and_equal_state_gives_equal_files() -> None:
    a, b = torch.ones(3, dtype=torch.uint8), torch.ones(5, dtype=torch.float64)
    layout = lay_out({"a": a, "b": b})
    assert len(layout.header) % 8 == 0
    assert [s.name for s in layout.slots] == ["b", "a"]
    assert all(s.offset % s.dtype.itemsize == 0 for s in layout.slots)
    assert file_of({"a": a, "b": b}) == file_of({"b": b, "a": a})


def test_a_sparse_tensor_is_refused_by_name() -> None:
    with pytest.raises(TaskError, match="tensor w cannot be saved"):
        lay_out({"w": torch.ones(2, 2).to_sparse()})


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x80\x05", struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 200 * 2**20) + b"{" + b" " * 100,
        struct.pack("<Q", 2) + b"{}junk", struct.pack("<Q", 8) + b'{"a": 1}',
        b"\x80\x02cos\nsystem\nq\x00X\x04\x00\x00\x00echoq\x01\x85q\x02Rq\x03.",
    ],
)  # fmt: skip
def test_what_is_not_a_safetensors_file_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a safetensors file"):
        parse(data)
