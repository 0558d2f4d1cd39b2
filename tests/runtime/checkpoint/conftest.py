"""Small checkpoints to damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.shelf import Shelf, shelf_in


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """A job's volume, claimed."""
    return shelf_in(tmp_path / "mnist")
