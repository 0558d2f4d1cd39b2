"""How the developer's commands reach the chosen cluster: the same environment that `dev.cluster env` prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def environment() -> dict[str, str]:
    """This process's environment with KUBECONFIG and PATH of the chosen cluster. Raises CalledProcessError."""
    command = [sys.executable, "-m", "dev.cluster", "env"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY).stdout
    found = dict(os.environ)
    for line in printed.splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        found[name] = value.replace("$PATH", os.environ.get("PATH", ""))
    return found


def run(command: list[str], env: dict[str, str], *, quiet: bool = False) -> None:
    """Run a tool in the repository; on failure its own words are the error."""
    done = subprocess.run(command, env=env, cwd=REPOSITORY, capture_output=quiet, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(
            f"`{' '.join(command)}` failed: {(done.stderr or '').strip() or f'exit code {done.returncode}'}"
        )
