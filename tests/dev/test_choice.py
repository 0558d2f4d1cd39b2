from pathlib import Path

import pytest
from dev.cluster.choice import Facts, Provider, choose

OWN = Path("/home/ada/.cache/disttrain/cluster/kubeconfig")


def facts(**changes):
    values = {
        "kubeconfig": "",
        "own_kubeconfigs": (OWN,),
        "docker_engine": False,
        "kind": False,
        "local_started": False,
    }
    return Facts(**{**values, **changes})


STORIES = {
    "a bare machine gets our own cluster": (facts(), Provider.LOCAL),
    "KUBECONFIG names the cluster": (facts(kubeconfig="/etc/production"), Provider.GIVEN),
    "KUBECONFIG wins over Docker and over a running cluster": (
        facts(kubeconfig="/etc/production", docker_engine=True, kind=True, local_started=True),
        Provider.GIVEN,
    ),
    "our own kubeconfig in KUBECONFIG still means our own cluster": (facts(kubeconfig=str(OWN)), Provider.LOCAL),
    "Docker with kind means kind": (facts(docker_engine=True, kind=True), Provider.KIND),
    "Docker without kind is not enough": (facts(docker_engine=True), Provider.LOCAL),
    "kind without a Docker engine is not enough": (facts(kind=True), Provider.LOCAL),
    "a cluster that was started is not left for kind": (
        facts(docker_engine=True, kind=True, local_started=True),
        Provider.LOCAL,
    ),
    "a person may insist": (facts(docker_engine=True, kind=True, override="local"), Provider.LOCAL),
}


@pytest.mark.parametrize(("found", "provider"), STORIES.values(), ids=STORIES.keys())
def test_choice(found, provider):
    choice = choose(found)
    assert choice.provider is provider
    assert choice.reason


def test_an_unknown_wish_is_refused_with_the_list_of_those_possible():
    with pytest.raises(ValueError, match="given, kind, local"):
        choose(facts(override="minikube"))


def test_insisting_on_a_given_cluster_without_naming_it_is_refused():
    with pytest.raises(ValueError, match="KUBECONFIG"):
        choose(facts(override="given"))
