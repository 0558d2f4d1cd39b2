"""Bring a built image to a node without copying it.

The usual way (push to an archive, import, unpack) writes the 5.6 GB of PyTorch three times and takes four minutes.
Here every layer becomes a snapshot whose files are hard links to buildah's: no byte is copied, a second node costs
nothing, and after a change of code only the small top layers are new. containerd's own commands make the snapshot and
commit it; the import then finds every layer unpacked and needs none of their archives.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from dev.cluster import tiny
from dev.cluster.command import Trouble, run
from dev.cluster.images import storage
from dev.cluster.images.build import TARGETS, Buildah, image_name
from dev.cluster.images.storage import Image, Layer
from dev.cluster.node import ctr
from dev.cluster.paths import Paths
from dev.cluster.progress import say, step

# ctr protects what it commits from containerd's garbage collection with this label. It must go once the image holds
# the snapshot, or an old layer would never be collected.
PROTECTION = "containerd.io/gc.root"


def load_built(paths: Paths, nodes: list[str], *, must_exist: bool) -> None:
    """Bring both images to every node; with `must_exist` false, those that were not built yet are passed over."""
    root = Buildah(paths).storage
    for build_target in TARGETS:
        name = image_name(build_target)
        if not must_exist and storage.image_id(root, name) is None:
            continue
        image = storage.read(root, name)
        for node in nodes:
            if target(ctr(paths, node), name) == image.digest:
                say(f"  ✓ {node} has image {build_target}")
                continue
            with step(f"image {build_target} → {node}") as current:
                fresh = load(paths, node, name, image)
                current.note = f"{fresh} of {len(image.layers)} layers were new"


def load(paths: Paths, node: str, name: str, image: Image) -> int:
    """Make the node have the image under the name; returns how many layers were new to it."""
    prefix = ctr(paths, node)
    if target(prefix, name) == image.digest:
        return 0
    have = set(run([*prefix, "snapshots", "list"]).split())
    fresh = [layer for layer in image.layers if layer.chain_id not in have]
    for layer in fresh:
        _snapshot(prefix, layer)
    _import(prefix, name, image)
    tiny.pin(paths, node, name)
    for layer in fresh:
        run([*prefix, "snapshots", "label", layer.chain_id, f"{PROTECTION}="])
    prune(prefix)
    return len(fresh)


def prune(prefix: list[str]) -> None:
    """Drop the images that have lost their name: the kubelet's plugin keeps a second reference to each by its id."""
    if left := nameless(run([*prefix, "images", "list"])):
        run([*prefix, "images", "remove", *left])


def nameless(listing: str) -> list[str]:
    """The references by id whose image has no name any more. Pure: reads the table of `ctr images list`."""
    rows = [(fields[0], fields[2]) for text in listing.splitlines()[1:] if len(fields := text.split()) > 2]
    named = {digest for name, digest in rows if not name.startswith("sha256:")}
    return [name for name, digest in rows if name.startswith("sha256:") and digest not in named]


def target(prefix: list[str], name: str) -> str | None:
    """The manifest digest of the image that the node has under this name."""
    for text in run([*prefix, "images", "list", f"name=={name}"]).splitlines()[1:]:
        fields = text.split()
        if fields and fields[0] == name:
            return fields[2]
    return None


def upper_folder(mounts: str) -> Path:
    """Where the files of a snapshot in the making belong, from the mounts that containerd prints as JSON."""
    mount = json.loads(mounts)[0]
    if mount["Type"] == "bind":  # the lowest layer has nothing to be laid over
        return Path(mount["Source"])
    options = dict(option.partition("=")[::2] for option in mount["Options"])
    return Path(options["upperdir"])


def _snapshot(prefix: list[str], layer: Layer) -> None:
    """One layer: prepare, fill with hard links, commit."""
    key = f"disttrain-{layer.chain_id.removeprefix('sha256:')[:24]}"
    run([*prefix, "snapshots", "remove", key], check=False)  # of an interrupted attempt
    parent = [layer.parent] if layer.parent else []
    folder = upper_folder(run([*prefix, "snapshots", "prepare", "--mounts", key, *parent]))
    run(_link_command(layer.folder, folder))
    run([*prefix, "snapshots", "commit", layer.chain_id, key])


def _link_command(source: Path, target: Path) -> list[str]:
    """Copy a tree as hard links.

    buildah leaves its overlay folder mounted on itself, and a link may not cross a mount, even within one file system:
    so it happens in a mount namespace where that mount is taken away.
    """
    overlay = source.parents[1]
    script = 'umount --recursive "$0" 2> /dev/null || true; exec cp --archive --link --no-target-directory "$1" "$2"'
    return [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        script,
        str(overlay),
        str(source),
        str(target),
    ]


def _import(prefix: list[str], name: str, image: Image) -> None:
    manifest = json.loads(image.manifest)
    blobs = {image.digest: image.manifest, manifest["config"]["digest"]: image.config}
    entry = {
        "mediaType": manifest.get("mediaType", "application/vnd.oci.image.manifest.v1+json"),
        "digest": image.digest,
        "size": len(image.manifest),
        "annotations": {"io.containerd.image.name": name},
    }
    archive = tiny.archive(blobs, [entry])
    # From containerd 1.7 on the daemon could do the import; it is ctr's own that asks for no layer that is unpacked.
    local = ["--local"] if "--local" in run([*prefix, "images", "import", "--help"]) else []
    done = subprocess.run([*prefix, "images", "import", *local, "-"], input=archive, capture_output=True)
    if done.returncode != 0:
        raise Trouble(f"importing {name} failed: {done.stderr.decode(errors='replace')}")
