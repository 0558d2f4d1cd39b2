import yaml
from dev.cluster.kwok import STAGES, fake_node


def test_a_real_pod_cannot_stray_onto_a_fake_node():
    (taint,) = fake_node(1)["spec"]["taints"]
    assert taint["effect"] == "NoSchedule"


def test_kwok_recognises_its_nodes():
    assert fake_node(3)["metadata"]["annotations"] == {"kwok.x-k8s.io/node": "fake"}


def test_the_stages_bring_nodes_and_pods_to_life_and_pods_to_their_end():
    names = {stage["metadata"]["name"] for stage in yaml.safe_load_all(STAGES.read_text())}
    assert names == {"node-initialize", "pod-ready", "pod-delete", "pod-complete"}
