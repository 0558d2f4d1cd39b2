"""A look at the running cluster; these tests change nothing."""

import json
import subprocess

import pytest
from dev.cluster import local
from dev.cluster.images import build, load
from dev.cluster.images.build import image_name
from dev.cluster.node import ctr
from dev.cluster.paths import current_paths
from dev.cluster.processes import Processes
from dev.cluster.render import PAUSE_IMAGE, SHARED_CLASS, SIZED_CLASS

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def paths():
    found = current_paths()
    if not local.was_started(found):
        pytest.skip("the cluster under test is not our own")
    return found


@pytest.fixture(scope="module")
def kubectl(paths):
    def call(*arguments):
        argv = [str(paths.bin / "kubectl"), "--kubeconfig", str(paths.kubeconfig), *arguments, "-o", "json"]
        return json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)

    return call


def test_every_process_is_alive(paths):
    processes = Processes(paths.processes)
    names = processes.names()
    assert {"etcd", "apiserver", "controller-manager", "scheduler", "coredns", "provisioner"} <= set(names)
    assert [name for name in names if not processes.is_alive(name)] == []


def test_every_node_is_ready_and_keeps_to_its_corner_of_the_control_groups(paths, kubectl):
    nodes = {item["metadata"]["name"]: item for item in kubectl("get", "nodes")["items"]}
    for name in local.node_names(paths):
        conditions = {c["type"]: c["status"] for c in nodes[name]["status"]["conditions"]}
        assert conditions["Ready"] == "True"


def test_the_classes_of_volumes_are_there(kubectl):
    classes = {item["metadata"]["name"] for item in kubectl("get", "storageclasses")["items"]}
    assert {SHARED_CLASS, SIZED_CLASS} <= classes


def test_every_node_has_the_newest_images_and_will_not_lose_them(paths):
    root = build.Buildah(paths).storage
    for node in local.node_names(paths):
        listing = subprocess.run(
            [*ctr(paths, node), "images", "list"], check=True, capture_output=True, text=True
        ).stdout
        rows = {line.split()[0]: line for line in listing.splitlines()[1:]}
        for target in build.TARGETS:
            name = image_name(target)
            assert load.target(ctr(paths, node), name) == load.storage.read(root, name).digest
            assert "io.cri-containerd.pinned=pinned" in rows[name]
        assert "io.cri-containerd.pinned=pinned" in rows[PAUSE_IMAGE]
