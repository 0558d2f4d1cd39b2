"""`python -m dev.demo` (`make demo`): from nothing to a trained model, through the death of a worker."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import yaml

from dev.access import REPOSITORY, environment, image, run
from dev.cluster.progress import elapsed_text, say
from dev.demo.report import report
from dev.demo.story import Outcome, Story
from dev.install import install

NAMESPACE = "disttrain-demo"
JOB = "digits"
MANIFEST = "examples/digits/job.yaml"


def main() -> int:
    """0 only if the job succeeded and its accuracy is as expected."""
    started = time.monotonic()
    try:
        prepare()
        env = environment()
        begin(env)
        outcome = follow(env)
    except KeyboardInterrupt:
        say("\nstopped; what is running goes on. `make demo` begins again, `make cluster-down` ends the cluster.")
        return 130
    ready = report(outcome, NAMESPACE)
    say(f"\nall in all: {elapsed_text(time.monotonic() - started)}")
    return 0 if ready else 1


def prepare() -> None:
    """Cluster, images, operator: each step finds out by itself what is still to do."""
    say("disttrain demo: 1. a real Kubernetes, 2. two images, 3. the operator, 4. a training job, 5. a worker dies\n")
    for command in (["up"], ["image-build"], ["image-load"]):
        done = subprocess.run([sys.executable, "-m", "dev.cluster", *command], cwd=REPOSITORY, check=False)
        if done.returncode != 0:
            raise SystemExit(done.returncode)
    install()


def begin(env: dict[str, str]) -> None:
    """Apply the example as a user would. What an earlier demo left is removed: a job of the same name would go on from it."""
    kubectl = ["kubectl", "--namespace", NAMESPACE]
    if subprocess.run(["kubectl", "get", "namespace", NAMESPACE], env=env, capture_output=True, check=False).returncode:
        run(["kubectl", "create", "namespace", NAMESPACE], env, quiet=True)
    run([*kubectl, "delete", "dtj", JOB, "--ignore-not-found", "--timeout=60s"], env, quiet=True)
    run([*kubectl, "delete", "pvc", f"{JOB}-checkpoints", "--ignore-not-found", "--timeout=60s"], env, quiet=True)
    say(f"\n$ kubectl --namespace {NAMESPACE} apply -f {MANIFEST}")
    run([*kubectl, "apply", "-f", "-"], env, text=manifest(image("trainer", env)))


def manifest(trainer: str) -> str:
    """The example, with the name that this cluster has for the image."""
    job = yaml.safe_load((REPOSITORY / MANIFEST).read_text())
    job["spec"]["image"] = trainer
    return yaml.safe_dump(job, sort_keys=False)


def follow(env: dict[str, str]) -> Outcome:
    """Watch the job; kill a worker in the middle."""
    from disttrain.sdk import Client

    os.environ["KUBECONFIG"] = env["KUBECONFIG"]
    client = Client.connect(kubeconfig=env["KUBECONFIG"], namespace=NAMESPACE)

    def kill(pod: str) -> None:
        run(["kubectl", "--namespace", NAMESPACE, "delete", "pod", pod, "--grace-period=0", "--force"], env, quiet=True)

    return Story(client, JOB, kill).run()


if __name__ == "__main__":
    sys.exit(main())
