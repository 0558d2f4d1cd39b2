import yaml
from dev.cluster import given, kind


def test_a_kind_cluster_of_two_nodes_has_one_control_plane():
    assert [node["role"] for node in yaml.safe_load(kind.config(2))["nodes"]] == ["control-plane", "worker"]


def test_whoever_brings_a_cluster_is_told_how_images_get_there():
    text = given.push_instructions()
    assert "--target operator" in text
    assert "--target trainer" in text
    assert "docker push" in text
