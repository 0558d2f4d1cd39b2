from __future__ import annotations

from typing import Any

import pytest

from disttrain_contract import labels
from disttrain_contract.env import EvaluationConfig, WorkerEnv
from disttrain_operator.manifests.errors import SpecError
from disttrain_operator.manifests.pod import Stream, pod
from support.raw_objects import a_seen_job

STREAM = Stream(url="wss://operator.disttrain.svc:8443", ca="PEM")


def render(index: int = 0, incarnation: int = 1, **spec: Any) -> dict[str, Any]:
    return pod(a_seen_job(**spec), index, incarnation, STREAM)


def container(**spec: Any) -> dict[str, Any]:
    return render(**spec)["spec"]["containers"][0]


def env_of(found: dict[str, Any]) -> dict[str, str]:
    """As the kubelet would resolve it for a pod with these facts."""
    fields = {"metadata.uid": "pod-uid", "status.podIP": "198.18.0.9", "spec.nodeName": "node-1"}
    resolved = {}
    for variable in found["env"]:
        source = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        value = fields[source] if source else variable.get("value", "")
        resolved[variable["name"]] = value.replace("$$", "$")
    return resolved


def volume(rendered: dict[str, Any], name: str) -> dict[str, Any]:
    return next(v for v in rendered["spec"]["volumes"] if v["name"] == name)


def test_the_agent_finds_in_its_environment_what_the_contract_says() -> None:
    worker = WorkerEnv.from_env(env_of(container(workers=3, args=["--lr", "$(RATE)$$"], seed=7)))
    assert (worker.job, worker.job_uid, worker.namespace, worker.workers) == ("mnist", "job-uid", "team", 3)
    assert (worker.pod_uid, worker.pod_ip, worker.node_name) == ("pod-uid", "198.18.0.9", "node-1")
    assert (worker.operator_url, worker.operator_ca) == (STREAM.url, "PEM")
    assert worker.run.command == ("python", "train.py")
    assert worker.run.args == ("--lr", "$(RATE)$$"), "an argument with a dollar arrives as it was written"
    assert worker.run.seed == 7
    assert worker.checkpoint_mount == ""


def test_a_job_that_names_no_cadence_saves_every_minute() -> None:
    worker = WorkerEnv.from_env(env_of(container(checkpoint={"volume": {"claimName": "data"}})))
    assert (worker.run.checkpoint.every_steps, worker.run.checkpoint.every_seconds) == (None, 60.0)
    assert worker.checkpoint_mount == "/checkpoints"


def test_a_second_tier_is_a_place_of_the_jobs_own() -> None:
    """Two namespaces may share a bucket, with jobs of the same name."""
    checkpoint = {"volume": {"claimName": "data"}, "remote": "s3://b/p/"}
    worker = WorkerEnv.from_env(env_of(container(checkpoint=checkpoint)))
    assert worker.run.checkpoint.remote == "s3://b/p/team/mnist"


def test_a_job_without_a_volume_saves_nothing() -> None:
    worker = WorkerEnv.from_env(env_of(container()))
    assert (worker.run.checkpoint.every_steps, worker.run.checkpoint.every_seconds) == (None, None)


def test_a_cadence_in_steps_is_the_only_cadence() -> None:
    spec = {"volume": {"size": "1Gi"}, "everySteps": 10, "keep": 5, "async": False}
    saving = WorkerEnv.from_env(env_of(container(checkpoint=spec))).run.checkpoint
    assert (saving.every_steps, saving.every_seconds, saving.keep, saving.asynchronous) == (10, None, 5, False)


def test_what_is_evaluated_and_when_it_is_enough_arrives() -> None:
    early = {"patience": 3, "minDelta": 0.5}
    spec = {"everySteps": 10, "metric": "accuracy", "mode": "max", "earlyStop": early}
    run = WorkerEnv.from_env(env_of(container(command=None, entrypoint="tasks:build", evaluation=spec))).run
    assert run.evaluation == EvaluationConfig(every_steps=10, metric="accuracy", mode="max", patience=3, min_delta=0.5)


def test_an_entrypoint_job_says_so() -> None:
    run = WorkerEnv.from_env(env_of(container(command=None, entrypoint="tasks:build", processesPerWorker=2))).run
    assert (run.entrypoint, run.command, run.processes_per_worker) == ("tasks:build", (), 2)


def test_names_and_labels_are_those_of_the_contract() -> None:
    found = render(2, incarnation=4)["metadata"]
    assert found["name"] == "mnist-2"
    assert found["labels"][labels.JOB] == "mnist"
    assert found["labels"][labels.WORKER_INDEX] == "2"
    assert found["labels"][labels.INCARNATION] == "4"
    assert found["annotations"][labels.JOB_UID] == "job-uid"
    owner = found["ownerReferences"][0]
    assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == ("job-uid", True, True)


