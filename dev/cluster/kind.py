"""A cluster in Docker, by kind: for machines that have both."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from dev.cluster.command import run, stream
from dev.cluster.images.build import TARGETS, image_name
from dev.cluster.paths import Paths
from dev.cluster.progress import step

NAME = "disttrain"


def kubeconfig(paths: Paths) -> Path:
    """Beside ours, so that the user's own kubeconfig is not touched."""
    return paths.root / "kind.kubeconfig"


def config(nodes: int) -> str:
    """One node does everything; further ones are workers."""
    roles = [{"role": "control-plane"}, *({"role": "worker"} for _ in range(nodes - 1))]
    return yaml.safe_dump({"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": roles})


def exists() -> bool:
    """Whether our kind cluster is there."""
    return NAME in run(["kind", "get", "clusters"], check=False).split()


def up(paths: Paths, nodes: int) -> None:
    """Create it unless it is there."""
    with step(f"kind cluster {NAME}") as current:
        if exists():
            kubeconfig(paths).write_text(run(["kind", "get", "kubeconfig", "--name", NAME]))
            return
        file = paths.root / "kind.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(config(nodes))
        argv = ["kind", "create", "cluster", "--name", NAME, "--config", str(file), "--wait", "180s",
                "--kubeconfig", str(kubeconfig(paths))]  # fmt: skip
        stream(argv, lambda text: setattr(current, "note", text))


def down(paths: Paths) -> None:
    """Delete it, and only it."""
    with step(f"deleting the kind cluster {NAME}"):
        if exists():
            run(["kind", "delete", "cluster", "--name", NAME, "--kubeconfig", str(kubeconfig(paths))])
        kubeconfig(paths).unlink(missing_ok=True)


def load() -> None:
    """Bring both images from Docker to every node; kind skips what is there."""
    for target in TARGETS:
        with step(f"image-load: {target}"):
            run(["kind", "load", "docker-image", image_name(target), "--name", NAME])


def status(paths: Paths) -> list[str]:
    """For a person."""
    if not exists():
        return [f"no kind cluster called {NAME}"]
    nodes = run(["kind", "get", "nodes", "--name", NAME]).split()
    return [
        f"kubeconfig   {kubeconfig(paths)}",
        *(f"node         {name}" for name in nodes),
        json.dumps({"kind": NAME}),
    ]
