"""Our own cluster: bring it up, take it down, look at it.

`up` is level-based: it makes what is missing and leaves what is there, so it is also the repair after a crash.
"""

from __future__ import annotations

import fcntl
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from dev.cluster import api as api_module
from dev.cluster import cgroups, components, mounts, network, node, render, tiny
from dev.cluster.addresses import NodeNet, node_number
from dev.cluster.api import Api, ApiError, path_of
from dev.cluster.certificates import CONTROL_PLANE, Authority
from dev.cluster.command import Trouble
from dev.cluster.paths import Paths
from dev.cluster.processes import Processes
from dev.cluster.progress import say, step
from dev.cluster.startup import Startup

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def locked(paths: Paths) -> Iterator[None]:
    """One command at a time may change the cluster."""
    paths.root.mkdir(parents=True, exist_ok=True)
    with (paths.root / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("  … another dev.cluster command is at work: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def up(paths: Paths, nodes: int, *, control_plane_only: bool = False) -> None:
    """Start what does not run yet; returns when the nodes are Ready and pods can be created."""
    _forget_earlier_boot(paths)
    nets = [] if control_plane_only else [NodeNet(number) for number in range(1, nodes + 1)]
    what = "control plane" if control_plane_only else f"control plane and {nodes} node{'s' if nodes > 1 else ''}"
    with step(what) as current:
        current.note = "files and networks"
        _prepare(paths, nets)
        startup = Startup(Processes(paths.processes), current)
        startup.start(components.etcd(paths))
        startup.start(components.apiserver(paths))
        for net in nets:
            startup.start(components.containerd(paths, net))
        api = Api(paths.pki)
        startup.wait("the API server", api.is_ready)
        _start_controllers(paths, api, startup)
        for net in nets:
            startup.wait(f"containerd of {net.name}", partial(node.runtime_answers, paths, net))
            tiny.ensure(paths, net.name)
            startup.start(components.kubelet(paths, net))
            startup.start(components.proxy(paths, net))
        for net in nets:
            startup.wait(f"the kubelet of {net.name}", partial(_answers, net.address, components.KUBELET_PORT))
            startup.wait(f"{net.name} to be Ready", partial(_node_is_ready, api, net.name))
        startup.wait("service accounts", partial(_has_default_account, api))
        current.note = "Ready" if startup.fresh else "Ready (everything ran already)"


def down(paths: Paths) -> None:
    """End what we started, and nothing else; the tools and the images stay."""
    with step("taking the cluster down") as current:
        processes = Processes(paths.processes)
        for name in node_names(paths):
            current.note = f"pods of {name}"
            node.stop_pods(paths, name, processes)
        current.note = "processes"
        processes.stop(processes.names())
        ours = network.owner() in (None, str(paths.root))  # else a cluster of another cache has come after ours
        if ours:
            cgroups.kill(render.CGROUP_ROOT)
        current.note = "mounts, networks, control groups"
        mounts.unmount_all(paths.cluster)
        if ours:
            network.remove_all()
            cgroups.remove(render.CGROUP_ROOT)
        mounts.forget_private_folders()
        if paths.cluster.exists():
            shutil.rmtree(paths.cluster)
        current.note = f"tools and images stay in {paths.root}"


def remove_node(paths: Paths, net: NodeNet) -> None:
    """Take one node away for good; its pods are moved or deleted by their controllers."""
    with step(f"removing {net.name}"):
        processes = Processes(paths.processes)
        node.stop_pods(paths, net.name, processes)
        node.stop(net.name, processes)
        mounts.unmount_all(paths.node(net.name))
        network.remove_node(net)
        cgroups.remove(f"{render.CGROUP_ROOT}/{net.name}")
        shutil.rmtree(paths.node(net.name))
        with suppress(ApiError):
            Api(paths.pki).request("DELETE", path_of("Node", net.name))


def node_names(paths: Paths) -> list[str]:
    """The nodes that were made, in order."""
    folder = paths.cluster / "nodes"
    return sorted((entry.name for entry in folder.iterdir()), key=node_number) if folder.is_dir() else []


def was_started(paths: Paths) -> bool:
    """Whether there is a cluster of ours: running, or broken and waiting for `up` or `down`."""
    return (paths.cluster / "boot-id").exists()


def status(paths: Paths) -> list[str]:
    """What runs, in lines for a person."""
    processes = Processes(paths.processes)
    if not processes.names():
        return ["no cluster is running"]
    lines = [f"kubeconfig   {paths.kubeconfig}"]
    for name in processes.names():
        pid = processes.pid(name)
        lines.append(f"process      {name:24} {f'pid {pid}' if pid else 'DEAD: run `up` to repair'}")
    api = Api(paths.pki)
    if not api.is_ready():
        return [*lines, "API server   does not answer"]
    for item in api.get(path_of("Node"))["items"]:
        name = item["metadata"]["name"]
        cut = (
            " (partitioned)" if name in node_names(paths) and network.is_partitioned(NodeNet(node_number(name))) else ""
        )
        lines.append(f"node         {name:24} {'Ready' if _is_ready(item) else 'NotReady'}{cut}")
    return lines


def claim_machine(paths: Paths) -> None:
    """Addresses and names of networks are the machine's, so it holds one cluster at a time.

    What a cluster of another cache left behind must go: its pods' routes would swallow what is sent to ours that are given
    the same addresses. Raises `Trouble` while that cluster lives.
    """
    owner = network.owner()
    if not network.present() or (owner == str(paths.root) and (paths.cluster / "etcd").exists()):
        return
    if network.users():
        raise Trouble(
            f"another cluster of disttrain runs on this machine, made from {owner or 'an unknown cache'}:"
            f" take it down first: DISTTRAIN_CACHE={owner or '…'} make cluster-down"
        )
    say(f"  the network of an earlier cluster ({owner or 'unknown'}) is left over: removing it")
    cgroups.kill(render.CGROUP_ROOT)
    network.remove_all()


def _forget_earlier_boot(paths: Paths) -> None:
    """Processes, mounts and namespaces of an earlier boot are gone; what they left in files is of no use."""
    kept = paths.cluster / "boot-id"
    boot = BOOT_ID.read_text()
    if paths.cluster.exists() and (not kept.exists() or kept.read_text() != boot):
        say("  the state of an earlier boot or of an interrupted start is left over: starting afresh")
        down(paths)
    paths.cluster.mkdir(parents=True, exist_ok=True)
    kept.write_text(boot)


def _prepare(paths: Paths, nets: Sequence[NodeNet]) -> None:
    mounts.ensure_bind(paths.cluster, "private")
    mounts.ensure_bind(paths.volumes, "shared")
    authority = Authority(paths.pki)
    authority.ensure_service_account_key()
    for identity in CONTROL_PLANE:
        authority.ensure(identity)
    paths.kubeconfig.write_text(render.embedded_kubeconfig(paths.pki))
    paths.kubeconfig.chmod(0o600)
    (paths.cluster / "Corefile").write_text(render.corefile(paths.pki / "admin.kubeconfig"))
    cgroups.make(cgroups.SYSTEM)
    network.ensure_hub(str(paths.root))
    for net in nets:
        node.prepare(paths, net, authority)


def _start_controllers(paths: Paths, api: Api, startup: Startup) -> None:
    """Only now: the controller-manager gives up when the API server has not yet written its own roles."""
    for component in (components.controller_manager(paths), components.scheduler(paths), components.coredns(paths)):
        startup.start(component)
    for obj in (*render.storage_classes(), *render.dns_objects()):
        api.apply(obj)
    startup.start(components.provisioner(paths))


def _answers(address: str, port: int) -> bool:
    """After a crash the node still counts as Ready for a while; logs and exec need the kubelet itself."""
    with suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False


def _node_is_ready(api: Api, name: str) -> bool:
    try:
        return _is_ready(api.get(path_of("Node", name)))
    except ApiError:
        return False


def _is_ready(item: api_module.Object) -> bool:
    """Ready, and the taint of the not-ready node is gone, so that a pod can be scheduled at once."""
    conditions = item.get("status", {}).get("conditions", [])
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return ready and not any(
        t["key"].startswith("node.kubernetes.io/not-ready") for t in item["spec"].get("taints", [])
    )


def _has_default_account(api: Api) -> bool:
    try:
        api.get("/api/v1/namespaces/default/serviceaccounts/default")
    except ApiError:
        return False
    return True
