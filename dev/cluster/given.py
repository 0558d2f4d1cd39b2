"""A cluster that the user named with KUBECONFIG: looked at, used, never created and never destroyed."""

from __future__ import annotations

from collections.abc import Sequence

from dev.cluster.command import Trouble, run
from dev.cluster.images.build import TARGETS, image_name
from dev.cluster.paths import Paths
from dev.cluster.toolchain import find_or_ensure
from dev.cluster.versions import KUBECTL


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


def push_instructions(builder: Sequence[str]) -> str:
    """Images cannot be slipped onto somebody else's nodes: they come from a registry that those can reach.

    `builder` is the program that built the images (`docker`, or buildah with its options): it also pushes them.
    """
    tool = " ".join(builder)
    lines = ["The nodes of this cluster pull images from a registry. Push both images to yours and name it to Helm:"]
    for target in TARGETS:
        lines.append(f"  {tool} tag {image_name(target)} REGISTRY/disttrain-{target}:dev")
        lines.append(f"  {tool} push REGISTRY/disttrain-{target}:dev")
    lines.append("  helm … --set image.repository=REGISTRY/disttrain-operator --set image.tag=dev")
    lines.append(f"and write REGISTRY/disttrain-trainer:dev as the image of your jobs (not {image_name('trainer')}).")
    return "\n".join(lines)
