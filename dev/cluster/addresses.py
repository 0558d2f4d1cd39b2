"""Which address everything has. Pure: a function of the node's number.

All of it lies in 198.18.0.0/15, the range set aside for benchmarks: it collides with no real network, and a packet
that should ever leave the machine finds a black hole. The control plane is the hub, every node hangs on a cable of
its own, so that cutting one cable is a partition of exactly that node.
"""

from __future__ import annotations

from dataclasses import dataclass

WHOLE = "198.18.0.0/15"
SERVICES = "198.18.64.0/18"
API_SERVICE = "198.18.64.1"
DNS_SERVICE = "198.18.64.10"
PODS = "198.19.0.0/16"

HOST = "198.18.0.1"
CONTROL_PLANE = "198.18.0.2"
API_PORT = 6443
API = f"https://{CONTROL_PLANE}:{API_PORT}"

CONTROL_PLANE_NAMESPACE = "disttrain"
HOST_CABLE = "disttrain-host"

# 198.18.1.0/30 … 198.18.63.0/30 are the nodes' cables; 198.18.64.0 is where the Services begin.
MOST_NODES = 63


@dataclass(frozen=True, slots=True)
class NodeNet:
    """The network of node `number`, counted from 1."""

    number: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= MOST_NODES:
            raise ValueError(f"nodes are numbered 1 to {MOST_NODES}, not {self.number}")

    @property
    def name(self) -> str:
        """The Kubernetes name of the node."""
        return f"node-{self.number}"

    @property
    def namespace(self) -> str:
        """The network namespace."""
        return f"{CONTROL_PLANE_NAMESPACE}-{self.name}"

    @property
    def cable(self) -> str:
        """The hub's end of the cable (the other end is called eth0)."""
        return self.name

    @property
    def hub_address(self) -> str:
        """The hub's end."""
        return f"198.18.{self.number}.1"

    @property
    def address(self) -> str:
        """The node's own address."""
        return f"198.18.{self.number}.2"

    @property
    def pods(self) -> str:
        """The pods of this node."""
        return f"198.19.{self.number}.0/24"


def node_number(name: str) -> int:
    """`node-2` → 2."""
    prefix, _, number = name.rpartition("-")
    if prefix != "node" or not number.isdigit():
        raise ValueError(f"no such node: {name} (nodes are called node-1, node-2, …)")
    return NodeNet(int(number)).number
