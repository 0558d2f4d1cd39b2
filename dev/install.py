"""`python -m dev.install`: the operator into the chosen cluster, by the chart that users get."""

from __future__ import annotations

import os

from dev.access import REPOSITORY, environment, image, run
from dev.cluster.images import build, inputs
from dev.cluster.progress import step

NAMESPACE = "disttrain-system"
RELEASE = "disttrain"


def install() -> None:
    """`helm upgrade --install`, waiting for the operator. A changed image changes an annotation, so its pods are replaced."""
    digest = inputs.digest(REPOSITORY, "operator", build.arguments(os.environ))
    env = environment()
    repository, _, tag = image("operator", env).rpartition(":")
    with step("operator: helm upgrade --install"):
        run(
            [
                "helm", "upgrade", "--install", RELEASE, "helm/disttrain", "--namespace", NAMESPACE, "--create-namespace",
                "--set", f"image.repository={repository},image.tag={tag}",
                "--set-string", f"podAnnotations.disttrain\\.dev/image={digest[:16]}",
                "--wait", "--timeout", "120s",
            ],
            env,
            quiet=True,
        )  # fmt: skip


if __name__ == "__main__":
    install()
