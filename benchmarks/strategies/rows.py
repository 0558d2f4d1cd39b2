"""The strategies that are measured: one line each, with its formula and the bare loop beside it.

A new strategy is a new line here, and a bare loop in `loops.py` if none there does the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.strategies import formulas
from benchmarks.strategies.formulas import Formula
from benchmarks.strategies.formulas_mesh import Grid, mesh
from disttrain_contract.strategy import WORKER, Compression, Parallelism, Privacy, StrategyConfig, Synchronization

EVERY = 8
"""Steps between the exchanges of model averaging."""
OUTER_EVERY = 16
"""The same of DiLoCo."""
TURN_EVERY = 4
"""The same of round-robin."""
BLOCK = 16
"""Steps after which all of these methods meet: what is measured, is measured from meeting to meeting."""
STALENESS = 4
RATIO, RANK = 0.01, 8
"""Of topK and powerSGD."""
MICROBATCHES = 8
FRAGMENTS = 4
PRIVACY = Privacy(noise_multiplier=1.0, max_grad_norm=1.0, delta=1e-4)
NARROW, WIDTH = 64, 4096
"""Of the matrices that are trained."""
PLACES = 8
"""Of a sequence; as many fewer sequences in a batch."""
MATRICES, SEQUENCES = "matrices", "sequences"
"""What is trained, see `workload.MODELS`."""
PRIVATE_WIDTH = 1024
"""The same where each sample has a gradient of its own: a hundred times the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One strategy."""

    name: str
    config: StrategyConfig
    bytes: Formula
    bare: str
    """Which of `loops.LOOPS` does the same."""
    ranks: int = 3
    """When bytes are counted: three tell W from 2."""
    race_ranks: int = 2
    """When time is measured: as many as this machine has cores."""
    per_worker: int | None = None
    """Ranks of a worker; None: all."""
    width: int = WIDTH
    """Of the model."""
    model: str = MATRICES
    learns: bool = True
    """Whether it trains the digits example, too."""
    chosen: dict[str, Any]
    """What differs from the defaults, for the bare loop."""


def _synchronized(name: str, method: str, bytes_: Formula, bare: str, **chosen: Any) -> Row:
    config = StrategyConfig(synchronization=Synchronization(method=method, **chosen))
    return Row(name=name, config=config, bytes=bytes_, bare=bare, chosen=chosen)


def _compressed(method: str, bytes_: Formula, **chosen: Any) -> Row:
    config = StrategyConfig(compression=Compression(method=method, **chosen))
    return Row(name=method, config=config, bytes=bytes_, bare=method, chosen=chosen)


def _split(name: str, bytes_: Formula, bare: str, **chosen: Any) -> Row:
    """The model is cut: as few ranks as can be."""
    config = StrategyConfig(parallelism=Parallelism(**chosen))
    return Row(name=name, config=config, bytes=bytes_, bare=bare, chosen=chosen, ranks=2)


def _piped(schedule: str, begins: Sequence[str], boundaries: Sequence[int]) -> Row:
    """Two stages. `begins`: where `workload.wide` is cut; `boundaries`: how wide it is there, if another rank follows."""
    return _split(
        f"pipeline {schedule}", formulas.pipeline(boundaries), "pipeline",
        stages=2, schedule=schedule, microbatches=MICROBATCHES, split=tuple(begins),
    )  # fmt: skip


def _within(name: str, bare: str, **chosen: Any) -> Row:
    """Something about how a rank computes; gradients travel as without."""
    config = StrategyConfig(**chosen)
    return Row(name=name, config=config, bytes=formulas.all_reduce, bare=bare, chosen=chosen)


def _noisy_averaging() -> Row:
    """Two workers drown in the noise that hides one of them: nothing to learn."""
    row = _synchronized(
        "privacy worker", "modelAveraging", formulas.averaging(EVERY, moments=0), "noisy", every_steps=EVERY
    )
    privacy = replace(PRIVACY, unit=WORKER)
    return replace(
        row, config=replace(row.config, privacy=privacy), chosen=row.chosen | {"privacy": privacy}, learns=False
    )


def _grid() -> Row:
    """Two replicas of two stages of two shards each; the cut is between the pairs of matrices."""
    grid = Grid(2, 2, 2)
    row = _split(
        "pipeline × tensor × data", mesh(grid, [NARROW] * 3, [NARROW]), "grid",
        stages=2, tensor=2, microbatches=MICROBATCHES, split=("4",),
    )  # fmt: skip
    return replace(row, ranks=grid.ranks, race_ranks=grid.ranks, learns=False)


ROWS: tuple[Row, ...] = (
    _synchronized("allReduce", "allReduce", formulas.all_reduce, "ddp"),
    _compressed("fp16", formulas.half),
    _compressed("bf16", formulas.half),
    _compressed("powerSGD", formulas.power_sgd(RANK), rank=RANK),
    _compressed("topK", formulas.top_k(RATIO), ratio=RATIO),
    _compressed("sign", formulas.sign),
    _synchronized("parameterServer", "parameterServer", formulas.parameter_server(BLOCK), "servers"),
    _synchronized("parameterServer async", "parameterServer", formulas.parameter_server(BLOCK), "servers", max_staleness=STALENESS),
    _synchronized("modelAveraging", "modelAveraging", formulas.averaging(EVERY), "averaging", every_steps=EVERY),
    _synchronized("diLoCo", "diLoCo", formulas.averaging(OUTER_EVERY, moments=0), "diLoCo", every_steps=OUTER_EVERY),
    _synchronized(
        "diLoCo fragments", "diLoCo", formulas.averaging(OUTER_EVERY, moments=0), "fragments",
        every_steps=OUTER_EVERY, fragments=FRAGMENTS,
    ),
    _synchronized("roundRobin", "roundRobin", formulas.round_robin(TURN_EVERY), "turns", every_steps=TURN_EVERY),
    _synchronized("asyncRing", "asyncRing", formulas.averaging(1, moments=0), "ring", max_staleness=STALENESS, meet_every_steps=BLOCK),
    _synchronized("gossip", "gossip", formulas.gossip(1, BLOCK), "gossip", meet_every_steps=BLOCK),
    _split("fsdp", formulas.fsdp, "fsdp", shard="full"),
    replace(_split("hybrid", formulas.hybrid(2), "hybrid", shard="hybrid"), ranks=4, race_ranks=4, per_worker=2),
    # Two pairs: outputs of both, and the gradient of the second one's inputs; nobody wants that of the data.
    replace(_split("tensor", formulas.tensor([NARROW] * 3), "tensor", tensor=2), learns=False),
    replace(_split("sequence", formulas.sequence([PLACES * NARROW] * 2, 2 * NARROW), "sequence", tensor=2, sequence=True),
            model=SEQUENCES, learns=False),
    _piped("gpipe", ["2"], [WIDTH]),
    _piped("1f1b", ["2"], [WIDTH]),
    _piped("interleaved1f1b", ["2", "4", "6"], [WIDTH, NARROW, WIDTH]),
    _piped("zeroBubble", ["2", "4", "6"], [WIDTH, WIDTH]),
    _grid(),
    _within("precision bf16", "autocast", precision="bf16"),
    _within("precision fp16", "autocast", precision="fp16"),
    _within("activationCheckpointing", "recomputed", activation_checkpointing=True),
    replace(_within("privacy", "opacus", privacy=PRIVACY), width=PRIVATE_WIDTH),
    _noisy_averaging(),
)  # fmt: skip


def chosen_rows(names: Sequence[str] | None, *others: str) -> list[Row]:
    """Those of these names, in the table's order; all, if none is given. `others` are names of what is no row."""
    known = {row.name for row in ROWS} | set(others)
    if unknown := set(names or ()) - known:
        raise SystemExit(f"--only knows {', '.join(sorted(known))}; not {', '.join(sorted(unknown))}")
    return [row for row in ROWS if not names or row.name in names]


def named(name: str) -> Row:
    """The row of this name. Processes are told names: formulas do not travel."""
    return next(row for row in ROWS if row.name == name)
