"""Where things are in the Kubernetes API."""

from __future__ import annotations

from disttrain_contract import labels

API = f"/apis/{labels.GROUP}/{labels.VERSION}"


def jobs(namespace: str | None) -> str:
    """All jobs of a namespace; None: of all namespaces."""
    return f"{API}/namespaces/{namespace}/{labels.PLURAL}" if namespace else f"{API}/{labels.PLURAL}"


def job(namespace: str, name: str) -> str:
    """One job."""
    return f"{jobs(namespace)}/{name}"


def core(namespace: str, kind: str, name: str = "") -> str:
    """Pods, events, claims of a namespace."""
    return f"/api/v1/namespaces/{namespace}/{kind}" + (f"/{name}" if name else "")


def log(namespace: str, pod: str) -> str:
    """What a pod has printed."""
    return core(namespace, "pods", pod) + "/log"


def execute(namespace: str, pod: str) -> str:
    """A command inside a pod."""
    return core(namespace, "pods", pod) + "/exec"


def eviction(namespace: str, pod: str) -> str:
    """The wish that a pod go, as a node's drain says it."""
    return core(namespace, "pods", pod) + "/eviction"


def leases(namespace: str) -> str:
    """Who leads, in a namespace."""
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"


def of_job(name: str) -> dict[str, str]:
    """Query: the children of a job."""
    return {"labelSelector": f"{labels.JOB}={name}"}


def about(uid: str) -> dict[str, str]:
    """Query: the events about one object, in this life of its name."""
    return {"fieldSelector": f"involvedObject.uid={uid}"}


POD_WARNINGS = {"fieldSelector": "involvedObject.kind=Pod,type=Warning"}
"""Query: what went wrong with pods of the namespace."""
