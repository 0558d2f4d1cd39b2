import io
import json
from pathlib import Path

from dev.cluster import toolchain
from dev.cluster.paths import Paths
from dev.cluster.progress import Step
from dev.cluster.versions import ETCD, KUBE, KUBECTL


def _built(path, tool=ETCD):
    path.parent.mkdir(parents=True)
    path.write_bytes(b"program")
    record = {"sha256": toolchain.sha256(path), "recipe": toolchain.recipe(tool), "stamp": []}
    toolchain.checksum_file(path).write_text(json.dumps(record))


def _is_intact(path):
    return toolchain.is_intact(path, toolchain.recipe(ETCD))


def test_a_built_tool_is_used_again(tmp_path):
    tool = tmp_path / "etcd" / "1" / "etcd"
    _built(tool)
    assert _is_intact(tool)


def test_a_verified_tool_is_not_hashed_again_until_it_changes(tmp_path, monkeypatch):
    tool = tmp_path / "etcd" / "1" / "etcd"
    _built(tool)
    assert _is_intact(tool)
    monkeypatch.setattr(toolchain, "sha256", lambda path: "should not be asked")
    assert _is_intact(tool)


def test_a_damaged_tool_is_built_again(tmp_path):
    tool = tmp_path / "etcd" / "1" / "etcd"
    _built(tool)
    assert _is_intact(tool)
    tool.write_bytes(b"damaged")
    assert not _is_intact(tool)


def test_a_tool_without_its_checksum_is_built_again(tmp_path):
    tool = tmp_path / "etcd" / "1" / "etcd"
    _built(tool)
    toolchain.checksum_file(tool).unlink()
    assert not _is_intact(tool)


def test_another_recipe_of_the_same_version_is_another_program(tmp_path):
    tool = tmp_path / "etcd" / "1" / "etcd"
    _built(tool)
    assert not toolchain.is_intact(tool, toolchain.recipe(KUBE))


def test_only_what_is_not_there_counts_as_missing(tmp_path):
    paths = Paths(tmp_path)
    _built(paths.tool(ETCD.name, ETCD.version))
    assert toolchain.missing(paths, (KUBE, ETCD)) == (KUBE,)


def test_one_binary_answers_to_all_its_names(tmp_path):
    paths = Paths(tmp_path)
    _built(paths.tool(KUBE.name, KUBE.version), KUBE)
    toolchain.ensure(paths, (KUBE,))
    assert (paths.bin / "kubelet").resolve() == paths.tool(KUBE.name, KUBE.version)


def test_what_the_machine_has_is_good_enough_for_somebody_elses_cluster(tmp_path, monkeypatch):
    paths = Paths(tmp_path)
    monkeypatch.setattr(toolchain.shutil, "which", lambda name: f"/usr/bin/{name}")
    toolchain.find_or_ensure(paths, (KUBECTL,))
    assert (paths.bin / "kubectl").readlink() == Path("/usr/bin/kubectl")


def test_but_it_never_takes_the_place_of_the_one_that_was_built(tmp_path, monkeypatch):
    paths = Paths(tmp_path)
    _built(paths.tool(KUBECTL.name, KUBECTL.version), KUBECTL)
    monkeypatch.setattr(toolchain.shutil, "which", lambda name: f"/usr/bin/{name}")
    toolchain.find_or_ensure(paths, (KUBECTL,))
    assert (paths.bin / "kubectl").resolve() == paths.tool(KUBECTL.name, KUBECTL.version)


def test_a_person_sees_downloads_and_how_many_packages_are_compiled():
    shown = Step("building", io.StringIO())
    counted = toolchain.Counted(shown)
    counted.listed("go: downloading k8s.io/api v0.37.2")
    assert shown.note == "downloading k8s.io/api v0.37.2"
    for package in ("fmt", "os", "k8s.io/api"):
        counted.listed(package)
    counted.compiled("fmt")
    assert shown.note == "1 of at most 3 packages compiled, now fmt"