def test_a_user_cannot_take_the_operators_labels() -> None:
    template = {"labels": {labels.JOB: "other", "team": "vision"}, "annotations": {labels.JOB_UID: "other"}}
    found = render(podTemplate=template)["metadata"]
    assert found["labels"][labels.JOB] == "mnist" and found["labels"]["team"] == "vision"
    assert found["annotations"][labels.JOB_UID] == "job-uid"


def test_the_pod_meets_the_restricted_standard_whatever_the_job_says() -> None:
    rendered = render(podTemplate={"securityContext": {"runAsUser": 2000}})
    outer, inner = rendered["spec"]["securityContext"], rendered["spec"]["containers"][0]["securityContext"]
    assert outer["runAsNonRoot"] and outer["runAsUser"] == 2000 and outer["fsGroup"] == 1000
    assert outer["seccompProfile"] == {"type": "RuntimeDefault"}
    assert inner["allowPrivilegeEscalation"] is False and inner["capabilities"] == {"drop": ["ALL"]}
    assert inner["readOnlyRootFilesystem"] is True
    assert rendered["spec"]["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & rendered["spec"].keys()
    assert all("hostPath" not in v for v in rendered["spec"]["volumes"])


def test_what_must_be_writable_is_writable() -> None:
    mounts = {m["mountPath"]: m for m in container(checkpoint={"volume": {"size": "1Gi"}})["volumeMounts"]}
    for path in ("/scratch", "/tmp", "/dev/shm", "/checkpoints"):
        assert not mounts[path].get("readOnly"), path
    assert mounts["/var/run/secrets/disttrain"]["readOnly"]


def test_libraries_find_a_home_and_a_user_name() -> None:
    found = env_of(container())
    assert found["HOME"] == "/scratch" and found["USER"] == found["LOGNAME"] == "trainer"
    assert found["TRITON_CACHE_DIR"].startswith("/scratch/")


def test_a_user_may_set_what_is_only_a_default() -> None:
    found = container(env=[{"name": "OMP_NUM_THREADS", "value": "8"}, {"name": "HOME", "value": "/data"}])
    names = [v["name"] for v in found["env"]]
    assert len(names) == len(set(names)), "no name twice"
    assert env_of(found)["OMP_NUM_THREADS"] == "8" and env_of(found)["HOME"] == "/data"


@pytest.mark.parametrize("name", ["RANK", "MASTER_ADDR", "DISTTRAIN_RUN", "DISTTRAIN_ANYTHING"])
def test_a_user_may_not_set_what_the_runtime_sets(name: str) -> None:
    job = a_seen_job(env=[{"name": name, "value": "1"}])
    assert job.invalid is not None and name in job.invalid
    with pytest.raises(SpecError, match=name):
        pod(job, 0, 1, STREAM)


@pytest.mark.parametrize(
    ("resources", "processes", "threads"),
    [
        pytest.param(None, None, "1", id="no limit"),
        pytest.param({"limits": {"cpu": 4}}, None, "4", id="four cores"),
        pytest.param({"limits": {"cpu": "1500m"}}, None, "1", id="rounded down"),
        pytest.param({"limits": {"cpu": "8"}}, 4, "2", id="shared by ranks"),
        pytest.param({"limits": {"cpu": "500m"}}, 2, "1", id="never none"),
        pytest.param({"requests": {"cpu": "4"}}, None, "1", id="a request is no limit"),
    ],
)
def test_threads_of_a_rank_follow_the_cpu_limit(resources: Any, processes: int | None, threads: str) -> None:
    assert env_of(container(resources=resources, processesPerWorker=processes))["OMP_NUM_THREADS"] == threads


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        pytest.param({}, "1Gi", id="one gibibyte"),
        pytest.param({"sharedMemory": "3Gi"}, "3Gi", id="as asked"),
        pytest.param({"resources": {"limits": {"memory": "8Gi"}}}, "4096Mi", id="half the limit"),
        pytest.param({"resources": {"limits": {"memory": 1000}}}, "1Mi", id="never none"),
    ],
)
def test_shared_memory(spec: dict[str, Any], size: str) -> None:
    shm = volume(render(**spec), "shared-memory")["emptyDir"]
    assert shm == {"medium": "Memory", "sizeLimit": size}


def test_the_token_is_only_good_for_the_operator() -> None:
    source = volume(render(), "token")["projected"]["sources"][0]["serviceAccountToken"]
    assert source["audience"] == "disttrain.dev/operator" and source["path"] == "token"


