"""Matrices of low rank: PowerSGD, Vogels et al. 2019 (arXiv:1905.13727), by torch's own hook.

For each parameter as a matrix M (n × m) and a rank r

    P = mean of M Q, orthogonalised        Q ← mean of Mᵀ P        sent in its place: P Qᵀ

bytes per rank and step: 2 (W-1)/W · 4 · Σ r (n + m), and those of an all-reduce for what is too small to gain by it.
Q is where the next step starts from: alike on all ranks, and part of the checkpoint.

Differences from torch's defaults: it compresses from the first step on (torch waits because DDP lays out its buckets anew
after its first step; ours are final before), error feedback is the one that all compressors share, one bucket is finished
before the next begins (on gloo the hook's inner all-reduces would otherwise meet in any order), and the first Q is
a function of the parameter's name, so that a rank needs no history to agree with the others.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.futures import Future
from typing_extensions import override

from disttrain_contract import strategy as contract
from disttrain_runtime.strategies.compression.compressor import Compressor, Piece

DEFAULT_RANK = 1
_MIN_RATE = 2
"""A matrix is compressed when that makes it at least so many times smaller. torch's default."""
_EPSILON = 1e-8
"""A gradient of all zeros must not divide by zero."""
_Q = "q"
KEY = "power_sgd"


@dataclass(frozen=True, slots=True)
class _Matrix:
    """A parameter that is worth compressing."""

    piece: Piece
    rows: int
    columns: int
    rank: int


def as_matrix(piece: Piece, rank: int) -> _Matrix | None:
    """The first dimension against all others; None when P and Q together are not much smaller. torch's rule."""
    rows = piece.shape[0] if piece.shape else 1
    columns = (piece.end - piece.first) // rows if rows else 0
    rank = min(rows, columns, rank)
    return _Matrix(piece, rows, columns, rank) if (rows + columns) * rank * _MIN_RATE < rows * columns else None


@dataclass(frozen=True, slots=True)
class _Begun:
    """One parameter in the step under way: what of it was to be sent, and its P if it is compressed."""

    before: Tensor
    p: Tensor | None
    rank: int

    def lost(self, q: Tensor | None) -> Tensor:
        """What P Qᵀ leaves out; nothing, where all is sent."""
        if self.p is None or q is None:
            return torch.zeros_like(self.before)
        sent = self.p.view(-1, self.rank) @ q.to(self.p).view(-1, self.rank).T
        return self.before - sent.reshape(-1)


class PowerSGD(Compressor):
    """Around torch's hook: its memory is laid out anew for each bucket, from what is kept by name."""

    def __init__(self, config: contract.Compression, model: nn.Module) -> None:
        super().__init__(config, model)
        self._torch = PowerSGDState(
            None, config.rank or DEFAULT_RANK, start_powerSGD_iter=2, min_compression_rate=_MIN_RATE,
            use_error_feedback=False, orthogonalization_epsilon=_EPSILON,
        )  # fmt: skip
        self._torch.iter = self._torch.start_powerSGD_iter
        self._q: dict[str, Tensor] = {}
        self._next_q: dict[str, Tensor] = {}
        """What it will be if the step under way is taken."""
        self._begun: dict[str, _Begun] = {}

    @override
    def exchange(self, bucket: GradBucket, values: Tensor, pieces: Sequence[Piece]) -> Future[Tensor]:
        number, matrices, memory = bucket.index(), self._compressed(pieces), self._torch
        q_sizes, p_sizes = [m.columns * m.rank for m in matrices], [m.rows * m.rank for m in matrices]
        starts = [self._start(m).to(values) for m in matrices]
        memory.q_memory_dict[number] = torch.cat([values.new_empty(0), *starts])
        memory.p_memory_dict[number] = values.new_empty(sum(p_sizes))
        if self.feedback:
            self._begin(values.clone(), pieces, matrices, torch.split(memory.p_memory_dict[number], p_sizes))
        sending = powerSGD_hook(memory, bucket)
        sending.wait()

        def keep(future: Future[Tensor]) -> Tensor:
            future.value()  # raises what went wrong
            parts = torch.split(memory.q_memory_dict[number], q_sizes)
            self._next_q |= {m.piece.name: q for m, q in zip(matrices, parts, strict=True)}
            if self.feedback:
                self._keep(pieces)
            return values

        return sending.then(keep)

    def _begin(
        self, before: Tensor, pieces: Sequence[Piece], matrices: Sequence[_Matrix], ps: Sequence[Tensor]
    ) -> None:
        compressed = {m.piece.name: (p, m.rank) for m, p in zip(matrices, ps, strict=True)}
        for piece in pieces:
            self._begun[piece.name] = _Begun(before[piece.first : piece.end], *compressed.get(piece.name, (None, 0)))

    def _keep(self, pieces: Sequence[Piece]) -> None:
        lost = [self._begun[piece.name].lost(self._next_q.get(piece.name)) for piece in pieces]
        self.remember(pieces, torch.cat(lost))

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

    def _start(self, matrix: _Matrix) -> Tensor:
        """What Q was after the last step, or the first one: alike on all ranks, drawn from no shared generator."""
        if matrix.piece.name in self._q:
            return self._q[matrix.piece.name]
        generator = torch.Generator().manual_seed(zlib.crc32(matrix.piece.name.encode()))
        return torch.randn(matrix.columns * matrix.rank, generator=generator)

    def _compressed(self, pieces: Sequence[Piece]) -> list[_Matrix]:
        """In the order of torch's memory: those of one shape together, shapes in the order in which they first appear."""
        by_shape: dict[tuple[int, int], list[_Matrix]] = {}
        for piece in pieces:
            if matrix := as_matrix(piece, self._torch.matrix_approximation_rank):
                by_shape.setdefault((matrix.rows, matrix.columns), []).append(matrix)
        return [matrix for alike in by_shape.values() for matrix in alike]
