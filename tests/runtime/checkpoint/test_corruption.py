"""Thousands of damages, hostile ones among them; `make bench-corruption` makes a hundred thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from benchmarks.corruption import DAMAGES, run

pytestmark = pytest.mark.torch


def test_of_two_thousand_damaged_checkpoints_none_is_accepted_and_none_stops_the_search(tmp_path: Path) -> None:
    outcomes = run(tmp_path / "job", count=2000, seed=20)
    assert {what for counts in outcomes.values() for what in counts} == {"rejected", "unchanged"}
    assert all(outcomes[kind]["rejected"] for kind in DAMAGES if kind != "files added")
    assert set(outcomes["files added"]) == {"unchanged"}
