"""What the provisioner should do next. Pure: claims and volumes in, actions out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dev.cluster.render import PROVISIONER, READ_ONLY_CLASS, SHARED_CLASS, SIZED_CLASS

Object = dict[str, Any]
CLASSES = frozenset({SHARED_CLASS, SIZED_CLASS, READ_ONLY_CLASS})
# ext4 needs some room for itself.
SMALLEST_SIZED = 1024 * 1024

_SUFFIXES = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip
_QUANTITY = re.compile(r"^(\d+(?:\.\d+)?)(" + "|".join(_SUFFIXES) + r")$")


@dataclass(frozen=True, slots=True)
class Create:
    """Make the directory (or file system) for a claim, and the PersistentVolume bound to it."""

    volume: str
    folder: str
    storage_class: str
    size: int
    claim: str
    object: Object


@dataclass(frozen=True, slots=True)
class Remove:
    """The claim is gone: delete the data and the PersistentVolume."""

    volume: str
    folder: str


Action = Create | Remove


def bytes_of(quantity: str) -> int:
    """`64Mi` → 67108864."""
    match = _QUANTITY.match(quantity)
    if match is None:
        raise ValueError(f"not a size: {quantity!r} (write 64Mi or 2G)")
    return int(float(match[1]) * _SUFFIXES[match[2]])


def plan(claims: Iterable[Object], volumes: Iterable[Object], root: str) -> list[Action]:
    """Claims of our classes that have no volume get one; our volumes whose claim is gone go too."""
    ours = {v["metadata"]["name"]: v for v in volumes if _is_ours(v)}
    actions: list[Action] = [
        Remove(name, v["spec"]["hostPath"]["path"])
        for name, v in ours.items()
        if v.get("status", {}).get("phase") == "Released" and v["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
    ]
    actions += [_create(claim, root) for claim in claims if _waits(claim) and f"pvc-{_uid(claim)}" not in ours]
    return actions


def _is_ours(volume: Object) -> bool:
    annotations = volume["metadata"].get("annotations") or {}
    return bool(annotations.get("pv.kubernetes.io/provisioned-by") == PROVISIONER)


def _waits(claim: Object) -> bool:
    spec = claim["spec"]
    return (
        spec.get("storageClassName") in CLASSES
        and not spec.get("volumeName")
        and spec.get("volumeMode", "Filesystem") == "Filesystem"
        and "deletionTimestamp" not in claim["metadata"]
    )


def _uid(claim: Object) -> str:
    return str(claim["metadata"]["uid"])


def _create(claim: Object, root: str) -> Create:
    meta, spec = claim["metadata"], claim["spec"]
    name = f"pvc-{meta['uid']}"
    # The name tells a person whose data it is; the uid keeps two lives of one claim apart.
    folder = f"{root}/{meta['namespace']}_{meta['name']}_{meta['uid'][:8]}"
    size = spec["resources"]["requests"]["storage"]
    reference = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta["namespace"]}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
        "spec": {
            "capacity": {"storage": size},
            "accessModes": spec["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": spec["storageClassName"],
            "claimRef": {**reference, "name": meta["name"], "uid": meta["uid"]},
            "hostPath": {"path": folder, "type": "Directory"},
        },
    }
    claim_name = f"{meta['namespace']}/{meta['name']}"
    return Create(name, folder, spec["storageClassName"], bytes_of(size), claim_name, volume)
