"""The safetensors format: where each tensor lies in a file. Reading is left to the library.

Writing is ours because the library wants the whole file as Python bytes, which copies the state twice more and holds
the interpreter's lock while training wants to run. We copy each tensor once, to its final place in a buffer that is
laid out like the file, and hand that buffer to the kernel.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import safetensors
import torch
from safetensors.torch import load
from torch import Tensor

from disttrain_runtime.errors import TaskError

ALIGNMENT = 8
"""The format's: the data begins at a multiple of it, so that a file can be mapped."""

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.complex64: "C64",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.bool: "BOOL",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor's place."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Layout:
    """One file: its header, and what comes after it."""

    header: bytes
    slots: tuple[Slot, ...]
    bytes: int
    """Of the data, without the header."""


def lay_out(tensors: Mapping[str, Tensor]) -> Layout:
    """Wide dtypes first, then by name: every tensor is aligned, and equal state gives equal files."""
    slots: list[Slot] = []
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        if tensor.dtype not in NAMES or tensor.layout != torch.strided:
            raise TaskError(
                f"tensor {name} cannot be saved: safetensors has no place for {tensor.dtype}, {tensor.layout}"
            )
        size = prod(tensor.shape) * tensor.element_size()
        slots.append(Slot(name, tensor.dtype, tuple(tensor.shape), end, size))
        end += size
    return Layout(_header(slots), tuple(slots), end)


def parse(data: bytes) -> dict[str, Tensor]:
    """The tensors of a file. Raises ValueError for anything that is not one."""
    try:
        tensors: dict[str, Tensor] = load(data)
    except (safetensors.SafetensorError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"not a safetensors file ({str(error)[:200]})") from error
    return tensors


def _header(slots: list[Slot]) -> bytes:
    entries = {
        s.name: {"dtype": NAMES[s.dtype], "shape": s.shape, "data_offsets": (s.offset, s.offset + s.bytes)}
        for s in slots
    }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text
