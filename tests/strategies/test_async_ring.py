"""Asynchronous ring: progress arrives late, counts once, and is never older than allowed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
import torch

from disttrain_contract.messages import Progress
from support.local_methods import SLOW_RING, STEPS, config, run, weights
from support.local_tasks import Replicas

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]


def expected(world: int, every: int, staleness: int, meet: int) -> torch.Tensor:
    """The formula, plainly, for a ring in which every round takes as long as is allowed."""
    group = Replicas(world)
    common = group.parameters(0)
    rounds: list[tuple[int, list[torch.Tensor], np.ndarray]] = []

    def begin(finished: int) -> None:
        shares = group.counts[:, 0] / group.counts[:, 1]
        learnt = [group.parameters(r) - common - sum(d[r] for _, d, _ in rounds) for r in range(world)]
        rounds.append((finished, learnt, shares))
        group.counts[:] = 0

    def end() -> None:
        nonlocal common
        _, learnt, shares = rounds.pop(0)
        all_ = sum(w * d for w, d in zip(shares, learnt, strict=True))
        common = common + all_
        for rank in range(world):
            group.put(rank, group.parameters(rank) + all_ - learnt[rank])

    for step in range(STEPS):
        group.step(step)
        finished = step + 1
        if finished % every == 0:
            begin(finished)
        while rounds and finished - rounds[0][0] >= staleness:
            end()
        if finished % meet == 0 or finished == STEPS:
            if group.counts.any():
                begin(finished)
            while rounds:
                end()
    return common


def test_without_staleness_it_is_the_averaging_of_progress_in_every_step(tmp_path: Path) -> None:
    run(tmp_path, "job", config("asyncRing", max_staleness=0, meet_every_steps=7))
    torch.testing.assert_close(weights(tmp_path, "job"), expected(3, 1, 0, 7), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("every", "staleness"), [(1, 3), (2, 4)])
def test_rounds_that_overlap_count_once(tmp_path: Path, every: int, staleness: int) -> None:
    """Rounds are made to take exactly as long as is allowed: then the result is the formula's."""
    chosen = config("asyncRing", every_steps=every, max_staleness=staleness, meet_every_steps=11)
    run(tmp_path, "job", replace(chosen, entrypoint=SLOW_RING))
    torch.testing.assert_close(weights(tmp_path, "job"), expected(3, every, staleness, 11), rtol=1e-4, atol=1e-5)


def test_staleness_is_measured_and_bounded(tmp_path: Path) -> None:
    told = run(tmp_path, "job", config("asyncRing", max_staleness=2, meet_every_steps=5)).told
    seen = [p.metrics for p in told.of(Progress) if "staleness" in p.metrics]
    assert seen
    assert all(0 <= m["staleness"] <= m["maxStaleness"] <= 2 and 0 <= m["waits"] <= 1 for m in seen)
