"""What a job goes through when nothing breaks: train, suspend, resume, end, be cleaned up."""

from __future__ import annotations

import json

import pytest

from support.cluster import Cluster, job, python

pytestmark = pytest.mark.cluster


def test_a_plain_torchrun_script_runs_unchanged(cluster: Cluster) -> None:
    cluster.apply(
        job("text", workers=2, command=["python", "/workspace/examples/text/train.py"], args=["--steps", "20"])
    )
    cluster.job("text").wait("Succeeded", timeout=180)


def test_ranks_see_what_torchrun_would_have_set(cluster: Cluster) -> None:
    names = [
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "MASTER_PORT",
        "PET_NNODES",
        "PET_NODE_RANK",
        "USER_SAYS",
    ]
    code = f"import os, json; print(json.dumps({{n: os.environ.get(n) for n in {names}}}))"
    cluster.apply(
        job("env", workers=2, processesPerWorker=2, command=python(code), env=[{"name": "USER_SAYS", "value": "hi"}])
    )
    cluster.job("env").wait("Succeeded")
    lines = [line.split("] ", 1) for line in cluster.job("env").logs(1).splitlines() if "RANK" in line and "] " in line]
    seen = {prefix.strip("[ "): json.loads(body) for prefix, body in lines}
    assert set(seen) == {"rank 2", "rank 3"}
    assert seen["rank 3"] == {
        "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": "29501",
        "PET_NNODES": "2", "PET_NODE_RANK": "1", "USER_SAYS": "hi",
    }  # fmt: skip


def test_suspend_saves_and_resume_goes_on_from_there(cluster: Cluster) -> None:
    cluster.apply(
        job("pause", workers=2, args=["--epochs", "20"], checkpoint={"volume": {"size": "256Mi"}, "everySteps": 100000})
    )
    pause = cluster.job("pause")
    pause.wait_step(20)
    pause.patch({"suspend": True})
    pause.wait("Suspended")
    assert pause.pods() == {}
    saved = pause.status["checkpoint"]["lastCommitted"]["step"]
    assert saved >= 20, "SIGTERM made the ranks save before they ended"
    pause.patch({"suspend": False})
    pause.wait("Succeeded", timeout=180)
    assert f"from step {saved}" in pause.condition("RestoreVerified")["message"]
    assert pause.status.get("attempts", 0) == 0 and pause.status.get("recovery", {}).get("count", 0) == 0


def test_a_deadline_ends_the_job(cluster: Cluster) -> None:
    cluster.apply(job("late", command=python("import time; time.sleep(600)"), activeDeadlineSeconds=8))
    assert cluster.job("late").wait("Failed")["reason"] == "DeadlineExceeded"


def test_a_finished_job_is_deleted_after_its_time_to_live(cluster: Cluster) -> None:
    cluster.apply(job("short", command=python("print('done')"), ttlSecondsAfterFinished=3))
    cluster.until("deleted", lambda: cluster.get("dtj", "short") is None and not cluster.pods("short"), 60)


def test_finished_pods_keep_their_logs_and_an_idle_job_costs_no_writes(cluster: Cluster) -> None:
    cluster.apply(job("kept", workers=2, command=python("print('the last words')")))
    kept = cluster.job("kept")
    kept.wait("Succeeded")
    assert "the last words" in kept.logs(0)
    version = cluster.get("dtj", "kept")["metadata"]["resourceVersion"]
    cluster.kubectl("annotate", "pod", "kept-0", "poke=1")  # an event that changes nothing for us
    # The operator hears of pods in order: when it has seen a later pod end, it has long had its pass for this one.
    cluster.apply(job("later", command=python("print('done')")))
    cluster.job("later").wait("Succeeded")
    assert cluster.get("pod", "kept-0")["metadata"]["annotations"]["poke"] == "1"
    assert cluster.get("dtj", "kept")["metadata"]["resourceVersion"] == version


def test_worker_pods_are_restricted_and_hold_no_kubernetes_token(cluster: Cluster) -> None:
    cluster.apply(job("safe", command=python("import time; time.sleep(600)")))
    safe = cluster.job("safe")
    safe.wait("Running")  # the namespace enforces the restricted standard, so it was admitted
    assert safe.sh(0, "id -u").strip() != "0"
    assert safe.sh(0, "ls /var/run/secrets/kubernetes.io 2>/dev/null || echo none").strip() == "none"
    assert (
        "Read-only file system" in cluster.kubectl("exec", "safe-0", "--", "sh", "-c", "touch /x 2>&1 || true").stdout
    )
    pod = cluster.get("pod", "safe-0")
    assert pod["metadata"]["ownerReferences"][0]["kind"] == "DistTrainJob"
    shm = next(v for v in pod["spec"]["volumes"] if v.get("emptyDir", {}).get("medium") == "Memory")
    assert shm["emptyDir"]["sizeLimit"]
