"""Matrices of low rank: PowerSGD, Vogels et al. 2019 (arXiv:1905.13727).

For each parameter as a matrix M (n × m) and a rank r

    P = mean of M Q, orthogonalised        Q ← mean of Mᵀ P        sent in its place: P Qᵀ

bytes per rank and step: 2 (W-1)/W · 4 · Σ r (n + m), and those of an all-reduce for what is too small to gain by it.
Q is where the next step starts from: alike on all ranks, and part of the checkpoint.

The numbers are those of torch's hook; the messages are fewer: what is not compressed goes along with P, so two all-reduces do
where torch's hook makes three, one after the other, and one bucket holds the whole model. Other differences from torch's
defaults: it compresses from the first step on (torch waits because DDP lays out its buckets anew after its first step; ours
are final before), error feedback is the one that all compressors share, and the first Q is a function of the parameter's
name, so that a rank needs no history to agree with the others.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.futures import Future
from typing_extensions import override

from disttrain_contract import strategy as contract
from disttrain_runtime.strategies.compression.compressor import Compressor, Piece

DEFAULT_RANK = 1
_MIN_RATE = 2
"""A matrix is compressed when that makes it at least so many times smaller. torch's default."""
_EPSILON = 1e-8
"""A gradient of all zeros must not divide by zero."""
_FEW = 2
"""Up to so many columns Gram and Schmidt are faster than a QR decomposition. torch's limit."""
_Q = "q"
KEY = "power_sgd"


@dataclass(frozen=True, slots=True)
class _Alike:
    """Parameters of one shape that are worth compressing: their P lie in one piece of memory, and so do their Q."""

    rows: int
    columns: int
    rank: int
    pieces: tuple[Piece, ...]

    @property
    def p_shape(self) -> tuple[int, int, int]:
        return len(self.pieces), self.rows, self.rank

    @property
    def q_shape(self) -> tuple[int, int, int]:
        return len(self.pieces), self.columns, self.rank

    def matrices(self, values: Tensor) -> list[Tensor]:
        """What lies there, as matrices."""
        return [values[piece.first : piece.end].view(self.rows, self.columns) for piece in self.pieces]


def as_matrix(piece: Piece, rank: int) -> tuple[int, int, int] | None:
    """(rows, columns, rank): the first dimension against all others; None when P and Q are not much smaller. torch's rule."""
    rows = piece.shape[0] if piece.shape else 1
    columns = (piece.end - piece.first) // rows if rows else 0
    rank = min(rows, columns, rank)
    return (rows, columns, rank) if (rows + columns) * rank * _MIN_RATE < rows * columns else None


@dataclass(frozen=True, slots=True)
class _Begun:
    """One parameter in the step under way: what of it was to be sent, and its P if it is compressed."""

    before: Tensor
    p: Tensor | None

    def lost(self, q: Tensor | None) -> Tensor:
        """What P Qᵀ leaves out; nothing, where all is sent."""
        if self.p is None or q is None:
            return torch.zeros_like(self.before)
        sent = self.p @ q.to(self.p).view(-1, self.p.shape[1]).T
        return self.before - sent.reshape(-1)


