"""A machine holds one cluster at a time, and what an earlier one left behind is no part of it."""

import pytest
from dev.cluster import cgroups, local, network
from dev.cluster.command import Trouble
from dev.cluster.paths import Paths


class Machine:
    """Its network: whose it is, who lives in it."""

    def __init__(self, monkeypatch, owner, users=()):
        self.removed = False
        monkeypatch.setattr(network, "present", lambda: ["disttrain"])
        monkeypatch.setattr(network, "owner", lambda: owner)
        monkeypatch.setattr(network, "users", lambda: list(users))
        monkeypatch.setattr(network, "remove_all", self._remove)
        monkeypatch.setattr(cgroups, "kill", lambda _: None)

    def _remove(self):
        self.removed = True


@pytest.fixture
def paths(tmp_path):
    return Paths(tmp_path / "cache")


def started(paths):
    (paths.cluster / "etcd").mkdir(parents=True)


def test_our_own_network_is_used_again(monkeypatch, paths):
    machine = Machine(monkeypatch, str(paths.root), users=[1])
    started(paths)
    local.claim_machine(paths)
    assert not machine.removed


@pytest.mark.parametrize("owner", ["/another/cache", None])
def test_what_a_dead_cluster_left_is_removed(monkeypatch, paths, owner):
    machine = Machine(monkeypatch, owner)
    started(paths)
    local.claim_machine(paths)
    assert machine.removed


def test_a_network_of_ours_whose_state_is_gone_is_made_anew(monkeypatch, paths):
    machine = Machine(monkeypatch, str(paths.root))
    local.claim_machine(paths)
    assert machine.removed


def test_a_living_cluster_of_another_cache_is_named_and_left_alone(monkeypatch, paths):
    machine = Machine(monkeypatch, "/another/cache", users=[1])
    with pytest.raises(Trouble, match="DISTTRAIN_CACHE=/another/cache make cluster-down"):
        local.claim_machine(paths)
    assert not machine.removed


def test_taking_ours_down_leaves_the_network_of_another_cluster(monkeypatch, paths):
    machine = Machine(monkeypatch, "/another/cache", users=[1])
    started(paths)
    local.down(paths)
    assert not machine.removed and not paths.cluster.exists()
