"""Small checkpoints to damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.shelf import Shelf, shelf_in

if TYPE_CHECKING:
    from disttrain_runtime.checkpoint.saver import Saver


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """A job's volume, claimed."""
    return shelf_in(tmp_path / "mnist")


@pytest.fixture
def saver_of() -> Iterator[Callable[..., Saver]]:
    """Makes savers; their processes end with the story."""
    made: list[Saver] = []

    def make(shelf: Shelf, **changes: Any) -> Saver:
        from disttrain_runtime.checkpoint.saver import Saver

        given: dict[str, Any] = {"keep": 2, "asynchronous": True, "committed": None, "rejected": ()}
        made.append(Saver(shelf.volume, shelf.fence, **(given | changes)))
        return made[-1]

    yield make
    for saver in made:
        saver.close()
