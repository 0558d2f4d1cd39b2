"""State from the memory of a rank that lived on: who has the newest, who needs it, and how it gets there.

Ranks that hold state say their step; the highest is where training goes on. Whoever has that state keeps it, and sends
it to those who have none or are a step behind. State is one stream of bytes, cut into chunks, of which several are under
way: long tensors travel from where they are to where they belong, short ones are packed together. Both ends take a digest of
what they saw, and compare.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.distributed as dist
import xxhash
from torch import Tensor

from disttrain_runtime.checkpoint.structure import put_together, take_apart
from disttrain_runtime.checkpoint.tensor_file import NAMES
from disttrain_runtime.errors import TransferError
from disttrain_runtime.groups import Group

CHUNK = 2 * 1024 * 1024
"""Bytes on the wire at a time: packing the next one, and the digest of the last one, hide behind it."""
LONG = 256 * 1024
"""Tensors of so many bytes are not copied together with others: what a message costs is little beside them."""
UNDER_WAY = 4
"""Chunks at once: the connection never waits for a rank that is given the processor late."""
NOTHING = -1
"""In place of a step: this rank holds no state."""
_DIGEST = 16
_DTYPES = {name: dtype for dtype, name in NAMES.items()}
Work = tuple[dist.Work, Tensor]
"""A chunk that travels, and its memory."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """Who gives state to whom."""

    step: int
    givers: Mapping[int, int]
    """Rank in need → the rank that serves it."""


def share(steps: Sequence[int]) -> Sharing | None:
    """From the step that each rank holds. None: nobody holds any. Pure, so all ranks come to the same."""
    newest = max(steps)
    if newest == NOTHING:
        return None
    holders = [rank for rank, step in enumerate(steps) if step == newest]
    needy = [rank for rank, step in enumerate(steps) if step != newest]
    return Sharing(newest, {rank: holders[i % len(holders)] for i, rank in enumerate(needy)})


def give(state: Mapping[str, Any], group: Group, to: int, moved: Callable[[], None] = lambda: None) -> None:
    """Send a whole state to one rank. CPU or GPU memory; it arrives in CPU memory. `moved`: after each chunk."""
    head, tensors = _described(state)
    group.send(torch.tensor([len(head)]), to)
    group.send(torch.frombuffer(bytearray(head), dtype=torch.uint8), to)
    digest = xxhash.xxh3_128()
    views = [_bytes(tensor) for tensor in tensors]
    under_way: deque[Work] = deque()
    for pieces in cut([len(v) for v in views], CHUNK, LONG):
        chunk = _in_place(pieces, views)
        chunk = _pack(pieces, views) if chunk is None else chunk
        under_way.append((group.start_send(chunk, to), chunk))
        digest.update(chunk.numpy().data)
        if len(under_way) == UNDER_WAY:
            _arrived(under_way, moved)
    while under_way:
        _arrived(under_way, moved)
    group.send(torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8), to)


def take(group: Group, giver: int, moved: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Receive one. `moved`: after each chunk. Raises TransferError when the two ends did not see the same bytes."""
    length = torch.zeros(1, dtype=torch.int64)
    group.receive(length, giver)
    head = torch.zeros(int(length), dtype=torch.uint8)
    group.receive(head, giver)
    structure, tensors = _empty(head.numpy().tobytes())
    views = [_bytes(tensor) for named in tensors.values() for tensor in named.values()]
    digest = xxhash.xxh3_128()
    plan = list(cut([len(v) for v in views], CHUNK, LONG))
    under_way: deque[Work] = deque()
    for number, pieces in enumerate(plan):
        while number + len(under_way) < len(plan) and len(under_way) < UNDER_WAY:
            under_way.append(_expect(plan[number + len(under_way)], views, group, giver))
        chunk = _arrived(under_way, moved)
        digest.update(chunk.numpy().data)
        if len(pieces) > 1:
            _place(pieces, views, chunk)
    seen = torch.zeros(_DIGEST, dtype=torch.uint8)
    group.receive(seen, giver)
    if seen.numpy().tobytes() != digest.digest():
        raise TransferError(f"state from rank {giver} arrived damaged: the digests differ")
    return put_together(structure, tensors)


