import yaml
from dev.cluster import given, kind
from dev.cluster.images.build import TARGETS, image_name


def test_a_kind_cluster_of_two_nodes_has_one_control_plane():
    assert [node["role"] for node in yaml.safe_load(kind.config(2))["nodes"]] == ["control-plane", "worker"]


def test_whoever_brings_a_cluster_is_told_how_images_get_there():
    text = given.push_instructions(["docker"])
    for target in TARGETS:
        assert f"docker tag {image_name(target)} REGISTRY/disttrain-{target}:dev" in text
        assert f"docker push REGISTRY/disttrain-{target}:dev" in text
    assert "set DISTTRAIN_REGISTRY" in text


def test_a_registry_that_is_named_is_written_out():
    text = given.push_instructions(["docker"], "registry.example.com:5000/team/")
    assert "docker push registry.example.com:5000/team/disttrain-operator:dev" in text
    assert "REGISTRY" not in text
