"""One node: its network, its mounts, its control group, its container runtime, its kubelet."""

from __future__ import annotations

from pathlib import Path

from dev.cluster import cgroups, mounts, network, render
from dev.cluster.addresses import NodeNet
from dev.cluster.certificates import Authority, node_identity
from dev.cluster.command import Trouble, run, succeeds
from dev.cluster.paths import Paths
from dev.cluster.processes import Processes

KUBERNETES_IMAGES = "k8s.io"  # containerd's namespace of everything the kubelet sees


def ctr(paths: Paths, node: str) -> list[str]:
    """The prefix that talks to the node's containerd."""
    return ["ctr", "--address", str(paths.socket(node)), "--namespace", KUBERNETES_IMAGES]


def prepare(paths: Paths, net: NodeNet, authority: Authority) -> None:
    """Everything that must be there before a process starts."""
    authority.ensure(node_identity(net))
    folder = paths.node(net.name)
    for name in ("containerd", "cni/conf", "kubelet"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    paths.store(net.name).mkdir(parents=True, exist_ok=True)
    resolv_conf = paths.cluster / "resolv.conf"
    resolv_conf.write_text("# pods know the cluster's names and no others\n")
    (folder / "containerd" / "config.toml").write_text(
        render.containerd(
            root=paths.store(net.name),
            state=folder / "containerd" / "state",
            socket=paths.socket(net.name),
            cni_config=folder / "cni" / "conf",
            cni_plugins=_cni_plugins(),
        )
    )
    (folder / "cni" / "conf" / "10-disttrain.conflist").write_text(render.cni(net, folder / "cni" / "addresses"))
    (folder / "kubelet.yaml").write_text(
        render.kubelet(
            net,
            socket=paths.socket(net.name),
            pki=paths.pki,
            resolv_conf=resolv_conf,
            cgroup_v1=not cgroups.is_v2(),
        )
    )
    network.ensure_node(net)
    cgroups.make(f"{render.CGROUP_ROOT}/{net.name}")
    mounts.ensure_namespace(folder / "mounts", folder / "private")


def _cni_plugins() -> Path:
    for folder in render.CNI_PLUGINS:
        if (folder / "ptp").exists() and (folder / "host-local").exists():
            return folder
    raise Trouble("the CNI plugins are missing: apt-get install containernetworking-plugins")


def runtime_answers(paths: Paths, net: NodeNet) -> bool:
    """Whether containerd takes requests."""
    return paths.socket(net.name).exists() and succeeds([*ctr(paths, net.name), "version"])


def stop_pods(paths: Paths, node: str, processes: Processes) -> None:
    """End all containers of the node at once, and let its containerd forget them."""
    processes.stop([f"{node}-kubelet"], patience=1.0)
    cgroups.kill(f"{render.CGROUP_ROOT}/{node}")
    if not processes.is_alive(f"{node}-containerd"):
        return
    prefix = ctr(paths, node)
    if tasks := run([*prefix, "tasks", "list", "--quiet"], check=False).split():
        run([*prefix, "tasks", "delete", "--force", *tasks], check=False)
    if containers := run([*prefix, "containers", "list", "--quiet"], check=False).split():
        run([*prefix, "containers", "delete", *containers], check=False)


def stop(node: str, processes: Processes) -> None:
    """End the node's daemons."""
    processes.stop([name for name in processes.names() if name.startswith(f"{node}-")])
