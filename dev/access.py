"""How the developer's commands reach the chosen cluster: the same environment that `dev.cluster env` prints."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from dev.cluster.given import REGISTRY
from dev.cluster.images.build import variable

REPOSITORY = Path(__file__).resolve().parents[1]


def environment() -> dict[str, str]:
    """This process's environment with KUBECONFIG and PATH of the chosen cluster. Raises CalledProcessError."""
    command = [sys.executable, "-m", "dev.cluster", "env"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY).stdout
    return after(printed, os.environ)


def after(exports: str, before: Mapping[str, str]) -> dict[str, str]:
    """The environment that a shell has once it has read such lines. Pure."""
    found = dict(before)
    for word in shlex.split(exports):
        if word != "export":
            name, _, value = word.partition("=")
            found[name] = value.removesuffix(":$PATH") + (
                f":{before.get('PATH', '')}" if value.endswith(":$PATH") else ""
            )
    return found


def image(target: str, env: Mapping[str, str]) -> str:
    """What the chosen cluster calls it. A given cluster's registry must be named: a name of ours could be anybody's there."""
    if found := env[variable(target)]:
        return found
    raise SystemExit(
        f"the cluster of KUBECONFIG={env['KUBECONFIG']} pulls images from a registry: push both there "
        f"(`python -m dev.cluster image-load` prints how) and set {REGISTRY} to it"
    )


def run(command: list[str], env: dict[str, str], *, quiet: bool = False, text: str | None = None) -> None:
    """Run a tool in the repository, with `text` as its input; on failure its own words are the error."""
    done = subprocess.run(command, env=env, cwd=REPOSITORY, capture_output=quiet, text=True, check=False, input=text)
    if done.returncode != 0:
        raise SystemExit(
            f"`{' '.join(command)}` failed: {(done.stderr or '').strip() or f'exit code {done.returncode}'}"
        )
