"""Read buildah's storage: an image's manifest, its configuration, and the folder of every layer.

containers/storage keeps a layer of the overlay driver as the very folder that the kernel's overlayfs uses; containerd
does the same for a snapshot. This module reads the first, load.py makes the second out of it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev.cluster.command import Trouble


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: the digest of its uncompressed tar, the name of it with all below it, and its folder."""

    diff_id: str
    chain_id: str
    parent: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Image:
    """An image as it lies in the storage."""

    id: str
    manifest: bytes
    config: bytes
    layers: tuple[Layer, ...]

    @property
    def digest(self) -> str:
        """The digest of the manifest: what a node calls the image's target."""
        return digest_of(self.manifest)


def digest_of(content: bytes) -> str:
    """`sha256:…`"""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def chain_ids(diff_ids: list[str]) -> list[str]:
    """The OCI names of a stack of layers, from the bottom to the top."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(digest_of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain


def image_id(root: Path, name: str) -> str | None:
    """The id of a named image, if there is one."""
    for entry in _read(root / "overlay-images" / "images.json"):
        if name in (entry.get("names") or ()):
            return str(entry["id"])
    return None


def read(root: Path, name: str) -> Image:
    """A named image with all its layers; damage is said, not passed on."""
    identity = image_id(root, name)
    if identity is None:
        raise Trouble(f"the image {name} has not been built: python -m dev.cluster image-build")
    folder = root / "overlay-images" / identity
    manifest = (folder / "manifest").read_bytes()
    wanted = json.loads(manifest)["config"]["digest"]
    config = (folder / f"={base64.b64encode(wanted.encode()).decode()}").read_bytes()
    if digest_of(config) != wanted:
        raise Trouble(f"the stored image {name} is damaged: `python -m dev.cluster clean`, then build again")
    diff_ids = [str(item) for item in json.loads(config)["rootfs"]["diff_ids"]]
    return Image(identity, manifest, config, _layers(root, identity, diff_ids))


def _layers(root: Path, identity: str, diff_ids: list[str]) -> tuple[Layer, ...]:
    known = {entry["id"]: entry for entry in _read(root / "overlay-layers" / "layers.json")}
    images = {entry["id"]: entry for entry in _read(root / "overlay-images" / "images.json")}
    stack: list[dict[str, Any]] = []
    current = images[identity].get("layer")
    while current:
        stack.insert(0, known[current])
        current = known[current].get("parent")
    found = [str(entry["diff-digest"]) for entry in stack]
    if found != diff_ids:
        raise Trouble(f"the layers of {identity[:12]} in {root} are not those of its configuration")
    chain = chain_ids(diff_ids)
    return tuple(
        Layer(diff_id, name, parent, root / "overlay" / entry["id"] / "diff")
        for diff_id, name, parent, entry in zip(diff_ids, chain, ["", *chain], stack, strict=False)
    )


def _read(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text())) if path.exists() else []
