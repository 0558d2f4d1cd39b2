"""`disttrain explain`: no cluster, the operator's own planner, the CRD's own rules."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Cli
from tests.sdk.conftest import job

File = Callable[[dict[str, Any]], str]
TASK = {"entrypoint": "my.task:build"}


@pytest.fixture
def explained(cli: Cli, file: File, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What is said about a spec."""
    monkeypatch.setenv("KUBECONFIG", "/nowhere")

    def explain(**spec: Any) -> str:
        raw = job(**spec)
        if "entrypoint" in spec:
            del raw["spec"]["command"]
        done = cli("explain", "-f", file(raw))
        assert done.code == 0, done.err
        return " ".join(done.out.split())

    return explain


def test_it_lists_what_would_be_made(explained: Callable[..., str]) -> None:
    said = explained(checkpoint={"volume": {"size": "2Gi"}}, resources={"limits": {"cpu": 1, "memory": "4Gi"}})
    assert "Service mnist, headless" in said
    assert "PersistentVolumeClaim mnist-checkpoints: 2Gi, ReadWriteMany, the cluster's default StorageClass" in said
    assert "3 pods mnist-0 … mnist-2: trainer:dev, cpu 1, memory 4Gi, /dev/shm 2048Mi, 30 s to save and end" in said


@pytest.mark.parametrize(
    ("parallelism", "says"),
    [
        ({"pipeline": {"stages": 3}}, "data parallel × 3 stages (1f1b)"),
        ({"shard": "full"}, "data parallel × parameters sharded (full)"),
        ({"tensor": 3}, "data parallel × 3 ranks share each layer"),
    ],
)
def test_a_split_model_is_said(cli: Cli, file: File, parallelism: dict[str, Any], says: str) -> None:
    raw = job(entrypoint="my.task:build", strategy={"parallelism": parallelism})
    del raw["spec"]["command"]
    assert says in " ".join(cli("explain", "-f", file(raw)).out.split())


@pytest.mark.parametrize(
    ("recovery", "says"),
    [
        ({}, "else from copies in memory (as often as they cost less than 3 % of the time), else from step 0"),
        ({"buddyEverySteps": 5}, "else from copies in memory (every 5 steps), else from step 0"),
        ({"buddyEverySteps": 0}, "training goes on where replicas hold what is lost, else from step 0"),
    ],
)
def test_where_a_split_model_goes_on_from_is_said(cli: Cli, file: File, recovery: dict[str, Any], says: str) -> None:
    raw = job(entrypoint="my.task:build", strategy={"parallelism": {"shard": "full"}}, recovery=recovery)
    del raw["spec"]["command"]
    assert says in " ".join(cli("explain", "-f", file(raw)).out.split())


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"recovery": {"buddyEverySteps": 5}}, "without it every rank has the whole model in memory already"),
        ({"strategy": {"parallelism": {"tensor": 2, "shard": "full"}}}, "shard cuts the parameters of whole layers"),
        ({"strategy": {"parallelism": {"pipeline": {"stages": 3, "split": ["1"]}}}}, "pipeline.split names the layer at each cut"),
        ({"strategy": {"parallelism": {"shard": "hybrid"}}, "processesPerWorker": 1}, "set processesPerWorker to 2 or more"),
        ({"strategy": {"parallelism": {"pipeline": {"stages": 3, "microbatches": 2}}}}, "to pipeline.stages or more"),
        ({"strategy": {"parallelism": {"pipeline": {"stages": 3}}, "accumulate": 2}}, "set pipeline.microbatches"),
        ({"strategy": {"parallelism": {"pipeline": {"stages": 3, "schedule": "zeroBubble"}}, "activationCheckpointing": True}},
         "choose another schedule"),
        ({"strategy": {"parallelism": {"tensor": 2}}, "processesPerWorker": 1}, "must divide workers × processesPerWorker"),
        ({"strategy": {"parallelism": {"tensor": 3}}, "elastic": {"minWorkers": 2, "maxWorkers": 4}}, "cannot be elastic"),
    ],
)  # fmt: skip
def test_a_split_that_makes_no_sense_is_refused_with_the_reason(
    cli: Cli, file: File, spec: dict[str, Any], says: str
) -> None:
    raw = job(entrypoint="my.task:build", **spec)
    del raw["spec"]["command"]
    done = cli("explain", "-f", file(raw))
    assert done.code == 2
    assert says in done.err


