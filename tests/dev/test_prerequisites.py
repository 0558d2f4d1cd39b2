import pytest
from dev.cluster import prerequisites
from dev.cluster.command import Trouble
from dev.cluster.prerequisites import Needed, ensure_packages, lacking

MISSING = (Needed("no-such-program-here", "some-package"), Needed("/no/such/file|/nor/this", "other-package"))


def test_what_is_there_is_not_asked_for():
    assert lacking((Needed("sh", "dash"), Needed("/no/such|/bin/sh", "dash"))) == []


def test_each_missing_thing_is_named_by_its_package():
    assert lacking(MISSING) == ["other-package", "some-package"]


def test_whoever_forbids_apt_is_told_the_command(monkeypatch):
    monkeypatch.setattr(
        prerequisites.shutil, "which", lambda name, path=None: f"/usr/bin/{name}" if name == "apt-get" else None
    )
    with pytest.raises(Trouble, match="apt-get install --no-install-recommends other-package some-package"):
        ensure_packages(MISSING, {"DISTTRAIN_NO_APT": "1"})


def test_without_apt_the_packages_are_named(monkeypatch):
    monkeypatch.setattr(prerequisites.shutil, "which", lambda name, path=None: None)
    with pytest.raises(Trouble, match="package manager"):
        ensure_packages(MISSING, {})


def test_without_root_it_says_what_to_do_instead(monkeypatch, tmp_path):
    monkeypatch.setattr(prerequisites.os, "geteuid", lambda: 1000)
    with pytest.raises(Trouble, match="sudo.*kind.*KUBECONFIG"):
        prerequisites.check_machine(prerequisites.Paths(tmp_path))
