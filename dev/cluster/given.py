"""A cluster that the user named with KUBECONFIG: looked at, used, never created and never destroyed."""

from __future__ import annotations

from collections.abc import Sequence

from dev.cluster.command import Trouble, run
from dev.cluster.images.build import TARGETS, image_name, pulled_name
from dev.cluster.paths import Paths
from dev.cluster.toolchain import find_or_ensure
from dev.cluster.versions import KUBECTL

REGISTRY = "DISTTRAIN_REGISTRY"
"""Names the place from which a given cluster pulls our images. Without it none is named, so that nobody else's are pulled."""


def describe(paths: Paths) -> list[str]:
    """Which cluster it is, and whether it answers."""
    find_or_ensure(paths, (KUBECTL,))
    kubectl = str(paths.bin / "kubectl")
    context = run([kubectl, "config", "current-context"], check=False).strip() or "(no current context)"
    server = run([kubectl, "config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"], check=False)
    try:
        nodes = run([kubectl, "get", "nodes", "-o", "name", "--request-timeout=10s"]).split()
    except Trouble as error:
        raise Trouble(f"the cluster of KUBECONFIG (context {context}, {server}) does not answer: {error}") from None
    return [f"context      {context}", f"server       {server}", f"nodes        {len(nodes)}"]


def push_instructions(builder: Sequence[str], registry: str = "") -> str:
    """Images cannot be slipped onto somebody else's nodes: they come from a registry that those can reach.

    `builder` is the program that built the images (`docker`, or buildah with its options): it also pushes them.
    """
    tool, there = " ".join(builder), registry or "REGISTRY"
    lines = ["The nodes of this cluster pull images from a registry. Push both images to yours:"]
    for target in TARGETS:
        lines.append(f"  {tool} tag {image_name(target)} {pulled_name(there, target)}")
        lines.append(f"  {tool} push {pulled_name(there, target)}")
    if not registry:
        lines.append(
            f"and set {REGISTRY} to it (for example registry.example.com/team): demo, operator and tests take them from there."
        )
    return "\n".join(lines)
