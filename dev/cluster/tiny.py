"""Two images of one megabyte, made from the machine's static busybox: `pause` for the kubelet, `tiny` for probes."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dev.cluster.command import Trouble, run
from dev.cluster.node import ctr
from dev.cluster.paths import Paths
from dev.cluster.render import PAUSE_IMAGE

TINY_IMAGE = "docker.io/disttrain/tiny:dev"
BUSYBOX = (Path("/usr/bin/busybox"), Path("/bin/busybox"))
APPLETS = ("cat", "df", "dd", "echo", "env", "false", "id", "ls", "mkdir", "nc", "nslookup", "ping", "ps", "rm", "sh",
           "sleep", "stat", "sync", "tail", "test", "touch", "true", "wget")  # fmt: skip
# Nothing else needs a pause container, and busybox answers a kill as well as any.
PAUSE = {"Entrypoint": ["/bin/sleep", "2147483647"]}
SHELL = {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]}
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def ensure(paths: Paths, node: str) -> None:
    """Import both images unless the node has them."""
    present = run([*ctr(paths, node), "images", "list", "--quiet"]).split()
    if {PAUSE_IMAGE, TINY_IMAGE} <= set(present):
        return
    archive = oci_archive(_layer(_busybox()), {PAUSE_IMAGE: PAUSE, TINY_IMAGE: SHELL})
    done = subprocess.run([*ctr(paths, node), "images", "import", "-"], input=archive, capture_output=True)
    if done.returncode != 0:
        raise Trouble(f"importing the pause image failed: {done.stderr.decode(errors='replace')}")
    for name in (PAUSE_IMAGE, TINY_IMAGE):
        pin(paths, node, name)


def pin(paths: Paths, node: str, image: str) -> None:
    """Tell the kubelet never to collect it: nothing could bring it back."""
    run([*ctr(paths, node), "images", "label", image, "io.cri-containerd.pinned=pinned"])


def _busybox() -> bytes:
    for path in BUSYBOX:
        if path.exists():
            return path.read_bytes()
    raise Trouble("busybox is missing: apt-get install busybox-static")


def _layer(busybox: bytes) -> bytes:
    """A root file system of one program under many names."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in ("bin", "tmp"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        entry = tarfile.TarInfo("bin/busybox")
        entry.size, entry.mode = len(busybox), 0o755
        tar.addfile(entry, io.BytesIO(busybox))
        for applet in APPLETS:
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    return buffer.getvalue()


def oci_archive(layer: bytes, images: Mapping[str, Mapping[str, Any]]) -> bytes:
    """An OCI archive of images that share one layer and differ in their configuration."""
    blobs = {_digest(layer): layer}
    manifests = []
    for name, settings in images.items():
        architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
        config = _json(
            {
                "architecture": architecture,
                "os": "linux",
                "config": settings,
                "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
            }
        )
        manifest = _json(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
                "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
            }
        )
        blobs |= {_digest(config): config, _digest(manifest): manifest}
        entry = _descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
        manifests.append({**entry, "annotations": {"io.containerd.image.name": name}})
    return archive(blobs, manifests)


def archive(blobs: Mapping[str, bytes], manifests: list[dict[str, Any]]) -> bytes:
    """The tar of an OCI image layout."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", _json({"schemaVersion": 2, "manifests": manifests}))
        for digest, content in blobs.items():
            _add(tar, f"blobs/sha256/{digest.removeprefix('sha256:')}", content)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}
