"""Submitting, reading and changing jobs."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.sdk.conftest import condition, job, pod
from tests.sdk.fake_api import JOBS, FakeApi, until
from tests.sdk.refusals import status_body

from disttrain.api import DistTrainJob
from disttrain.sdk import BadInput, Client, Conflict, Invalid, NoCluster, NotAllowed, NotFound, TimedOut, Unreachable


def test_a_new_job_is_created(api: FakeApi, client: Client) -> None:
    done = client.submit(job())
    assert (done.created, done.changed, done.job.name, done.job.namespace) == (True, True, "mnist", "ml")
    assert api.objects[JOBS, "ml", "mnist"]["spec"]["workers"] == 3


def test_it_is_tried_out_first_so_that_every_mistake_is_named(api: FakeApi, client: Client) -> None:
    with pytest.raises(Invalid) as refused:
        client.submit(job(wrkers=3, stanby=1))
    assert [(e.field, e.message) for e in refused.value.fields] == [
        ("spec.wrkers", "unknown field"),
        ("spec.stanby", "unknown field"),
    ]
    assert not api.objects
    assert all(query.get("dryRun") for method, _, query in api.requests if method == "POST")


def test_wrong_values_come_with_their_fields(client: Client) -> None:
    with pytest.raises(Invalid) as refused:
        client.submit(job(workers=0))
    assert [(e.field, e.message) for e in refused.value.fields] == [
        ("spec.workers", "0: should be greater than or equal to 1"),
        ("spec", "set exactly one of entrypoint (package.module:build) and command (a torchrun-style program)"),
    ]


def test_a_wrong_type_is_said_without_the_servers_own_excuses(client: Client) -> None:
    with pytest.raises(Invalid) as refused:
        client.submit(job(workers="three"))
    assert [(e.field, e.message) for e in refused.value.fields] == [
        ("spec.workers", '"string": must be of type integer: "string"')
    ]


def test_submitting_again_changes_nothing_or_what_differs(client: Client) -> None:
    client.submit(job())
    again = client.submit(job())
    assert (again.created, again.changed) == (False, False)
    resumed = client.submit(job(suspend=True))
    assert (resumed.created, resumed.changed) == (False, True)


def test_a_dry_run_leaves_nothing(api: FakeApi, client: Client) -> None:
    assert client.submit(job(), dry_run=True).created
    assert not api.objects
    client.submit(job())
    client.submit(job(suspend=True), dry_run=True)
    assert "suspend" not in api.objects[JOBS, "ml", "mnist"]["spec"]


def test_the_server_may_choose_the_name(client: Client) -> None:
    named = job() | {"metadata": {"generateName": "mnist-"}}
    assert client.submit(named).job.name == "mnist-x7k2p"


def test_a_model_can_be_submitted(client: Client) -> None:
    assert client.submit(DistTrainJob.model_validate(job())).job.workers == 3


def test_a_field_of_somebody_else_is_a_conflict_with_a_way_out(api: FakeApi, client: Client) -> None:
    client.submit(job())
    cause = {"reason": "FieldManagerConflict", "message": 'conflict with "kubectl"', "field": ".spec.suspend"}
    api.fail("PATCH", "mnist", 409, status_body(409, "Conflict", "Apply failed with 1 conflict", causes=[cause]))
    with pytest.raises(Conflict, match='spec.suspend: conflict with "kubectl"') as refused:
        client.submit(job(suspend=False))
    assert "--force-conflicts" in refused.value.hint


def test_a_field_that_suspend_has_set_is_no_strangers(api: FakeApi, client: Client) -> None:
    client.submit(job())
    cause = {
        "reason": "FieldManagerConflict",
        "message": 'conflict with "disttrain" using disttrain.dev/v1alpha1',
        "field": ".spec.suspend",
    }
    api.fail("PATCH", "mnist", 409, status_body(409, "Conflict", "Apply failed with 1 conflict", causes=[cause]))
    assert client.submit(job(suspend=False)).changed
    assert [query.get("force") for method, _, query in api.requests if method == "PATCH"][-2:] == [None, "true"]


def test_a_job_that_is_being_deleted_is_not_touched(api: FakeApi, client: Client) -> None:
    raw = job()
    raw["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    api.put(JOBS, raw)
    with pytest.raises(Conflict, match="is being deleted"):
        client.submit(job())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "Job"}, "kind is 'Job', not DistTrainJob"),
        ({"apiVersion": "disttrain.dev/v9"}, "this client speaks disttrain.dev/v1alpha1"),
        ({"metadata": {}}, "metadata.name is missing"),
    ],
)
def test_what_is_no_job_is_refused_before_it_is_sent(
    api: FakeApi, client: Client, change: dict[str, object], says: str
) -> None:
    with pytest.raises(BadInput, match=says):
        client.submit(job() | change)
    assert not api.requests


def test_the_namespace_comes_from_the_object_the_argument_or_the_context(api: FakeApi, config: Path) -> None:
    assert Client.connect(kubeconfig=config).namespace == "ml"
    assert Client.connect(kubeconfig=config, context="other").namespace == "elsewhere"
    client = Client.connect(kubeconfig=config, namespace="mine")
    assert client.submit(job()).job.namespace == "mine"
    own = job()
    own["metadata"]["namespace"] = "its-own"
    assert client.submit(own).job.namespace == "its-own"


def test_jobs_are_listed_by_namespace_and_name(api: FakeApi, client: Client) -> None:
    for namespace, name in [("b", "x"), ("ml", "z"), ("ml", "a")]:
        raw = job(name)
        raw["metadata"]["namespace"] = namespace
        api.put(JOBS, raw)
    assert [j.name for j in client.list()] == ["a", "z"]
    assert [(j.namespace, j.name) for j in client.list(all_namespaces=True)] == [("b", "x"), ("ml", "a"), ("ml", "z")]


def test_a_missing_job_a_missing_right_and_a_missing_operator_are_told_apart(api: FakeApi, client: Client) -> None:
    with pytest.raises(NotFound, match='"mnist" not found'):
        client.get("mnist")
    api.fail(
        "GET", "mnist", 403, status_body(403, "Forbidden", 'User "u" cannot get resource "disttrainjobs"', kind=JOBS)
    )
    with pytest.raises(NotAllowed, match="cannot get") as refused:
        client.get("mnist")
    assert "disttrain-viewer" in refused.value.hint
    api.installed = False
    with pytest.raises(NotFound, match="does not serve DistTrainJob") as missing:
        client.list()
    assert "helm install" in missing.value.hint


def test_an_api_server_that_is_not_there_is_unreachable_and_named(tmp_path: Path) -> None:
    api = FakeApi()
    client = Client.connect(kubeconfig=api.kubeconfig(tmp_path / "config"))
    api.stop()
    with pytest.raises(Unreachable, match=f"{api.url} does not answer: .*refused"):
        client.list()


@pytest.mark.parametrize("text", ["", "not: [yaml", "clusters: []", "just words"])
def test_a_broken_kubeconfig_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(NoCluster, match="no usable kubeconfig at"):
        Client.connect(kubeconfig=path)


def test_a_missing_kubeconfig_and_an_unknown_context_are_named(tmp_path: Path, config: Path) -> None:
    with pytest.raises(NoCluster, match="/absent"):
        Client.connect(kubeconfig=tmp_path / "absent")
    with pytest.raises(NoCluster, match="nonsense"):
        Client.connect(kubeconfig=config, context="nonsense")


def test_the_token_is_sent(api: FakeApi, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    original = api._server.RequestHandlerClass.do_GET  # type: ignore[attr-defined]
    monkeypatch.setattr(
        api._server.RequestHandlerClass,
        "do_GET",
        lambda self: (seen.append(self.headers.get("Authorization")), original(self))[1],
    )
    Client.connect(kubeconfig=config).list()
    assert seen == ["Bearer secret"]


def test_suspend_and_resume_change_that_field_alone(api: FakeApi, client: Client) -> None:
    client.submit(job())
    assert client.suspend("mnist").spec["suspend"] is True
    assert client.resume("mnist").spec == job()["spec"] | {"suspend": False}
    with pytest.raises(NotFound):
        client.suspend("nobody")


def test_delete_waits_for_the_end_when_asked_to(api: FakeApi, client: Client) -> None:
    client.submit(job())
    client.delete("mnist", wait=True, timeout=5)
    assert not api.objects
    assert [q["propagationPolicy"] for m, _, q in api.requests if m == "DELETE"] == ["Foreground"]


def test_waiting_ends_when_it_holds(api: FakeApi, client: Client) -> None:
    client.submit(job())
    timer = threading.Timer(0.3, lambda: api.status("mnist", conditions=[condition("Succeeded", "True")]))
    timer.start()
    finished = client.wait("mnist", until=lambda j: j.finished, timeout=10)
    assert finished is not None and finished.succeeded


def test_waiting_gives_up_in_time_and_says_that_the_job_goes_on(api: FakeApi, client: Client) -> None:
    client.submit(job())
    api.status("mnist", state="Running")
    with pytest.raises(TimedOut, match="'mnist' is still Running after 1 s; it goes on"):
        client.wait("mnist", until=lambda j: j.finished, timeout=1)


def test_waiting_for_a_job_that_is_deleted_ends_with_nothing(api: FakeApi, client: Client) -> None:
    client.submit(job())
    threading.Timer(0.3, lambda: api.remove(JOBS, "mnist")).start()
    assert client.wait("mnist", until=lambda j: j.finished, timeout=10) is None


def test_workers_are_sorted_by_index_and_summed_up(api: FakeApi, client: Client) -> None:
    api.put("pods", pod("mnist", 10, phase="Failed"))
    api.put("pods", pod("mnist", 2))
    api.put("pods", pod("mnist", 0, phase="ImagePullBackOff"))
    api.put("pods", pod("other", 0))
    found = client.workers(client.submit(job()).job)
    assert [(w.index, w.summary) for w in found] == [(0, "ImagePullBackOff"), (2, "Running"), (10, "Error (1)")]


def test_the_claim_is_found_by_name_or_by_rule(api: FakeApi, client: Client) -> None:
    api.put("persistentvolumeclaims", {"metadata": {"name": "mnist-checkpoints"}, "status": {"phase": "Bound"}})
    sized = client.submit(job(checkpoint={"volume": {"size": "1Gi"}})).job
    assert (client.claim(sized) or {})["status"]["phase"] == "Bound"
    assert client.claim(client.submit(job("b", checkpoint={"volume": {"claimName": "absent"}})).job) is None
    assert client.claim(client.submit(job("c")).job) is None


def test_a_newer_operators_status_can_be_read(api: FakeApi, client: Client) -> None:
    client.submit(job())
    api.status("mnist", state="Running", progress={"step": 7, "novelty": 1}, unheardOf={"x": 1})
    assert client.get("mnist").status.progress.step == 7  # type: ignore[union-attr]


def test_importing_the_sdk_is_light() -> None:
    code = "import disttrain.sdk, sys; print([m for m in ('torch', 'kopf', 'kubernetes', 'aiohttp', 'typer', 'rich') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_the_public_surface_is_frozen() -> None:
    import disttrain.sdk

    assert sorted(disttrain.sdk.__all__) == [
        "BadInput", "Client", "Conflict", "DisttrainError", "FieldError", "Happened", "Happening", "Invalid", "Job", "JobGone", "JobSeen",
        "LogLine", "NoCluster", "NotAllowed", "NotFound", "Refused", "Submitted", "Tick", "TimedOut", "Unreachable", "Update", "Worker",
    ]  # fmt: skip
    assert until(lambda: all(hasattr(disttrain.sdk, name) for name in disttrain.sdk.__all__))
