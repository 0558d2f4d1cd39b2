"""Nonsense in, a clear answer out: refused at apply time where that is possible, else a condition with the same reason."""

from __future__ import annotations

import pytest

from support.cluster import Cluster, job, python

pytestmark = pytest.mark.cluster

IDLE = python("import time; time.sleep(600)")
VOLUME = {"volume": {"size": "64Mi"}}
REFUSED = {
    "an unknown field": ({"wrkers": 2}, 'unknown field "spec.wrkers"'),
    "a wrong type": ({"workers": "many"}, "spec.workers"),
    "no workers": ({"workers": 0}, "greater than or equal to 1"),
    "both ways to start": ({"entrypoint": "a:b"}, "exactly one of entrypoint"),
    "a name that the runtime sets": ({"env": [{"name": "RANK", "value": "1"}]}, "spec.env sets a name"),
    "not implemented yet": ({"queueName": "q"}, "not implemented yet: spec.queueName"),
    "a command with a strategy": ({"strategy": {"precision": "bf16"}}, "spec.strategy belongs to"),
    "a command with a seed": ({"seed": 7}, "spec.seed belongs to"),
    "a command with a cadence": ({"checkpoint": VOLUME | {"everySteps": 10}}, "everySteps, everySeconds, keep and"),
    "a command with a number of seconds": ({"checkpoint": VOLUME | {"everySeconds": 10}}, "everySteps, everySeconds"),
    "a command with a retention": ({"checkpoint": VOLUME | {"keep": 5}}, "everySteps, everySeconds, keep and async"),
    "a command that would stand still to save": ({"checkpoint": VOLUME | {"async": False}}, "everySteps, everySeconds"),
    "a command with an evaluation": ({"evaluation": {"everySteps": 10}}, "spec.evaluation belongs to"),
    "no size and no claim": ({"checkpoint": {"volume": {}}}, "exactly one of claimName"),
}


@pytest.mark.parametrize(("spec", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_at_apply_time(cluster: Cluster, spec: dict, sentence: str) -> None:
    assert sentence in cluster.refused(job("bad", command=IDLE, **spec))


def test_a_name_that_is_too_long_for_its_pods(cluster: Cluster) -> None:
    assert "at most 52 characters" in cluster.refused(job("a" * 53, command=IDLE))


def test_a_missing_claim_is_named_and_the_job_starts_when_it_appears(cluster: Cluster) -> None:
    cluster.apply(job("waits", command=python("print('ran')"), checkpoint={"volume": {"claimName": "later"}}))
    waits = cluster.job("waits")
    waits.wait_state("ClaimNotFound")
    assert "'later'" in waits.condition("Admitted")["message"] and waits.pods() == {}
    cluster.apply(claim("later", "ReadWriteMany"))
    waits.wait("Succeeded")


def test_a_claim_that_can_only_be_read(cluster: Cluster) -> None:
    cluster.apply(
        claim("frozen", "ReadOnlyMany"), job("reads", command=IDLE, checkpoint={"volume": {"claimName": "frozen"}})
    )
    cluster.job("reads").wait_state("ClaimReadOnly")


def test_an_image_that_cannot_be_pulled(cluster: Cluster) -> None:
    cluster.apply(job("noimage", command=IDLE, image="nowhere.invalid/no-such-image:never"))
    noimage = cluster.job("noimage")
    noimage.wait_state("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", timeout=120)
    assert "no-such-image" in noimage.condition("WorkersReady")["message"]
    assert {e["reason"] for e in cluster.events("noimage")} & {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull"}


def test_an_entry_point_that_cannot_be_imported_fails_at_once(cluster: Cluster) -> None:
    cluster.apply(job("typo", entrypoint="no_such_module:build", workers=2))
    typo = cluster.job("typo")
    failed = typo.wait("Failed")
    assert failed["reason"] == "EntrypointError" and "no_such_module" in failed["message"]
    assert typo.status["incarnation"] == 1


def test_a_command_that_does_not_exist_fails_at_once(cluster: Cluster) -> None:
    cluster.apply(job("nocommand", command=["pythn", "train.py"]))
    failed = cluster.job("nocommand").wait("Failed")
    assert failed["reason"] == "EntrypointError" and "pythn" in failed["message"]


def test_a_script_that_fails_at_once_is_stopped_by_the_budget_with_its_last_line(cluster: Cluster) -> None:
    code = "def load():\n  raise KeyError('learning_rate')\nload()"
    cluster.apply(job("crashes", command=python(code), workers=2, recovery={"budget": {"failures": 2}}))
    crashes = cluster.job("crashes")
    failed = crashes.wait("Failed")
    assert failed["reason"] == "BudgetExhausted" and "KeyError: 'learning_rate'" in failed["message"]
    last = crashes.status["recovery"]["last"]
    assert "in load" in last["traceback"] and last["class"] == "CodeError"
    assert crashes.status["attempts"] == 3
    assert "BudgetExhausted" in {e["reason"] for e in cluster.events("crashes")}


def test_a_worker_that_eats_its_memory_is_said_to(cluster: Cluster) -> None:
    code = "b = []\nwhile True: b.append(bytearray(1 << 24))"
    limits = {"limits": {"memory": "256Mi"}}
    cluster.apply(
        job("hungry", command=python(code), resources=limits, sharedMemory="16Mi", recovery={"budget": {"failures": 0}})
    )
    hungry = cluster.job("hungry")
    failed = hungry.wait("Failed")
    assert hungry.status["recovery"]["last"]["class"] == "OutOfMemory", failed
    assert "memory" in failed["message"]


def test_two_jobs_of_one_name_in_two_namespaces(cluster: Cluster, elsewhere: Cluster) -> None:
    for place, word in ((cluster, "here"), (elsewhere, "there")):
        place.apply(job("twin", command=python(f"print('{word}')"), workers=2))
    for place, word in ((cluster, "here"), (elsewhere, "there")):
        place.job("twin").wait("Succeeded")
        assert word in place.job("twin").logs(1)


def test_a_job_deleted_in_the_middle_takes_its_pods_and_leaves_its_checkpoints(cluster: Cluster) -> None:
    cluster.apply(job("gone", command=IDLE, workers=2, checkpoint={"volume": {"size": "64Mi"}}))
    cluster.job("gone").wait("Running")
    cluster.kubectl("delete", "dtj", "gone", "--timeout=60s", timeout=90)
    cluster.until("pods gone", lambda: not cluster.pods("gone"), 60)
    assert cluster.get("service", "gone") is None
    assert cluster.get("pvc", "gone-checkpoints") is not None


def claim(name: str, mode: str) -> dict:
    spec = {"accessModes": [mode], "resources": {"requests": {"storage": "64Mi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}