def test_a_plain_command_splits_its_model_by_itself(cli: Cli, file: File) -> None:
    done = cli("explain", "-f", file(job(strategy={"parallelism": {"shard": "full"}})))
    assert done.code == 2
    assert "spec.strategy belongs to jobs with an entrypoint" in done.err


def test_standbys_are_made_too_and_take_the_place_of_a_lost_pod(explained: Callable[..., str]) -> None:
    said = explained(standby=2)
    assert "5 pods mnist-0 … mnist-4 (2 standbys among them)" in said
    assert "a pod or its node is lost: a standby takes its place, all ranks are started anew" in said
    assert "the program fails: all ranks are started anew" in said


def test_an_elastic_job_says_how_small_it_may_become(explained: Callable[..., str]) -> None:
    said = explained(elastic={"minWorkers": 2, "maxWorkers": 4})
    assert "the group goes on with 2 workers, down to 2, and grows when the pods are back" in said
    rigid = explained(elastic={"minWorkers": 3, "maxWorkers": 4})
    assert "nothing to give, fewer than 3 workers are not allowed" in rigid


def test_a_named_claim_is_used_and_not_made(explained: Callable[..., str]) -> None:
    said = explained(checkpoint={"volume": {"claimName": "disk"}})
    assert "disk must be there already" in said
    assert "PersistentVolumeClaim" not in said


def test_a_suspended_job_makes_nothing(explained: Callable[..., str]) -> None:
    said = explained(suspend=True)
    assert "nothing yet: spec.suspend is true" in said
    assert "pods" not in said.split("runs")[0]


def test_ranks_come_from_workers_and_processes_or_gpus(explained: Callable[..., str]) -> None:
    assert "3 workers × 2 processes = 6 ranks as by torchrun" in explained(processesPerWorker=2)
    said = explained(workers=2, resources={"limits": {"nvidia.com/gpu": 4}})
    assert "2 workers × 4 processes = 8 ranks (auto: one per GPU, or one without GPU)" in said


@pytest.mark.parametrize(
    ("checkpoint", "says"),
    [
        ({}, "every 1m, in the background, to /checkpoints/mnist/checkpoints; the newest 3 stay"),
        (
            {"everySteps": 50, "keep": 5},
            "every 50 steps, in the background, to /checkpoints/mnist/checkpoints; the newest 5 stay",
        ),
        ({"everySeconds": 90, "async": False}, "every 1m30s, while training waits"),
    ],
)
def test_the_cadence_is_said(cli: Cli, file: File, checkpoint: dict[str, Any], says: str) -> None:
    raw = job(entrypoint="my.task:build", checkpoint={"volume": {"size": "1Gi"}, **checkpoint})
    del raw["spec"]["command"]
    assert says in " ".join(cli("explain", "-f", file(raw)).out.split())


def test_without_checkpoints_it_warns(explained: Callable[..., str]) -> None:
    assert (
        "nothing on a volume: there is no spec.checkpoint, so what the command writes in its pods is lost"
        in explained()
    )
    said = explained(**TASK)
    assert "nothing: there is no spec.checkpoint, so a failure that no rank survives starts training again from" in said
    assert "no rank is left: training goes on from step 0" in said


VOLUME = {"checkpoint": {"volume": {"size": "1Gi"}}}
HAND_ON = "the other ranks keep their processes and hand on their state, no finished step is lost; next incarnation"


def test_the_ranks_of_a_task_outlive_the_death_of_another_one(explained: Callable[..., str]) -> None:
    said = explained(**TASK, **VOLUME)
    assert f"a pod or its node is lost: {HAND_ON}, not charged" in said
    assert f"the program fails: {HAND_ON}, charged" in said
    assert "no rank is left: training goes on from the newest checkpoint" in said


def test_where_no_other_rank_is_the_checkpoint_counts(explained: Callable[..., str]) -> None:
    said = explained(**TASK, **VOLUME, workers=1)
    for what in ("a pod or its node is lost", "the program fails"):
        assert f"{what}: no rank is left, so training goes on from the newest checkpoint; next incarnation" in said
    two = explained(**TASK, **VOLUME, workers=1, resources={"limits": {"nvidia.com/gpu": 2}})
    assert "a pod or its node is lost: no rank is left" in two
    assert f"the program fails: {HAND_ON}" in two


