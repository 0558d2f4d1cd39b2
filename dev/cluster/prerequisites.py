"""What the machine must have before our own cluster can start; one clear message for each thing it lacks."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dev.cluster import budget, render
from dev.cluster.command import Trouble, run, stream
from dev.cluster.paths import Paths
from dev.cluster.progress import step
from dev.cluster.toolchain import missing as missing_tools
from dev.cluster.versions import CLUSTER_TOOLS, USER_TOOLS

NO_APT = "DISTTRAIN_NO_APT"


@dataclass(frozen=True, slots=True)
class Needed:
    """A program, and the Debian package that brings it."""

    program: str  # a name on PATH, or alternatives as absolute paths separated by |
    package: str


NODE = (
    Needed("containerd", "containerd"),
    Needed("ctr", "containerd"),
    Needed("runc", "runc"),
    Needed("iptables", "iptables"),
    Needed("ip", "iproute2"),
    Needed("sysctl", "procps"),
    Needed("nsenter", "util-linux"),
    Needed("mount", "mount"),
    Needed("mkfs.ext4", "e2fsprogs"),
    Needed("|".join(str(folder / "ptp") for folder in render.CNI_PLUGINS), "containernetworking-plugins"),
    Needed("/usr/bin/busybox|/bin/busybox", "busybox-static"),
    Needed("conntrack", "conntrack"),
)
IMAGES = (
    Needed("buildah", "buildah"),
    Needed("debootstrap", "debootstrap"),
    Needed("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"),
    Needed("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
)
# Daemons in Debian's sbin folders are found also when a plain user's PATH was inherited.
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
# overlayfs cannot lie upon these.
UNSUITABLE = frozenset({"overlayfs", "tmpfs", "ramfs", "nfs", "fuseblk", "v9fs"})


def check_machine(paths: Paths) -> None:
    """Linux, root, and a file system that can carry containers."""
    if platform.system() != "Linux":
        raise Trouble("our own cluster runs on Linux only; elsewhere install Docker and kind, or set KUBECONFIG")
    if os.geteuid() != 0:
        raise Trouble(
            "our own cluster needs root, because it makes network namespaces and containers. Either run it with sudo, "
            "or install Docker and kind, or set KUBECONFIG to a cluster you have."
        )
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:{SBIN}"
    paths.root.mkdir(parents=True, exist_ok=True)
    kind = run(["stat", "--file-system", "--format=%T", str(paths.root)]).strip()
    if kind in UNSUITABLE:
        raise Trouble(
            f"{paths.root} lies on a file system that cannot carry container images ({kind}): "
            "set DISTTRAIN_CACHE to a folder on ext4, xfs or btrfs"
        )


def ensure_packages(needed: Iterable[Needed], env: Mapping[str, str]) -> None:
    """Install what is missing with apt, after saying so; elsewhere say what to install."""
    packages = lacking(needed)
    if not packages:
        return
    command = f"apt-get install --no-install-recommends {' '.join(packages)}"
    if not shutil.which("apt-get"):
        raise Trouble(f"missing: {', '.join(packages)} (Debian's names). Install them with your package manager.")
    if env.get(NO_APT):
        raise Trouble(f"missing: {', '.join(packages)}. Install them with: {command} ({NO_APT} is set)")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    with step(f"installing {' '.join(packages)} (set {NO_APT}=1 to do it yourself)") as current:
        current.note = "apt-get update"
        run(["apt-get", "update", "-qq"], env=quiet)
        argv = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
        stream(argv, lambda text: setattr(current, "note", text), env=quiet)
        current.note = ""
    if still := lacking(needed):
        raise Trouble(
            f"{', '.join(still)}: installed, but what they should bring is not there; see the output of apt-get above"
        )


def lacking(needed: Iterable[Needed]) -> list[str]:
    """The packages whose programs are not there."""
    return sorted({item.package for item in needed if not _is_there(item.program)})


def check_disk(paths: Paths) -> None:
    """Refuse before the start, not in the middle."""
    tools = missing_tools(paths, (*CLUSTER_TOOLS, *USER_TOOLS))
    images_built = (paths.images / "trainer.json").exists()
    needed = budget.needed_megabytes(tools, images_built=images_built)
    free = shutil.disk_usage(paths.root).free // 1_000_000
    if text := budget.shortage(free, needed, str(paths.root)):
        raise Trouble(text)


def _is_there(program: str) -> bool:
    if "/" in program:
        return any(Path(name).exists() for name in program.split("|"))
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{SBIN}") is not None
