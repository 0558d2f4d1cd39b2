import json
import tomllib
from pathlib import Path

import yaml
from dev.cluster import addresses, render
from dev.cluster.addresses import NodeNet

NODE = NodeNet(2)


def _kubelet(**changes):
    values = {"socket": Path("/s/c.sock"), "pki": Path("/pki"), "resolv_conf": Path("/r"), "cgroup_v1": True}
    return yaml.safe_load(render.kubelet(NODE, **{**values, **changes}))


def test_containerd_reads_its_configuration():
    text = render.containerd(
        root=Path("/root"),
        state=Path("/state"),
        socket=Path("/c.sock"),
        cni_config=Path("/cni"),
        cni_plugins=Path("/bin"),
    )
    config = tomllib.loads(text)
    plugin = config["plugins"]["io.containerd.grpc.v1.cri"]
    assert config["version"] == 2
    assert config["grpc"]["address"] == "/c.sock"
    assert plugin["sandbox_image"] == render.PAUSE_IMAGE
    assert plugin["restrict_oom_score_adj"] is True


def test_the_kubelet_collects_no_image_and_evicts_no_pod_for_want_of_disk():
    config = _kubelet()
    assert config["imageGCHighThresholdPercent"] == 100
    assert set(config["evictionHard"].values()) == {"0%"}


def test_each_node_has_its_own_corner_of_the_control_groups():
    assert _kubelet()["cgroupRoot"] == "/disttrain/node-2"


def test_cgroup_v1_is_allowed_only_where_it_is_met():
    assert _kubelet()["failCgroupV1"] is False
    assert "failCgroupV1" not in _kubelet(cgroup_v1=False)


def test_pods_of_a_node_get_addresses_of_that_node():
    plugins = json.loads(render.cni(NODE, Path("/data")))["plugins"]
    assert plugins[0]["ipam"]["ranges"] == [[{"subnet": NODE.pods}]]
    assert plugins[0]["ipam"]["dataDir"] == "/data"


def test_exactly_one_storage_class_is_the_default():
    defaults = [
        item["metadata"]["name"]
        for item in render.storage_classes()
        if item["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true"
    ]
    assert defaults == [render.SHARED_CLASS]


def test_the_dns_service_leads_to_coredns():
    service, endpoints = render.dns_objects()
    assert service["spec"]["clusterIP"] == addresses.DNS_SERVICE
    assert endpoints["metadata"]["labels"]["kubernetes.io/service-name"] == service["metadata"]["name"]
    assert f"bind {endpoints['endpoints'][0]['addresses'][0]}" in render.corefile(Path("/k"))
