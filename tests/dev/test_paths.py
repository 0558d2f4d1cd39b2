from pathlib import Path

import pytest
from dev.cluster.paths import REPOSITORY, Paths


def test_everything_lies_in_the_users_cache():
    assert Paths.of({"HOME": "/home/ada"}).kubeconfig == Path("/home/ada/.cache/disttrain/cluster/kubeconfig")


def test_the_folder_can_be_chosen():
    assert Paths.of({"HOME": "/home/ada", "DISTTRAIN_CACHE": "/big"}).root == Path("/big")
    assert Paths.of({"HOME": "/home/ada", "XDG_CACHE_HOME": "/x"}).root == Path("/x/disttrain")


def test_nothing_lies_in_the_checkout():
    assert REPOSITORY not in Paths.of({"HOME": "/home/ada"}).root.parents


def test_a_folder_too_deep_for_sockets_is_refused_at_once():
    with pytest.raises(ValueError, match="DISTTRAIN_CACHE"):
        Paths.of({"HOME": "/" + "long/" * 30})