def test_a_command_goes_on_from_what_it_has_saved_itself(explained: Callable[..., str]) -> None:
    said = explained(**VOLUME, elastic={"minWorkers": 2, "maxWorkers": 3})
    anew = "all ranks are started anew, and the command goes on from what it has saved itself; next incarnation"
    assert f"the program fails: {anew}, charged" in said
    assert "the command must cope with another WORLD_SIZE" in said
    for word in ("the newest checkpoint", "strategy", "step 0"):
        assert word not in said, "that is a task's"


@pytest.mark.parametrize(("failures", "last"), [(0, 1), (5, 6), (20, 21)])
def test_the_budget_is_counted_by_the_planner(explained: Callable[..., str], failures: int, last: int) -> None:
    said = explained(recovery={"budget": {"failures": failures}})
    if failures == 0:
        assert "the program fails: the job fails at once" in said
    else:
        assert f"failure {last} ends the job (spec.recovery.budget.failures: {failures})" in said
    assert "a pod or its node is lost: all ranks are started anew" in said
    assert "not charged" in said


def test_rules_change_the_answer(explained: Callable[..., str]) -> None:
    said = explained(
        recovery={"rules": [{"onReason": "CodeError", "action": "Ignore"}, {"onExitCodes": [3, 2], "action": "Fail"}]}
    )
    assert "what it has saved itself; next incarnation, not charged the program cannot be started" in said
    assert "rule: exit code 2, 3: the job fails at once" in said


def test_deadlines_and_cleaning_are_said(explained: Callable[..., str]) -> None:
    said = explained(
        activeDeadlineSeconds=7200, startupDeadlineSeconds=60, ttlSecondsAfterFinished=86400, cleanPodPolicy="All"
    )
    for sentence in (
        "never run within 1m",
        "active for 2h",
        "deleted after its end by 1d",
        "then all pods are removed",
    ):
        assert sentence in said


GOOD = {"image": "x", "command": ["a"]}
OF_A_TASK: list[tuple[str, dict[str, Any]]] = [
    ("spec.strategy", {"strategy": {}}),
    ("spec.seed", {"seed": 7}),
    ("spec.evaluation", {"evaluation": {}}),
    *(
        ("spec.checkpoint.everySteps, everySeconds, keep and async", {"checkpoint": {"volume": {"size": "1Gi"}, **one}})
        for one in ({"everySteps": 10}, {"everySeconds": 10}, {"keep": 5}, {"async": False})
    ),
]
"""What a plain command would have to do by itself: refused there, never ignored."""


def synchronized(**how: Any) -> dict[str, Any]:
    return {"strategy": {"synchronization": how}}


