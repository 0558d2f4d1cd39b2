"""The configuration files of the components. Pure: values in, text out."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import yaml

from dev.cluster import addresses
from dev.cluster.addresses import NodeNet

# Debian's containernetworking-plugins, then everybody else's.
CNI_PLUGINS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))
PAUSE_IMAGE = "docker.io/disttrain/pause:dev"
CGROUP_ROOT = "disttrain"


def kubeconfig(*, server: str, authority: Path, certificate: Path, key: Path) -> str:
    """A kubeconfig that points at files."""
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "disttrain", "cluster": {"server": server, "certificate-authority": str(authority)}}],
            "users": [{"name": "user", "user": {"client-certificate": str(certificate), "client-key": str(key)}}],
            "contexts": [{"name": "disttrain", "context": {"cluster": "disttrain", "user": "user"}}],
            "current-context": "disttrain",
        },
        sort_keys=False,
    )


def embedded_kubeconfig(pki: Path) -> str:
    """The administrator's kubeconfig with everything inside, so that it can be copied anywhere on this machine."""

    def inline(name: str) -> str:
        return base64.b64encode((pki / name).read_bytes()).decode()

    config = yaml.safe_load((pki / "admin.kubeconfig").read_text())
    config["clusters"][0]["cluster"] = {"server": addresses.API, "certificate-authority-data": inline("ca.crt")}
    config["users"][0]["user"] = {
        "client-certificate-data": inline("admin.crt"),
        "client-key-data": inline("admin.key"),
    }
    return yaml.safe_dump(config, sort_keys=False)


def containerd(*, root: Path, state: Path, socket: Path, cni_config: Path, cni_plugins: Path) -> str:
    """containerd's config.toml (version 2 is read by 1.6, 1.7 and 2.x)."""
    return f"""version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs", "io.containerd.tracing.processor.v1.otlp"]

[grpc]
  address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{state}/opt"

[plugins."io.containerd.grpc.v1.cri"]
  # Root without CAP_SYS_RESOURCE may not lower an oom_score_adj: runc would die with "can't get final child's PID".
  restrict_oom_score_adj = true
  sandbox_image = "{PAUSE_IMAGE}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_plugins}"
    conf_dir = "{cni_config}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""


def cni(net: NodeNet, data: Path) -> str:
    """Every pod on a cable of its own (ptp): all its traffic is routed, so that Services work without a bridge."""
    plugin = {
        "type": "ptp",
        "ipMasq": False,
        "ipam": {
            "type": "host-local",
            "dataDir": str(data),
            "ranges": [[{"subnet": net.pods}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "1.0.0", "name": "disttrain", "plugins": [plugin, ports]}, indent=2)


def kubelet(net: NodeNet, *, socket: Path, pki: Path, resolv_conf: Path, cgroup_v1: bool) -> str:
    """The kubelet's configuration."""
    config: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP_ROOT}/{net.name}",
        "cgroupsPerQOS": True,
        "enforceNodeAllocatable": [],
        "containerRuntimeEndpoint": f"unix://{socket}",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / f"{net.name}.crt"),
        "tlsPrivateKeyFile": str(pki / f"{net.name}.key"),
        "clusterDNS": [addresses.DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "resolvConf": str(resolv_conf),
        "failSwapOn": False,
        # Nothing here may be evicted or collected for want of disk: an image that goes cannot be pulled again.
        "evictionHard": dict.fromkeys(
            ("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available"), "0%"
        ),
        "imageGCHighThresholdPercent": 100,
        "serializeImagePulls": False,
        # Root without CAP_SYS_RESOURCE may not lower it.
        "oomScoreAdj": 0,
        "maxPods": 110,
        "shutdownGracePeriod": "0s",
    }
    if cgroup_v1:
        config["failCgroupV1"] = False
    return yaml.safe_dump(config, sort_keys=False)


def corefile(kubeconfig_path: Path) -> str:
    """CoreDNS: the cluster's names and no others. No cache: a new pod's name works at once."""
    return f""".:53 {{
    bind {addresses.CONTROL_PLANE}
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {kubeconfig_path} disttrain
        pods insecure
        ttl 5
    }}
}}
"""


SHARED_CLASS = "disttrain-shared"
SIZED_CLASS = "disttrain-sized"
READ_ONLY_CLASS = "disttrain-read-only"
PROVISIONER = "disttrain.dev/host-directory"


def storage_classes() -> list[dict[str, Any]]:
    """Where volumes come from: a directory, a file system of exactly the asked size, a read-only one."""
    purposes = {
        SHARED_CLASS: "a directory of this machine, seen by every node; the size is not enforced",
        SIZED_CLASS: "a file system of exactly the requested size: it really gets full",
        READ_ONLY_CLASS: "a file system mounted read-only: every write fails",
    }
    return [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": name,
                "annotations": {
                    "disttrain.dev/purpose": purpose,
                    "storageclass.kubernetes.io/is-default-class": str(name == SHARED_CLASS).lower(),
                },
            },
            "provisioner": PROVISIONER,
            "reclaimPolicy": "Delete",
            "volumeBindingMode": "Immediate",
        }
        for name, purpose in purposes.items()
    ]


def dns_objects() -> list[dict[str, Any]]:
    """The DNS Service. CoreDNS is a process beside the control plane, so its endpoint is written by hand."""
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    labels = {"kubernetes.io/service-name": "kube-dns"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": addresses.DNS_SERVICE, "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": [{"addresses": [addresses.CONTROL_PLANE], "conditions": {"ready": True}}],
        },
    ]
