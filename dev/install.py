"""`python -m dev.install`: the operator into the chosen cluster, by the chart that users get."""

from __future__ import annotations

import os

from dev.access import REPOSITORY, environment, run
from dev.cluster.images import build, inputs
from dev.cluster.progress import step

NAMESPACE = "disttrain-system"
RELEASE = "disttrain"


def install() -> None:
    """`helm upgrade --install`, waiting for the operator. A changed image changes an annotation, so its pods are replaced."""
    image = inputs.digest(REPOSITORY, "operator", build.arguments(os.environ))
    with step("operator: helm upgrade --install"):
        env = environment()
        run(
            [
                "helm", "upgrade", "--install", RELEASE, "helm/disttrain", "--namespace", NAMESPACE, "--create-namespace",
                "--set", "image.tag=dev", "--set-string", f"podAnnotations.disttrain\\.dev/image={image[:16]}",
                "--wait", "--timeout", "120s",
            ],
            env,
            quiet=True,
        )  # fmt: skip


if __name__ == "__main__":
    install()