@pytest.mark.parametrize(
    "how",
    [
        {"method": "modelAveraging", "everySteps": 4, "synchronousSteps": 100},
        {"method": "diLoCo", "everySteps": 20, "outerLearningRate": 0.5, "outerMomentum": 0, "fragments": 4},
        {"method": "roundRobin"},
        {"method": "asyncRing", "everySteps": 2, "maxStaleness": 0, "meetEverySteps": 40},
        {"method": "gossip", "meetEverySteps": 10},
        {"staticGraph": True, "bucketMegabytes": 50},
        {"method": "gossip", "staticGraph": False},
    ],
)
def test_every_way_to_stay_in_step_is_accepted(cli: Cli, file: File, how: dict[str, Any]) -> None:
    task = {name: value for name, value in GOOD.items() if name != "command"} | {"entrypoint": "digits.task:build"}
    assert cli("explain", "-f", file(job() | {"spec": task | synchronized(**how)})).code == 0


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"wrkers": 3}, "spec.wrkers: unknown field, did you mean spec.workers?"),
        (
            {"checkpoint": {"volume": {"siz": "1Gi"}}},
            "spec.checkpoint.volume.siz: unknown field, did you mean spec.checkpoint.volume.size?",
        ),
        ({"zzz": 3}, "spec.zzz: unknown field\n"),
        ({"workers": "three"}, "spec.workers: must be a valid integer, not 'three'"),
        ({"workers": "3"}, "spec.workers: must be a valid integer, not '3'"),
        ({"workers": 0}, "spec.workers: must be greater than or equal to 1, not 0"),
        (
            {"processesPerWorker": "many"},
            "spec.processesPerWorker: must be a valid integer or must be 'auto', not 'many'",
        ),
        ({"processesPerWorker": 99}, "spec.processesPerWorker must be auto or a number from 1 to 64"),
        ({"volumes": [{"name": "x"}]}, "spec.volumes[0].mountPath: is missing"),
        (
            {"volumes": [{"name": "token", "mountPath": "/x", "emptyDir": {}}]},
            "spec.volumes[0]: checkpoints, scratch, shared-memory and",
        ),
        ({"command": []}, "spec: set exactly one of entrypoint"),
        ({"entrypoint": "a:b"}, "spec: set exactly one of entrypoint"),
        ({"env": [{"name": "RANK", "value": "1"}]}, "spec.env sets a name that the runtime sets itself"),
        ({"elastic": {"minWorkers": 4, "maxWorkers": 5}}, "spec.workers must be between spec.elastic.minWorkers and"),
        ({"queueName": "q"}, "spec.queueName: not implemented yet: spec.queueName"),
        (synchronized(method="gossip", maxStaleness=2), "maxStaleness is for parameterServer and asyncRing"),
        (synchronized(method="allReduce", everySteps=2), "everySteps is for methods that exchange parameters"),
        (synchronized(method="diLoCo", meetEverySteps=9), "meetEverySteps is for asyncRing and gossip"),
        (synchronized(method="diLoCo", synchronousSteps=9), "synchronousSteps is for modelAveraging"),
        (synchronized(method="parameterServer", staticGraph=True), "staticGraph and bucketMegabytes are for allReduce"),
        (synchronized(method="gossip", bucketMegabytes=50), "staticGraph and bucketMegabytes are for allReduce"),
        (
            {"strategy": {"synchronization": {"staticGraph": True}, "parallelism": {"shard": "full"}}},
            "with parallelism.tensor, pipeline or shard leave them out",
        ),
        (
            {"strategy": {"synchronization": {"bucketMegabytes": 50}, "compression": {"method": "powerSGD"}}},
            "waits for all gradients and sends two messages",
        ),
        (synchronized(bucketMegabytes=0), "spec.strategy.synchronization.bucketMegabytes: must be greater than or"),
        (synchronized(method="diLoCo", everySteps=3, fragments=4), "fragments may not be more than everySteps"),
        (
            synchronized(method="gossip", outerMomentum=0.5),
            "outerLearningRate, outerMomentum and fragments are for diLoCo",
        ),
        (
            {"strategy": {"synchronization": {"method": "roundRobin"}, "parallelism": {"tensor": 2}}},
            "need the whole model on every rank",
        ),
        ({"checkpoint": {"volume": {"size": "1Gi", "claimName": "x"}}}, "set exactly one of claimName"),
        *((ignored, f"{field} belong") for field, ignored in OF_A_TASK),
    ],
)
def test_what_the_api_server_would_refuse_is_refused_here(
    cli: Cli, file: File, spec: dict[str, Any], says: str
) -> None:
    done = cli("explain", "-f", file(job() | {"spec": GOOD | spec}))
    assert done.code == 2
    assert says in done.err
    assert "would be refused" in done.err


@pytest.mark.parametrize(
    ("name", "says"), [("x" * 53, "must have at most 52 characters"), ("Mnist", "must start with a letter")]
)
def test_a_name_that_pods_cannot_have_is_refused(cli: Cli, file: File, name: str, says: str) -> None:
    assert f"metadata.name {says}" in cli("explain", "-f", file(job(name))).err


def test_explaining_needs_neither_a_client_nor_the_operators_shell() -> None:
    code = (
        "import sys; from disttrain.cli.main import run; run(['explain', '-f', 'examples/digits/job.yaml']); "
        "print([m for m in ('torch', 'kopf', 'kubernetes', 'aiohttp') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("field", "spec"), OF_A_TASK)
def test_what_a_command_may_not_ask_for_a_task_may(
    explained: Callable[..., str], field: str, spec: dict[str, Any]
) -> None:
    assert explained(**TASK, **spec), field


def test_a_command_may_have_a_volume_and_a_limit_for_stopped_ranks(explained: Callable[..., str]) -> None:
    """And it may say the defaults: nobody can tell them from those that the API server fills in."""
    said = explained(
        seed=0, checkpoint={"volume": {"size": "1Gi"}, "keep": 3, "async": True}, recovery={"hangTimeoutSeconds": 5}
    )
    assert "DISTTRAIN_JOB_DIR=/checkpoints/mnist" in said
