"""Where everything lies: one folder of the user's cache, never the checkout."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# The checkout this package lies in: the Dockerfile and the build inputs are there.
REPOSITORY = Path(__file__).resolve().parents[2]
# The go sources of our own mains, shipped beside this file.
GO_SOURCES = Path(__file__).resolve().parent / "go"
# A unix socket's path may have 107 characters; the longest we need below the root is nodes/node-99/containerd.sock.
LONGEST_ROOT = 107 - len("/cluster/nodes/node-99/containerd/containerd.sock.ttrpc")


@dataclass(frozen=True, slots=True)
class Paths:
    """The folders below one root (`~/.cache/disttrain`, or DISTTRAIN_CACHE)."""

    root: Path

    @classmethod
    def of(cls, env: Mapping[str, str]) -> Paths:
        """Read the root from the environment; an overlong one is refused now, not by a socket later."""
        base = Path(env.get("XDG_CACHE_HOME") or Path(env.get("HOME", "/root")) / ".cache")
        root = Path(env.get("DISTTRAIN_CACHE") or base / "disttrain")
        if len(str(root)) > LONGEST_ROOT:
            raise ValueError(f"{root} is too long for unix sockets: set DISTTRAIN_CACHE to a shorter path")
        return cls(root)

    @property
    def bin(self) -> Path:
        """Links to the current version of every tool, for PATH."""
        return self.root / "bin"

    @property
    def go_work(self) -> Path:
        """Go's modules and compiled packages while tools are being built."""
        return self.root / "go-work"

    @property
    def cluster(self) -> Path:
        """The state of the running cluster; `down` removes all of it except `stores`."""
        return self.root / "cluster"

    @property
    def stores(self) -> Path:
        """The nodes' image stores: they outlive `down`, because filling them takes long."""
        return self.root / "stores"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig; works from the host."""
        return self.cluster / "kubeconfig"

    @property
    def pki(self) -> Path:
        """Certificates, keys and the components' kubeconfigs."""
        return self.cluster / "pki"

    @property
    def logs(self) -> Path:
        """One log file per process of the control plane."""
        return self.cluster / "logs"

    @property
    def processes(self) -> Path:
        """One file per process that we started."""
        return self.cluster / "processes"

    @property
    def volumes(self) -> Path:
        """The persistent volumes, one folder each."""
        return self.cluster / "volumes"

    @property
    def images(self) -> Path:
        """What buildah keeps, and what we know of the last build."""
        return self.root / "images"

    def node(self, name: str) -> Path:
        """The state of one node."""
        return self.cluster / "nodes" / name

    def store(self, node: str) -> Path:
        """The image store (containerd's root) of one node."""
        return self.stores / node

    def socket(self, node: str) -> Path:
        """Where the node's containerd listens."""
        return self.node(node) / "containerd" / "containerd.sock"

    def tool(self, name: str, version: str) -> Path:
        """Where a built tool is kept."""
        return self.root / name / version / name


def current_paths() -> Paths:
    """The paths of whoever runs this."""
    return Paths.of(os.environ)
