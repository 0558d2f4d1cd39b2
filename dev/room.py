"""`python -m dev.room`: is there room for the virtual environment? Asked before it is made: standard library only."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from dev.cluster import budget

REPOSITORY = Path(__file__).resolve().parents[1]


def shortage(checkout: Path) -> str | None:
    """What to tell the person, if there is too little."""
    free = shutil.disk_usage(checkout).free // 1_000_000
    return budget.shortage(
        free,
        budget.VENV_MEGABYTES,
        str(checkout / ".venv"),
        "move the checkout to a larger disk; `uv cache clean` may help",
    )


if __name__ == "__main__":
    sys.exit(f"error: {text}" if (text := shortage(REPOSITORY)) else 0)
