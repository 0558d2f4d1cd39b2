"""Standbys, smaller groups and evictions on the real cluster."""

from __future__ import annotations

import json

import pytest

from support.cluster import Cluster, Job, job

pytestmark = pytest.mark.cluster

CHECKPOINT = {"volume": {"size": "256Mi"}, "everySteps": 10}
EPOCHS = 400
"""More than anybody waits for: the job is deleted when the story is told."""


def digits(cluster: Cluster, name: str, workers: int, epochs: int = EPOCHS, **spec: object) -> Job:
    cluster.apply(job(name, workers=workers, args=["--epochs", str(epochs)], checkpoint=CHECKPOINT, **spec))
    return cluster.job(name)


def force_delete(cluster: Cluster, pod: str) -> None:
    cluster.kubectl("delete", "pod", pod, "--grace-period=0", "--force")


def test_a_standby_takes_the_place_of_a_deleted_pod_and_another_one_is_made_behind_it(cluster: Cluster) -> None:
    train = digits(cluster, "spared", workers=2, standby=1)
    train.wait_checkpoint(10)
    train.wait("StandbyReady")
    before = train.uids()
    force_delete(cluster, "spared-1")
    cluster.until("recovered", lambda: train.status.get("recovery", {}).get("last", {}).get("recoverSeconds"), 60)
    status = train.status
    assert status["seats"] == [0, 2] and status.get("attempts", 0) == 0
    last = status["recovery"]["last"]
    assert last["class"] == "PodLost" and last["source"] == "survivor" and last["lostSteps"] == 0
    train.wait_step(status["progress"]["step"] + 10)
    new = cluster.until("a new standby", lambda: (u := train.uids()).get("spared-1") and u, 60)
    assert new["spared-2"] == before["spared-2"] and new["spared-1"] != before["spared-1"]
    train.wait("StandbyReady")
    assert train.status["recovery"]["count"] == 1 and train.status["incarnation"] == 2, (
        "the new one waits; nobody is disturbed"
    )
    cluster.kubectl("delete", "dtj", "spared", "--wait=false")


def test_an_elastic_job_goes_on_smaller_while_there_is_no_room_and_grows_when_there_is(cluster: Cluster) -> None:
    train = digits(cluster, "elastic", workers=3, elastic={"minWorkers": 2, "maxWorkers": 3})
    train.wait_checkpoint(10)
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full"}, "spec": {"hard": {"pods": "2"}}}
    cluster.apply(quota)
    cluster.until(
        "the quota counts", lambda: (cluster.get("resourcequota", "full") or {}).get("status", {}).get("used"), 30
    )
    force_delete(cluster, "elastic-1")
    smaller = cluster.until("smaller", lambda: (s := train.status).get("seats") == [0, 2] and s, 60)
    last = cluster.until("recovered", lambda: (r := train.status["recovery"]["last"]).get("recoverSeconds") and r, 60)
    assert last["class"] == "PodLost" and last["source"] == "survivor" and last["lostSteps"] == 0
    train.wait_step(smaller["progress"]["step"] + 20)
    assert train.condition("WorkersReady")["reason"] == "Shrunk", train.condition("WorkersReady")
    cluster.kubectl("delete", "resourcequota", "full")
    grown = cluster.until("grown", lambda: len((s := train.status).get("seats", [0, 1, 2])) == 3 and s, 120)
    train.wait_step(grown["progress"]["step"] + 10)
    status = train.status
    assert status["recovery"]["count"] == 1 and status.get("attempts", 0) == 0, "a resize is no failure"
    cluster.kubectl("delete", "dtj", "elastic", "--wait=false")


def test_an_evicted_pod_gets_the_time_to_save_and_nothing_is_lost_or_charged(cluster: Cluster) -> None:
    train = digits(cluster, "evicted", workers=2)
    train.wait_checkpoint(10)
    before = train.uids()
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": "evicted-1", "namespace": cluster.namespace},
    }
    cluster.kubectl(
        "create", "--raw", f"/api/v1/namespaces/{cluster.namespace}/pods/evicted-1/eviction", "-f", "-",
        text=json.dumps(eviction),
    )  # fmt: skip
    last = cluster.until(
        "recovered", lambda: (r := train.status.get("recovery", {}).get("last", {})).get("recoverSeconds") and r, 90
    )
    assert last["class"] == "Node" and last["pod"] == "evicted-1" and "EvictionByEvictionAPI" in last["cause"]
    assert last["source"] == "survivor" and last["lostSteps"] == 0
    status = train.status
    assert status.get("attempts", 0) == 0 and train.uids()["evicted-1"] != before["evicted-1"]
    cluster.kubectl("delete", "dtj", "evicted", "--wait=false")