def spread(part: Mapping[str, Any], group: Group, giver: int) -> Mapping[str, Any]:
    """A collective. One rank's state, on every rank."""
    if group.rank == giver:
        head, held = _described(part)
        group.broadcast(head, giver)
        group.equalise([tensor.detach().cpu() for tensor in held], giver)
        return part
    structure, tensors = _empty(group.broadcast(None, giver))
    group.equalise([tensor for named in tensors.values() for tensor in named.values()], giver)
    return put_together(structure, tensors)


def collect(part: Mapping[str, Any], group: Group) -> list[Mapping[str, Any]]:
    """A collective. On rank 0: what every rank gave, by rank; elsewhere nothing."""
    if not group.leads:
        give(part, group, 0)
        return []
    return [part, *(take(group, rank) for rank in range(1, group.world_size))]


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of one tensor's bytes, and where it lies in a chunk."""

    tensor: int
    start: int
    at: int
    bytes: int


def cut(sizes: Sequence[int], chunk: int, long: int) -> Iterator[list[Piece]]:
    """Tensors of these sizes as chunks of at most so many bytes, in order, without gaps. What belongs to a long one is alone
    in its chunk. Pure."""
    pieces: list[Piece] = []
    at = 0
    for tensor, size in enumerate(sizes):
        start = 0
        if size >= long and pieces:
            yield pieces
            pieces, at = [], 0
        while start < size:
            count = min(size - start, chunk - at)
            pieces.append(Piece(tensor, start, at, count))
            start, at = start + count, at + count
            if at == chunk or (size >= long and start == size):
                yield pieces
                pieces, at = [], 0
    if pieces:
        yield pieces


def _described(state: Mapping[str, Any]) -> tuple[bytes, list[Tensor]]:
    """What a receiver must know beforehand, and the tensors in that order."""
    structure, groups = take_apart(state)
    named = [(key, name, tensor) for key, tensors in groups.items() for name, tensor in tensors.items()]
    entries = [[key, name, NAMES[tensor.dtype], list(tensor.shape)] for key, name, tensor in named]
    head = json.dumps({"structure": structure.decode(), "tensors": entries}).encode()
    return head, [tensor for *_, tensor in named]


def _empty(head: bytes) -> tuple[bytes, dict[str, dict[str, Tensor]]]:
    """The structure, and tensors for what will come, in the giver's order."""
    told = json.loads(head)
    tensors: dict[str, dict[str, Tensor]] = {}
    for key, name, dtype, shape in told["tensors"]:
        tensors.setdefault(key, {})[name] = torch.empty(shape, dtype=_DTYPES[dtype])
    return told["structure"].encode(), tensors


def _size(pieces: Sequence[Piece]) -> int:
    return pieces[-1].at + pieces[-1].bytes


def _in_place(pieces: Sequence[Piece], views: Sequence[Tensor]) -> Tensor | None:
    """The chunk where it is, if it is all in one place that a connection can read and write."""
    first = pieces[0]
    view = views[first.tensor]
    return view[first.start : first.start + first.bytes] if len(pieces) == 1 and view.device.type == "cpu" else None


def _pack(pieces: Sequence[Piece], views: Sequence[Tensor]) -> Tensor:
    buffer = torch.empty(_size(pieces), dtype=torch.uint8)
    for p in pieces:
        buffer[p.at : p.at + p.bytes].copy_(views[p.tensor][p.start : p.start + p.bytes])
    return buffer


def _expect(pieces: Sequence[Piece], views: Sequence[Tensor], group: Group, giver: int) -> Work:
    chunk = _in_place(pieces, views)
    chunk = torch.empty(_size(pieces), dtype=torch.uint8) if chunk is None else chunk
    return group.start_receive(chunk, giver), chunk


def _arrived(under_way: deque[Work], moved: Callable[[], None]) -> Tensor:
    """The oldest chunk, once it is through. Its memory is held until then."""
    work, chunk = under_way.popleft()
    work.wait()
    moved()
    return chunk


def _place(pieces: Sequence[Piece], views: Sequence[Tensor], chunk: Tensor) -> None:
    for p in pieces:
        views[p.tensor][p.start : p.start + p.bytes].copy_(chunk[p.at : p.at + p.bytes])


def _bytes(tensor: Tensor) -> Tensor:
    """A tensor's bytes, in place where it is contiguous."""
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8) if prod(tensor.shape) else flat.new_empty(0, dtype=torch.uint8)
