"""`disttrain drill` on the real cluster: the program as a person calls it, a job that is really hit, and its recovery."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from support.cluster import Cluster, job

pytestmark = pytest.mark.cluster


def drill(cluster: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "disttrain.cli.main", "drill", *words, "--yes", "-n", cluster.namespace,
         "--kubeconfig", str(cluster.kubeconfig)],
        capture_output=True, text=True, timeout=200, check=False, env=dict(os.environ) | {"NO_COLOR": "1"},
    )  # fmt: skip


def test_a_rank_and_a_pod_are_hit_and_the_table_says_what_the_job_does(cluster: Cluster) -> None:
    checkpoint = {"volume": {"size": "256Mi"}, "everySteps": 10}
    cluster.apply(job("drilled", workers=2, args=["--epochs", "400"], checkpoint=checkpoint))
    train = cluster.job("drilled")
    train.wait_checkpoint(10)
    before = train.uids()

    killed = drill(cluster, "drilled", "--fault", "kill-rank", "--rank", "1", "--timeout", "90")
    assert killed.returncode == 0, killed.stderr + cluster.story()
    last = train.status["recovery"]["last"]
    assert last["class"] == "Signal" and last["rank"] == 1 and train.uids() == before
    assert re.search(r"^kill-rank +rank 1 in drilled-1 +\d+ +Signal +\d+\.\d\d s +\d+\.\d\d s ", killed.stdout, re.M)

    deleted = drill(cluster, "drilled", "--fault", "kill-pod", "--worker", "1", "--timeout", "120")
    assert deleted.returncode == 0, deleted.stderr + cluster.story()
    assert re.search(r"^kill-pod +drilled-1 +\d+ +PodLost ", deleted.stdout, re.M)
    assert train.status["recovery"]["count"] == 2 and train.uids()["drilled-1"] != before["drilled-1"]

    nowhere = drill(cluster, "drilled", "--fault", "kill-rank", "--rank", "9")
    assert nowhere.returncode == 2 and "rank 9 of job drilled was found in no worker" in nowhere.stderr
    cluster.kubectl("delete", "dtj", "drilled", "--wait=false")


def test_every_other_fault_is_made_noticed_and_recovered_from(cluster: Cluster) -> None:
    """On a volume of the job's own, of which the API says as much as it has: else a full disk would be everybody's."""
    volume = {"size": "24Mi", "storageClassName": "disttrain-sized"}
    cluster.apply(job("worn", workers=2, args=["--epochs", "2000"], checkpoint={"volume": volume, "everySteps": 10}))
    train = cluster.job("worn")
    train.wait_checkpoint(10)
    expected = {
        "stop-rank": r"^stop-rank +rank \d in worn-\d +\d+ +Hang ",
        "evict": r"^evict +worn-1 +\d+ +Node +\d+\.\d\d s +\d+\.\d\d s +survivor +0 ",
        "kill-operator": r"^kill-operator ",
        "fill-disk": r"^fill-disk +/checkpoints/worn from worn-\d +\d+ +DiskFull ",
    }
    for fault, row in expected.items():
        made = drill(cluster, "worn", "--fault", fault, "--timeout", "120")
        assert made.returncode == 0, f"{fault}: {made.stdout}{made.stderr}{cluster.story()}"
        assert re.search(row, made.stdout, re.M), made.stdout
    assert train.status["recovery"]["count"] == 2, "the operator and the disk cost no recovery"
    cluster.kubectl("delete", "dtj", "worn", "--wait=false")
