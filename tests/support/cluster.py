"""A real cluster as a user sees it: through kubectl. Every wait is bounded and says what it saw last."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dev.access import environment, image

Wire = dict[str, Any]
STANDING = """
import os, time
from pathlib import Path
from disttrain_runtime import pulse
boards = [f for f in Path("/proc/1/fd").iterdir() if os.readlink(f).startswith("/memfd:rank")]
boards = list({b.stat().st_ino: b for b in boards if b.stat().st_size >= pulse.PAGE}.values())
for board in boards:
    os.truncate(board, pulse.PAGE)
for process in Path("/proc").glob("[0-9]*"):
    if process.name != "1" and "/memfd:rank" in (process / "maps").read_text():
        os.kill(int(process.name), pulse.STACK_SIGNAL)
time.sleep(0.5)
for board in boards:
    text = board.read_bytes()
    print(pulse.read(bytearray(text[: pulse.PAGE])), text[pulse.PAGE :].decode(errors="replace"), sep="\\n")
"""
"""In a worker: where its ranks stand, from what they leave for their agent."""


@dataclass(frozen=True)
class Cluster:
    """One namespace of a cluster."""

    kubeconfig: Path
    namespace: str
    kubectl_path: str = "kubectl"

    def kubectl(
        self, *args: str, text: str | None = None, check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        command = [self.kubectl_path, "--kubeconfig", str(self.kubeconfig), "-n", self.namespace, *args]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done

    def apply(self, *objects: Wire) -> None:
        self.kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def refused(self, *objects: Wire) -> str:
        """Apply what must not be accepted; the API server's words."""
        done = self.kubectl("apply", "-f", "-", text="\n---\n".join(json.dumps(o) for o in objects), check=False)
        assert done.returncode != 0, "it was accepted"
        return done.stderr

    def get(self, kind: str, name: str) -> Wire | None:
        done = self.kubectl("get", kind, name, "-o", "json", "--ignore-not-found")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def list(self, kind: str, selector: str = "") -> list[Wire]:
        done = self.kubectl("get", kind, "-o", "json", *(["-l", selector] if selector else []))
        return json.loads(done.stdout)["items"]

    def pods(self, job: str) -> dict[str, Wire]:
        return {p["metadata"]["name"]: p for p in self.list("pods", f"disttrain.dev/job={job}")}

    def events(self, name: str) -> list[Wire]:
        done = self.kubectl("get", "events", "--field-selector", f"involvedObject.name={name}", "-o", "json")
        return json.loads(done.stdout)["items"]

    def until(self, what: str, look: Callable[[], Any], timeout: float, every: float = 0.3) -> Any:
        """The first true answer of `look`."""
        end, seen = time.monotonic() + timeout, None
        while time.monotonic() < end:
            if seen := look():
                return seen
            time.sleep(every)
        raise AssertionError(f"not within {timeout:.0f} s: {what}\n{self.story()}")

    def story(self) -> str:
        """What a person would look at."""
        parts = [self.kubectl("get", "dtj,pods,pvc", "-o", "wide", check=False).stdout]
        parts += [json.dumps(j.get("status"), indent=1) for j in self.list("dtj")]
        parts += [self.kubectl("get", "events", check=False).stdout[-3000:]]
        parts += [f"---- {name}\n{self._inside(name)}" for name in self._running_workers()]
        return "\n".join(parts)

    def _running_workers(self) -> Iterator[str]:
        for pod in self.list("pods", "disttrain.dev/job"):
            if pod.get("status", {}).get("phase") == "Running":
                yield pod["metadata"]["name"]

    def _inside(self, pod: str) -> str:
        """What its agent said last, and where its ranks stand: a job that hangs says it here only."""
        said = self.kubectl("logs", pod, "--tail=30", check=False).stdout
        try:
            standing = self.kubectl("exec", pod, "--", "python", "-c", STANDING, check=False, timeout=20)
        except subprocess.TimeoutExpired:
            return said
        return f"{said}\n{standing.stdout}{standing.stderr}"

    def job(self, name: str) -> Job:
        return Job(self, name)


@dataclass(frozen=True)
class Job:
    """One DistTrainJob."""

    cluster: Cluster
    name: str

    @property
    def status(self) -> Wire:
        found = self.cluster.get("dtj", self.name)
        return (found or {}).get("status") or {}

    def condition(self, kind: str) -> Wire:
        return next((c for c in self.status.get("conditions", []) if c["type"] == kind), {})

    def wait(self, kind: str, status: str = "True", timeout: float = 120) -> Wire:
        def look() -> Wire | None:
            found, failed = self.condition(kind), self.condition("Failed")
            if found.get("status") == status:
                return found
            if (
                kind != "Failed" and failed.get("status") == "True"
            ):  # a failed job changes no more; it may fail between two looks
                raise AssertionError(f"{self.name} failed: {failed['message']}\n{self.cluster.story()}")
            return None

        return self.cluster.until(f"{self.name}: {kind}={status}", look, timeout)

    def wait_state(self, *states: str, timeout: float = 60) -> str:
        return self.cluster.until(
            f"{self.name}: state in {states}", lambda: (s := self.status.get("state")) in states and s, timeout
        )

    def wait_step(self, step: int, timeout: float = 120) -> int:
        return self.cluster.until(
            f"{self.name}: step {step}",
            lambda: (s := self.status.get("progress", {}).get("step", 0)) >= step and s,
            timeout,
        )

    def wait_checkpoint(self, step: int, timeout: float = 120) -> Wire:
        def look() -> Wire | None:
            found = self.status.get("checkpoint", {}).get("lastCommitted")
            return found if found and found["step"] >= step else None

        return self.cluster.until(f"{self.name}: checkpoint of step {step}", look, timeout)

    def pods(self) -> dict[str, Wire]:
        return self.cluster.pods(self.name)

    def uids(self) -> dict[str, str]:
        return {n: p["metadata"]["uid"] for n, p in self.pods().items()}

    def sh(self, worker: int, script: str, timeout: float = 30) -> str:
        """Run a shell line in a worker's container."""
        return self.cluster.kubectl("exec", f"{self.name}-{worker}", "--", "sh", "-c", script, timeout=timeout).stdout

    def patch(self, spec: Wire) -> None:
        self.cluster.kubectl("patch", "dtj", self.name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def logs(self, worker: int) -> str:
        return self.cluster.kubectl("logs", f"{self.name}-{worker}").stdout


@cache
def trainer_image() -> str:
    """As the cluster under test calls it."""
    return image("trainer", environment())


def job(name: str, *, namespace: str | None = None, **spec: Any) -> Wire:
    """A manifest; plain Python one-liners need no torch and start fast."""
    spec.setdefault("image", trainer_image())
    if "command" not in spec and "entrypoint" not in spec:
        spec["entrypoint"] = "digits.task:build"
    meta = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": "disttrain.dev/v1alpha1", "kind": "DistTrainJob", "metadata": meta, "spec": spec}


def python(code: str) -> list[str]:
    """A command that runs a few lines of Python."""
    return ["python", "-u", "-c", code]


def fresh_namespaces(kubeconfig: Path, kubectl_path: str, prefix: str) -> Iterator[Cluster]:
    """A namespace that enforces the restricted Pod Security Standard, and goes away afterwards."""
    name = f"{prefix}-{time.monotonic_ns() % 10**8}"
    cluster = Cluster(kubeconfig, name, kubectl_path)
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    yield cluster
    cluster.kubectl("delete", "namespace", name, "--wait=false", check=False)
