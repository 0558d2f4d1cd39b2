"""Which cluster is meant? Pure: the facts in, the answer and its reason out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Provider(StrEnum):
    """Who provides the cluster."""

    GIVEN = "given"  # KUBECONFIG names it: used, never created, never destroyed
    KIND = "kind"  # in Docker
    LOCAL = "local"  # our own, on the bare machine


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found on this machine."""

    kubeconfig: str  # the variable KUBECONFIG; empty when unset
    own_kubeconfigs: tuple[Path, ...]  # those that we write ourselves
    docker_engine: bool
    kind: bool
    local_started: bool  # and not taken down since
    override: str = ""  # the variable DISTTRAIN_CLUSTER


@dataclass(frozen=True, slots=True)
class Choice:
    """The answer, and why."""

    provider: Provider
    reason: str


def choose(facts: Facts) -> Choice:
    """A cluster that is named, else kind where Docker works, else our own. ~/.kube/config is never looked at."""
    if facts.override:
        if facts.override not in set(Provider):
            raise ValueError(f"DISTTRAIN_CLUSTER={facts.override}: it must be one of {', '.join(Provider)}")
        if facts.override == Provider.GIVEN and not facts.kubeconfig:
            raise ValueError("DISTTRAIN_CLUSTER=given needs KUBECONFIG to say which cluster")
        return Choice(Provider(facts.override), "DISTTRAIN_CLUSTER says so")
    ours = {str(path) for path in facts.own_kubeconfigs}
    if facts.kubeconfig and facts.kubeconfig not in ours:
        return Choice(Provider.GIVEN, f"KUBECONFIG={facts.kubeconfig}")
    if facts.local_started:
        return Choice(Provider.LOCAL, "it was started here before")
    if facts.docker_engine and facts.kind:
        return Choice(Provider.KIND, "Docker and kind are there")
    missing = "no kind" if facts.docker_engine else "no Docker engine"
    return Choice(Provider.LOCAL, f"KUBECONFIG is not set and there is {missing}")