class PowerSGD(Compressor):
    """One bucket is finished before the next begins: all ranks must make the same all-reduces in the same order."""

    one_bucket = True

    def __init__(self, config: contract.Compression, model: nn.Module) -> None:
        super().__init__(config, model)
        self._rank = config.rank or DEFAULT_RANK
        self._q: dict[str, Tensor] = {}
        self._next_q: dict[str, Tensor] = {}
        """What it will be if the step under way is taken."""
        self._begun: dict[str, _Begun] = {}

    @override
    def exchange(self, bucket: GradBucket, values: Tensor, pieces: Sequence[Piece]) -> Future[Tensor]:
        compressed, whole = self._sorted(pieces)
        before = self.row(bucket).copy_(values) if self.feedback else None
        plain, ps = self._first_message(values, compressed, whole)
        if before is not None:
            self._begin(before, compressed, whole, ps)
        qs = self._second_message(values, compressed, ps)
        for alike, p, q in zip(compressed, ps, qs, strict=True):
            for matrix, left, right in zip(alike.matrices(values), p, q, strict=True):
                torch.mm(left, right.T, out=matrix)
            self._next_q |= {piece.name: each.reshape(-1) for piece, each in zip(alike.pieces, q, strict=True)}
        for piece, part in zip(whole, plain, strict=True):
            values[piece.first : piece.end].copy_(part)
        if before is not None:
            self.remember(pieces, _lost(before, values, compressed, whole))
        done: Future[Tensor] = Future(devices=[values.device] if values.device.type == "cuda" else [])
        done.set_result(values)
        return done

    def _first_message(
        self, values: Tensor, compressed: Sequence[_Alike], whole: Sequence[Piece]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The means of what is not compressed, and of each P, orthogonalised."""
        sizes = [piece.end - piece.first for piece in whole]
        message, ps = _room(values, sum(sizes), [alike.p_shape for alike in compressed])
        plain = message[: sum(sizes)]
        if whole:
            torch.cat([values[piece.first : piece.end] for piece in whole], out=plain)
        for alike, p in zip(compressed, ps, strict=True):
            starts = torch.stack([self._start(piece.name, alike) for piece in alike.pieces]).to(values)
            for matrix, q, left in zip(alike.matrices(values), _orthogonal(starts), p, strict=True):
                torch.mm(matrix, q, out=left)
        dist.all_reduce(message)
        plain.div_(dist.get_world_size())
        for p in ps:  # where a sum is as good as a mean
            p.copy_(_orthogonal(p))
        return list(torch.split(plain, sizes)), ps

    def _second_message(self, values: Tensor, compressed: Sequence[_Alike], ps: Sequence[Tensor]) -> list[Tensor]:
        """The mean of each Q."""
        message, qs = _room(values, 0, [alike.q_shape for alike in compressed])
        for alike, p, q in zip(compressed, ps, qs, strict=True):
            for matrix, left, right in zip(alike.matrices(values), p, q, strict=True):
                torch.mm(matrix.T, left, out=right)
        if compressed:
            dist.all_reduce(message)
            message.div_(dist.get_world_size())
        return qs

    def _begin(
        self, before: Tensor, compressed: Sequence[_Alike], whole: Sequence[Piece], ps: Sequence[Tensor]
    ) -> None:
        found = {p.name: _Begun(before[p.first : p.end], None) for p in whole}
        for alike, block in zip(compressed, ps, strict=True):
            found |= {
                p.name: _Begun(before[p.first : p.end], left) for p, left in zip(alike.pieces, block, strict=True)
            }
        self._begun |= found

    @override
    def taken(self) -> None:
        self._q |= self._next_q
        super().taken()
        self._forget()

    @override
    def undo(self) -> None:
        super().undo()
        self._forget()

    def _forget(self) -> None:
        self._next_q, self._begun = {}, {}

    @override
    def state(self) -> Mapping[str, Any]:
        return {KEY: {_Q: self._q}}

    @override
    def load(self, state: Mapping[str, Any]) -> None:
        """A peer finishes a step only when this rank has sent all for it, and so has P; Q comes with the state."""
        new = dict(state.get(KEY, {}).get(_Q, {}))
        if self._begun.keys() >= set(self._names.values()):
            for name, begun in self._begun.items():
                if name not in self._pending:
                    self._pending[name] = begun.lost(new.get(name)).div_(self.scale)
        super().load(state)
        self._q = new

    def _start(self, name: str, alike: _Alike) -> Tensor:
        """What Q was after the last step, or the first one: alike on all ranks, drawn from no shared generator."""
        row = self._q.get(name)
        if row is None:
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            row = torch.randn(alike.columns * alike.rank, generator=generator)
        return row.view(alike.columns, alike.rank)

    def _sorted(self, pieces: Sequence[Piece]) -> tuple[list[_Alike], list[Piece]]:
        """What is compressed, by shape, and what is not."""
        by_shape: dict[tuple[int, int, int], list[Piece]] = {}
        whole: list[Piece] = []
        for piece in pieces:
            shape = as_matrix(piece, self._rank)
            (whole if shape is None else by_shape.setdefault(shape, [])).append(piece)
        return [_Alike(*shape, tuple(alike)) for shape, alike in by_shape.items()], whole


def _room(values: Tensor, first: int, shapes: Sequence[tuple[int, int, int]]) -> tuple[Tensor, list[Tensor]]:
    """Memory for one message: so many values, and then these blocks."""
    sizes = [a * b * c for a, b, c in shapes]
    message = values.new_empty(first + sum(sizes))
    blocks = torch.split(message[first:], sizes)
    return message, [block.view(shape) for block, shape in zip(blocks, shapes, strict=True)]


def _lost(before: Tensor, sent: Tensor, compressed: Sequence[_Alike], whole: Sequence[Piece]) -> Tensor:
    """What was to be sent becomes what was not."""
    for piece in (piece for alike in compressed for piece in alike.pieces):
        before[piece.first : piece.end].sub_(sent[piece.first : piece.end])
    for piece in whole:
        before[piece.first : piece.end].zero_()
    return before


def _orthogonal(blocks: Tensor) -> Tensor:
    """Columns of length one, at right angles."""
    if blocks.shape[2] > _FEW and blocks.dtype.itemsize > 2:
        columns: Tensor = torch.linalg.qr(blocks).Q
        return columns
    for i in range(blocks.shape[2]):
        column, rest = blocks[:, :, i : i + 1], blocks[:, :, i + 1 :]
        column /= torch.linalg.vector_norm(column, dim=1, keepdim=True) + _EPSILON
        rest -= (column * rest).sum(1, keepdim=True) * column
    return blocks