def test_gpus_and_everything_else_of_resources_are_passed_on() -> None:
    limits = {"nvidia.com/gpu": 1, "memory": "16Gi"}
    assert container(resources={"limits": limits})["resources"] == {"limits": {"nvidia.com/gpu": "1", "memory": "16Gi"}}


def test_a_claim_that_exists_is_mounted_by_its_name_and_one_to_be_made_by_ours() -> None:
    given = volume(render(checkpoint={"volume": {"claimName": "data"}}), "checkpoints")
    made = volume(render(checkpoint={"volume": {"size": "1Gi"}}), "checkpoints")
    assert given["persistentVolumeClaim"]["claimName"] == "data"
    assert made["persistentVolumeClaim"]["claimName"] == "mnist-checkpoints"


def test_users_volumes_are_mounted_where_they_say() -> None:
    spec = [{"name": "data", "mountPath": "/data", "readOnly": True, "subPath": "a", "persistentVolumeClaim": {"claimName": "d"}}]  # fmt: skip
    rendered = render(volumes=spec)
    assert volume(rendered, "data")["persistentVolumeClaim"] == {"claimName": "d"}
    mount = next(m for m in rendered["spec"]["containers"][0]["volumeMounts"] if m["name"] == "data")
    assert mount == {"name": "data", "mountPath": "/data", "readOnly": True, "subPath": "a"}


def test_the_name_of_one_of_our_volumes_is_refused() -> None:
    with pytest.raises(SpecError, match="scratch"):
        render(volumes=[{"name": "scratch", "mountPath": "/x", "emptyDir": {}}])


def test_scheduling_wishes_are_passed_on_and_nothing_is_invented() -> None:
    template = {
        "affinity": {"nodeAffinity": {}}, "schedulerName": "volcano", "imagePullSecrets": ["pull"],
        "imagePullPolicy": "Never", "runtimeClassName": "nvidia", "serviceAccountName": "train",
    }  # fmt: skip
    toleration = {"key": "gpu", "operator": "Exists"}
    wishes = render(podTemplate=template, nodeSelector={"a": "b"}, tolerations=[toleration], priorityClassName="high")
    found = wishes["spec"]
    assert found["nodeSelector"] == {"a": "b"} and found["tolerations"] == [toleration]
    assert found["priorityClassName"] == "high" and found["schedulerName"] == "volcano"
    assert found["imagePullSecrets"] == [{"name": "pull"}] and found["runtimeClassName"] == "nvidia"
    assert found["serviceAccountName"] == "train" and found["containers"][0]["imagePullPolicy"] == "Never"
    assert not {"nodeSelector", "tolerations", "affinity", "imagePullSecrets"} & render()["spec"].keys()


def test_a_dying_worker_leaves_its_last_words_and_has_time_to_save() -> None:
    rendered = render(podTemplate={"terminationGracePeriodSeconds": 120})
    only = rendered["spec"]["containers"][0]
    assert rendered["spec"]["terminationGracePeriodSeconds"] == 120
    assert WorkerEnv.from_env(env_of(only)).run.grace_seconds == 120.0
    assert only["terminationMessagePath"] == "/dev/termination-log" and only["terminationMessagePolicy"] == "File"
    assert rendered["spec"]["restartPolicy"] == "Never"


def test_workers_find_each_other_by_name() -> None:
    spec = render(1)["spec"]
    assert (spec["hostname"], spec["subdomain"]) == ("mnist-1", "mnist")


PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def away(*nodes: str, **template: Any) -> Any:
    return pod(a_seen_job(podTemplate=template), 0, 1, STREAM, nodes)["spec"].get("affinity")


def test_nodes_that_fail_jobs_are_avoided_where_there_is_a_choice() -> None:
    (term,) = away("bad", "worse")["nodeAffinity"][PREFERRED]
    assert term["weight"] == 100 and list(away("bad")["nodeAffinity"]) == [PREFERRED], "a wish, no requirement"
    assert term["preference"] == {
        "matchFields": [
            {"key": "metadata.name", "operator": "NotIn", "values": ["bad"]},
            {"key": "metadata.name", "operator": "NotIn", "values": ["worse"]},
        ]
    }
    assert away() is None


def test_what_the_job_wishes_for_itself_stays_beside_it() -> None:
    own = {"weight": 1, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}}
    must = {"nodeSelectorTerms": [own["preference"]]}
    theirs = {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": must, PREFERRED: [own]},
        "podAffinity": {},
    }
    found = away("bad", affinity=theirs)
    assert found["podAffinity"] == {} and len(found["nodeAffinity"][PREFERRED]) == 2
    assert found["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] == must
    assert theirs["nodeAffinity"][PREFERRED] == found["nodeAffinity"][PREFERRED][:1] == [own]
    assert away(affinity=theirs) == theirs
