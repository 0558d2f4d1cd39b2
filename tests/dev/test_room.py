"""Before the virtual environment is made there is neither a package of ours nor of anybody else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from dev.cluster.budget import VENV_MEGABYTES

from dev import room

ROOT = Path(__file__).parents[2]


def test_it_needs_nothing_but_python() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", "import sys; sys.path.insert(0, '.'); import dev.room"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("free", "enough"), [(VENV_MEGABYTES + 1_000, True), (VENV_MEGABYTES, False)])
def test_too_small_a_disk_is_said_before_gigabytes_are_fetched(
    free: int, enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free * 1_000_000))
    said = room.shortage(Path("/checkout"))
    assert (said is None) is enough
    if said is not None:
        assert "below /checkout/.venv" in said and "larger disk" in said
