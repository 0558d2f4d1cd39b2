"""Which version of each tool is built, and how: the only place to change when one of them moves."""

from __future__ import annotations

from dataclasses import dataclass

KUBERNETES = "1.37.2"
# The staging modules (k8s.io/api, k8s.io/kubectl, …) carry the same release under v0.
KUBERNETES_STAGING = "0.37.2"
# Kubernetes 1.37 says `go 1.26.0` in its go.mod.
MINIMUM_GO = (1, 26)

_KUBERNETES_FLAGS = (
    "-s -w"
    # Without these the server calls itself v0.0.0-master, which kubectl cannot parse.
    f" -X k8s.io/component-base/version.gitVersion=v{KUBERNETES}"
    f" -X k8s.io/component-base/version.gitMajor={KUBERNETES.split('.')[0]}"
    f" -X k8s.io/component-base/version.gitMinor={KUBERNETES.split('.')[1]}"
)


@dataclass(frozen=True, slots=True)
class Tool:
    """A program built from a Go module: either a published command, or a small main of ours (`go/<name>.go`)."""

    name: str
    version: str
    module: str
    command: str = ""  # the package to install; empty: go/<name>.go is the main package
    links: tuple[str, ...] = ()  # further names under which the binary is called
    ldflags: str = "-s -w"
    megabytes: int = 100  # of disk for the binary, its modules and its build cache, as measured


KUBE = Tool(
    "kube",
    KUBERNETES,
    "k8s.io/kubernetes",
    links=("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet"),
    ldflags=_KUBERNETES_FLAGS,
    megabytes=4800,
)
KUBECTL = Tool("kubectl", KUBERNETES_STAGING, "k8s.io/kubectl", ldflags=_KUBERNETES_FLAGS, megabytes=400)
ETCD = Tool("etcd", "3.7.3", "go.etcd.io/etcd/server/v3", megabytes=300)
COREDNS = Tool("coredns", "1.15.0", "github.com/coredns/coredns", megabytes=300)
HELM = Tool("helm", "4.3.1", "helm.sh/helm/v4", command="helm.sh/helm/v4/cmd/helm", megabytes=400)
KWOK = Tool("kwok", "0.8.0", "sigs.k8s.io/kwok", command="sigs.k8s.io/kwok/cmd/kwok", megabytes=500)

CLUSTER_TOOLS = (KUBE, ETCD, COREDNS)
USER_TOOLS = (KUBECTL, HELM)
