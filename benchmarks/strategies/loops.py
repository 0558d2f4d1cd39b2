"""Bare loops by the names that rows call them."""

from __future__ import annotations

from benchmarks.strategies import bare, bare_grid, bare_local, bare_split, bare_within
from benchmarks.strategies.bare_ddp import Ddp
from benchmarks.strategies.bare_loop import Bare

LOOPS: dict[str, type[Bare]] = {
    "ddp": Ddp, "fp16": bare.Fp16, "bf16": bare.Bf16, "powerSGD": bare.PowerSGD, "topK": bare.TopK, "sign": bare.Sign,
    "autocast": bare_within.Autocast, "recomputed": bare_within.Recomputed, "opacus": bare_within.Opacus,
    "servers": bare.Servers, "averaging": bare.Averaging, "diLoCo": bare.DiLoCo, "turns": bare.Turns, "ring": bare.Ring,
    "gossip": bare.Gossip, "fragments": bare_local.Fragments, "noisy": bare_local.NoisyAveraging,
    "fsdp": bare_split.FullyShard, "hybrid": bare_split.HybridShard, "tensor": bare_split.Tensors,
    "sequence": bare_split.Sequences, "pipeline": bare_split.Pipeline, "grid": bare_grid.Grid,
}  # fmt: skip
