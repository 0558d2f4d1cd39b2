"""The command line of every process. Pure."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from dev.cluster import addresses
from dev.cluster.addresses import NodeNet
from dev.cluster.paths import REPOSITORY, Paths

ETCD = "http://127.0.0.1:2379"
KUBELET_PORT = 10250


@dataclass(frozen=True, slots=True)
class Component:
    """A process: its name (also that of its log), what to run, and in which network and mount namespace."""

    name: str
    argv: tuple[str, ...]
    log: Path
    network: str = addresses.CONTROL_PLANE_NAMESPACE
    mounts: Path | None = None
    env: tuple[tuple[str, str], ...] = ()
    cwd: Path | None = None


def etcd(paths: Paths) -> Component:
    """One member, without fsync: this state is thrown away with the cluster, and a slow disk must not stall it."""
    argv = (
        str(paths.bin / "etcd"),
        f"--data-dir={paths.cluster / 'etcd'}",
        f"--listen-client-urls={ETCD}",
        f"--advertise-client-urls={ETCD}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--unsafe-no-fsync",
        "--quota-backend-bytes=4294967296",
        "--log-level=warn",
    )
    return Component("etcd", argv, paths.logs / "etcd.log")


def apiserver(paths: Paths) -> Component:
    """The API server, reachable from the host and from every node."""
    pki = paths.pki
    argv = (
        str(paths.bin / "kube-apiserver"),
        f"--etcd-servers={ETCD}",
        f"--secure-port={addresses.API_PORT}",
        "--bind-address=0.0.0.0",
        f"--advertise-address={addresses.CONTROL_PLANE}",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-signing-key-file={pki / 'service-accounts.key'}",
        f"--service-account-key-file={pki / 'service-accounts.pub'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        f"--kubelet-client-certificate={pki / 'apiserver-kubelet.crt'}",
        f"--kubelet-client-key={pki / 'apiserver-kubelet.key'}",
        # Node names are in no DNS: logs and exec go to the address.
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-cluster-ip-range={addresses.SERVICES}",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged=true",
        "--enable-admission-plugins=NodeRestriction",
        # No kube-proxy runs in the hub: webhooks are called by pod address.
        "--enable-aggregator-routing=true",
        # One worker would delete a namespace of a thousand pods for a minute.
        "--delete-collection-workers=8",
        "--profiling=false",
    )
    return Component("apiserver", argv, paths.logs / "apiserver.log")


def controller_manager(paths: Paths) -> Component:
    """The controllers. Pod addresses are given by node number, so it allocates none."""
    config = paths.pki / "controller-manager.kubeconfig"
    argv = (
        str(paths.bin / "kube-controller-manager"),
        *(f"--{name}={config}" for name in ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")),
        f"--service-account-private-key-file={paths.pki / 'service-accounts.key'}",
        f"--root-ca-file={paths.pki / 'ca.crt'}",
        "--use-service-account-credentials=true",
        "--leader-elect=false",
        "--allocate-node-cidrs=false",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    )
    return Component("controller-manager", argv, paths.logs / "controller-manager.log")


def scheduler(paths: Paths) -> Component:
    """The scheduler, fast enough for a thousand pods at once."""
    config = paths.pki / "scheduler.kubeconfig"
    argv = (
        str(paths.bin / "kube-scheduler"),
        *(f"--{name}={config}" for name in ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")),
        "--leader-elect=false",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    )
    return Component("scheduler", argv, paths.logs / "scheduler.log")


def coredns(paths: Paths) -> Component:
    """The cluster's names."""
    argv = (str(paths.bin / "coredns"), "-conf", str(paths.cluster / "Corefile"))
    return Component("coredns", argv, paths.logs / "coredns.log")


def provisioner(paths: Paths) -> Component:
    """Our own volume provisioner; it runs from the checkout, with the Python that called us."""
    argv = (sys.executable, "-m", "dev.cluster.provisioner")
    env = (("DISTTRAIN_CACHE", str(paths.root)), ("PYTHONDONTWRITEBYTECODE", "1"))
    return Component("provisioner", argv, paths.logs / "provisioner.log", env=env, cwd=REPOSITORY)


def kwok(paths: Paths, stages: Path) -> Component:
    """Plays kubelet for nodes that carry the annotation, without a single container."""
    argv = (
        str(paths.bin / "kwok"),
        f"--kubeconfig={paths.pki / 'admin.kubeconfig'}",
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        f"--config={stages}",
        "--cidr=198.18.128.0/18",
        "--node-ip=198.18.0.2",
        "--node-lease-duration-seconds=40",
        "--v=WARN",
    )
    return Component("kwok", argv, paths.logs / "kwok.log")


def containerd(paths: Paths, net: NodeNet) -> Component:
    """The container runtime of one node."""
    folder = paths.node(net.name)
    argv = ("containerd", "--config", str(folder / "containerd" / "config.toml"))
    return Component(f"{net.name}-containerd", argv, folder / "containerd.log", net.namespace, folder / "mounts")


def kubelet(paths: Paths, net: NodeNet) -> Component:
    """The node agent."""
    folder = paths.node(net.name)
    argv = (
        str(paths.bin / "kubelet"),
        f"--config={folder / 'kubelet.yaml'}",
        f"--kubeconfig={paths.pki / f'{net.name}.kubeconfig'}",
        f"--root-dir={folder / 'kubelet'}",
        f"--cert-dir={folder / 'kubelet' / 'pki'}",
        f"--hostname-override={net.name}",
        f"--node-ip={net.address}",
    )
    return Component(f"{net.name}-kubelet", argv, folder / "kubelet.log", net.namespace, folder / "mounts")


def proxy(paths: Paths, net: NodeNet) -> Component:
    """Services. The conntrack limits belong to the host and are left alone."""
    argv = (
        str(paths.bin / "kube-proxy"),
        f"--kubeconfig={paths.pki / 'proxy.kubeconfig'}",
        f"--hostname-override={net.name}",
        "--proxy-mode=iptables",
        f"--cluster-cidr={addresses.PODS}",
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
        "--iptables-min-sync-period=50ms",
    )
    return Component(f"{net.name}-proxy", argv, paths.node(net.name) / "proxy.log", net.namespace)
