"""The checkpoint claim of a job that asks for a size."""

from __future__ import annotations

from disttrain_contract import labels
from disttrain_operator.core.model import ClaimSpec, Job
from disttrain_operator.manifests.meta import Manifest, child_labels


def claim(job: Job, wanted: ClaimSpec) -> Manifest:
    """Without an owner: deleting a job never deletes its checkpoints."""
    spec: Manifest = {
        "accessModes": list(wanted.access_modes),
        "resources": {"requests": {"storage": wanted.size}},
    }
    if wanted.storage_class is not None:
        spec["storageClassName"] = wanted.storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": wanted.name,
            "namespace": job.namespace,
            "labels": child_labels(job) | {labels.COMPONENT: "checkpoints"},
        },
        "spec": spec,
    }
