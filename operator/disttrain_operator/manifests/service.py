"""The headless Service: DNS names for the workers."""

from __future__ import annotations

from disttrain_contract import labels, names
from disttrain_operator.core.model import Job
from disttrain_operator.manifests.meta import Manifest, child_labels, owner


def service(job: Job) -> Manifest:
    """No cluster address, no ports; names resolve before the pods are ready, since they must find each other to become so."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": names.service_name(job.name),
            "namespace": job.namespace,
            "labels": child_labels(job),
            "ownerReferences": [owner(job)],
        },
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {labels.JOB: job.name},
        },
    }
