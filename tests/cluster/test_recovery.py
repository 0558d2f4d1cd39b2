"""Processes, pods and the operator die on the real cluster; training goes on and nothing that was saved is lost."""

from __future__ import annotations

import pytest

from support.cluster import Cluster, Job, job

pytestmark = pytest.mark.cluster

STEPS = 240
STEPS_PER_EPOCH = 15
"""1,438 images in batches of 96."""
KILL_RANK_1 = "python -m disttrain_runtime.drill kill-rank --rank 1"
"""By its name: a loop over all processes would hit the spare, too, which has taken the place by then."""
CHECKPOINT = {"volume": {"size": "256Mi"}, "everySteps": 10}


def digits(cluster: Cluster, name: str, workers: int = 2, steps: int = STEPS) -> Job:
    """The demo's job, shorter."""
    cluster.apply(job(name, workers=workers, args=["--epochs", str(steps // STEPS_PER_EPOCH)], checkpoint=CHECKPOINT))
    return cluster.job(name)


def test_a_pod_is_killed_in_the_middle(cluster: Cluster) -> None:
    train = digits(cluster, "podkill")
    train.wait_checkpoint(10)
    before = train.uids()
    cluster.kubectl("delete", "pod", "podkill-1", "--grace-period=0", "--force")
    train.wait("Succeeded", timeout=180)
    status = train.status
    last = status["recovery"]["last"]
    assert status["recovery"]["count"] == 1 and status.get("attempts", 0) == 0, "a deleted pod is not the job's fault"
    assert last["class"] == "PodLost" and last["pod"] == "podkill-1"
    assert last["source"] == "survivor" and last["restoredStep"] >= 10 and last["recoverSeconds"] > 0
    assert last["lostSteps"] == 0, "podkill-0 held the state"
    assert train.condition("RestoreVerified")["status"] == "True"
    assert status["progress"]["step"] == STEPS
    after = train.uids()
    assert after["podkill-0"] == before["podkill-0"] and after["podkill-1"] != before["podkill-1"]


def test_a_rank_is_killed_and_its_pod_stays(cluster: Cluster) -> None:
    train = digits(cluster, "rankkill")
    train.wait_checkpoint(10)
    before = train.uids()
    train.sh(1, KILL_RANK_1)
    train.wait("Succeeded", timeout=180)
    last = train.status["recovery"]["last"]
    assert last["class"] == "Signal" and last["rank"] == 1 and "SIGKILL" in last["cause"]
    assert train.status["attempts"] == 1 and train.uids() == before


def test_the_operator_dies_while_a_worker_is_being_replaced(cluster: Cluster, system: Cluster) -> None:
    train = digits(cluster, "opkill")
    train.wait_checkpoint(10)
    cluster.kubectl("delete", "pod", "opkill-1", "--grace-period=0", "--force", "--wait=false")
    system.kubectl("delete", "pod", "-l", "app.kubernetes.io/name=disttrain", "--grace-period=0", "--force")
    train.wait("Succeeded", timeout=240)
    assert train.status["recovery"]["count"] == 1, "charged once, by whichever operator"


def test_training_goes_on_while_there_is_no_operator(cluster: Cluster, system: Cluster) -> None:
    train = digits(cluster, "alone")
    step = train.wait_step(5)
    system.kubectl("delete", "pod", "-l", "app.kubernetes.io/name=disttrain", "--grace-period=0", "--force")
    train.wait_step(step + 10)
    train.wait("Succeeded", timeout=180)
    assert train.status["incarnation"] == 1 and train.status.get("recovery", {}).get("count", 0) == 0


def test_a_flipped_bit_in_the_newest_checkpoint_is_found_and_an_older_one_is_used(cluster: Cluster) -> None:
    train = digits(cluster, "bitflip")
    train.wait_checkpoint(30)
    train.patch({"suspend": True})
    train.wait("Suspended")
    newest = train.status["checkpoint"]["lastCommitted"]
    flip = f"f=$(ls -S {newest['path']}/*.safetensors | head -1); printf '\\377\\377\\377' | dd of=$f bs=1 seek=5000 conv=notrunc 2>/dev/null; sync"
    run_on_volume(cluster, "bitflip-checkpoints", flip)
    train.patch({"suspend": False})
    verified = cluster.until(
        "restored", lambda: (c := train.condition("RestoreVerified")) and c["reason"] == "SkippedCorrupt" and c, 120
    )
    assert f"{newest['step']}" in verified["message"]
    train.wait("Succeeded", timeout=180)


def run_on_volume(cluster: Cluster, claim: str, script: str) -> None:
    """A short-lived pod that does something to a volume."""
    from support.cluster import trainer_image

    security = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {
        "name": "sh", "image": trainer_image(), "command": ["sh", "-ec", script], "securityContext": security,
        "volumeMounts": [{"name": "v", "mountPath": "/checkpoints"}],
    }  # fmt: skip
    spec = {
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}],
    }
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "meddler"}, "spec": spec})

    def ended() -> str | None:
        phase = (cluster.get("pod", "meddler") or {}).get("status", {}).get("phase")
        return phase if phase in ("Succeeded", "Failed") else None

    assert cluster.until("meddler", ended, 60) == "Succeeded", cluster.kubectl("logs", "meddler").stdout
    cluster.kubectl("delete", "pod", "meddler", "--wait=false")


def test_a_disk_that_fills_up_while_saving_is_a_condition_and_training_goes_on(cluster: Cluster) -> None:
    volume = {"size": "24Mi", "storageClassName": "disttrain-sized"}
    cluster.apply(job("diskfull", args=["--epochs", "60"], checkpoint={"volume": volume, "everySteps": 10}))
    train = cluster.job("diskfull")
    train.wait_checkpoint(10)
    train.sh(0, "head -c 64M /dev/zero > /checkpoints/ballast || true")
    seen = cluster.until(
        "disk full", lambda: (c := train.condition("Checkpointed")) and c["reason"] == "DiskFull" and c, 90
    )
    assert "training goes on" in seen["message"]
    step = train.status["progress"]["step"]
    train.wait_step(step + 10)
    train.sh(0, "rm /checkpoints/ballast")
    cluster.until("saved again", lambda: train.condition("Checkpointed")["reason"] == "Committed", 90)
    cluster.kubectl("delete", "dtj", "diskfull", "--wait=false")


def test_a_volume_that_turns_out_to_be_read_only_stops_the_job_before_it_trains_unprotected(cluster: Cluster) -> None:
    volume = {"size": "16Mi", "storageClassName": "disttrain-read-only"}
    cluster.apply(
        job("readonly", args=["--epochs", "4"], checkpoint={"volume": volume}, recovery={"budget": {"failures": 0}})
    )
    failed = cluster.job("readonly").wait("Failed")
    assert cluster.job("readonly").status["recovery"]["last"]["class"] == "Storage", failed
    assert "read-only" in failed["message"].lower()


def test_a_claim_that_cannot_hold_what_is_to_be_kept_is_said_as_soon_as_a_checkpoint_shows_its_size(
    cluster: Cluster,
) -> None:
    cluster.apply(job("small", args=["--epochs", "40"], checkpoint={"volume": {"size": "1Mi"}, "everySteps": 10}))
    small = cluster.job("small")
    small.wait_checkpoint(10)
    seen = cluster.until(
        "too small", lambda: (c := small.condition("Checkpointed")) and c["reason"] == "ClaimTooSmall" and c, 30
    )
    assert "spec.checkpoint.keep" in seen["message"] and "claim small-checkpoints holds 1 MiB" in seen["message"]
    cluster.kubectl("delete", "dtj", "small", "--wait=false")
