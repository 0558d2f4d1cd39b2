"""Network namespaces and the cables between them."""

from __future__ import annotations

from pathlib import Path

from dev.cluster import addresses
from dev.cluster.addresses import NodeNet
from dev.cluster.command import run, succeeds

NAMESPACES = Path("/var/run/netns")
ALIAS = Path("/sys/class/net") / addresses.HOST_CABLE / "ifalias"


def inside(namespace: str) -> list[str]:
    """The prefix that runs a program in the namespace.

    `ip netns exec` would also mount a fresh /sys, which hides the cgroups from the kubelet.
    """
    return ["nsenter", f"--net={NAMESPACES / namespace}"]


def hub_commands(owner: str) -> list[list[str]]:
    """Make the hub: namespace, cable to the host, black hole for everything unknown. The cable says whose it is."""
    hub = addresses.CONTROL_PLANE_NAMESPACE
    return [
        ["ip", "netns", "add", hub],
        ["ip", "link", "add", addresses.HOST_CABLE, "type", "veth", "peer", "name", "host", "netns", hub],
        ["ip", "link", "set", addresses.HOST_CABLE, "alias", owner],
        ["ip", "address", "add", f"{addresses.HOST}/30", "dev", addresses.HOST_CABLE],
        ["ip", "link", "set", addresses.HOST_CABLE, "up"],
        ["ip", "route", "replace", addresses.WHOLE, "via", addresses.CONTROL_PLANE],
        *_in(hub, ["ip", "link", "set", "lo", "up"]),
        *_in(hub, ["ip", "address", "add", f"{addresses.CONTROL_PLANE}/30", "dev", "host"]),
        *_in(hub, ["ip", "link", "set", "host", "up"]),
        *_in(hub, ["ip", "route", "add", "blackhole", "default"]),
        *_in(hub, ["sysctl", "-qw", "net.ipv4.ip_forward=1"]),
    ]


def node_commands(net: NodeNet) -> list[list[str]]:
    """Make a node's namespace and its cable to the hub."""
    hub = addresses.CONTROL_PLANE_NAMESPACE
    return [
        ["ip", "netns", "add", net.namespace],
        *_in(hub, ["ip", "link", "add", net.cable, "type", "veth", "peer", "name", "eth0", "netns", net.namespace]),
        *_in(hub, ["ip", "address", "add", f"{net.hub_address}/30", "dev", net.cable]),
        *_in(net.namespace, ["ip", "link", "set", "lo", "up"]),
        *_in(net.namespace, ["ip", "address", "add", f"{net.address}/30", "dev", "eth0"]),
        *_in(net.namespace, ["ip", "link", "set", "eth0", "up"]),
        *_in(net.namespace, ["ip", "route", "add", "blackhole", "default"]),
        *_in(net.namespace, ["ip", "route", "add", addresses.WHOLE, "via", net.hub_address]),
        *_in(net.namespace, ["sysctl", "-qw", "net.ipv4.ip_forward=1"]),
        *heal_commands(net),
    ]


def partition_commands(net: NodeNet) -> list[list[str]]:
    """Pull the node's cable: nothing reaches it, it reaches nothing, and nobody gets an answer."""
    return _in(addresses.CONTROL_PLANE_NAMESPACE, ["ip", "link", "set", net.cable, "down"])


def heal_commands(net: NodeNet) -> list[list[str]]:
    """Plug the cable in again; the kernel forgot the route with the link."""
    hub = addresses.CONTROL_PLANE_NAMESPACE
    return [
        *_in(hub, ["ip", "link", "set", net.cable, "up"]),
        *_in(hub, ["ip", "route", "replace", net.pods, "via", net.address]),
    ]


def ensure_hub(owner: str) -> None:
    """Make the hub unless it is there."""
    if not (NAMESPACES / addresses.CONTROL_PLANE_NAMESPACE).exists():
        _run_all(hub_commands(owner))


def owner() -> str | None:
    """Whose network this machine has: what was given to `ensure_hub`. None without a network."""
    return (ALIAS.read_text().strip() or None) if ALIAS.exists() else None


def users() -> list[int]:
    """The processes that live in our namespaces, not in those of pods."""
    return [int(pid) for name in present() for pid in run(["ip", "netns", "pids", name]).split()]


def ensure_node(net: NodeNet) -> None:
    """Make the node's network unless it is there."""
    if not (NAMESPACES / net.namespace).exists():
        _run_all(node_commands(net))


def partition(net: NodeNet) -> None:
    """Cut the node off."""
    _run_all(partition_commands(net))


def heal(net: NodeNet) -> None:
    """Connect it again."""
    _run_all(heal_commands(net))


def is_partitioned(net: NodeNet) -> bool:
    """Whether the node's cable is pulled."""
    shown = run([*inside(addresses.CONTROL_PLANE_NAMESPACE), "ip", "link", "show", net.cable], check=False)
    return "state DOWN" in shown


def present() -> list[str]:
    """Our namespaces that exist now."""
    hub = addresses.CONTROL_PLANE_NAMESPACE
    names = (entry.name for entry in NAMESPACES.glob(f"{hub}*")) if NAMESPACES.is_dir() else iter(())
    return sorted(name for name in names if name == hub or name.startswith(f"{hub}-node-"))


def remove_all() -> None:
    """Remove our namespaces and the cable to the host; what is not there is not missed."""
    if succeeds(["ip", "link", "show", addresses.HOST_CABLE]):
        run(["ip", "link", "delete", addresses.HOST_CABLE])
    for name in present():
        run(["ip", "netns", "delete", name])


def remove_node(net: NodeNet) -> None:
    """Remove the node's namespace; its cable goes with it."""
    if (NAMESPACES / net.namespace).exists():
        run(["ip", "netns", "delete", net.namespace])


def _in(namespace: str, argv: list[str]) -> list[list[str]]:
    return [[*inside(namespace), *argv]]


def _run_all(commands: list[list[str]]) -> None:
    for argv in commands:
        run(argv)
