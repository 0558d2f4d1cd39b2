from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttrain_contract.failures import FailureClass
from disttrain_operator.core.model import CleanPodPolicy, Job, Verdict
from disttrain_operator.shell import observe
from support.raw_objects import a_raw_job, a_seen_job


def test_a_plain_job_is_understood() -> None:
    job = a_seen_job(workers=4, suspend=True, activeDeadlineSeconds=60, cleanPodPolicy="All")
    assert (job.namespace, job.name, job.uid, job.generation) == ("team", "mnist", "job-uid", 1)
    assert (job.spec.workers, job.spec.processes, job.spec.suspend) == (4, None, True)
    assert job.spec.active_deadline == timedelta(seconds=60) and job.spec.clean_pod_policy is CleanPodPolicy.ALL
    assert job.invalid is None


def test_standbys_and_the_smallest_group_are_understood() -> None:
    spec = a_seen_job(workers=3, standby=2, elastic={"minWorkers": 2, "maxWorkers": 4}).spec
    assert (spec.standby, spec.min_workers) == (2, 2)
    plain = a_seen_job(workers=3).spec
    assert (plain.standby, plain.min_workers) == (0, None)


def test_recovery_rules_and_budget_are_understood() -> None:
    rules = [{"onExitCodes": [3, 4], "action": "Fail"}, {"onReason": "OutOfMemory", "action": "Ignore"}]
    spec = a_seen_job(recovery={"rules": rules, "budget": {"failures": 0}}).spec
    assert spec.max_failures == 0
    assert (spec.rules[0].action, spec.rules[0].exit_codes) == (Verdict.FAIL, frozenset({3, 4}))
    assert spec.rules[1].reason is FailureClass.OOM


def test_a_claim_is_given_or_made() -> None:
    given_one = a_seen_job(checkpoint={"volume": {"claimName": "data"}}).spec.claim
    made = a_seen_job(checkpoint={"volume": {"size": "2Gi", "storageClassName": "fast"}, "keep": 7}).spec
    assert given_one is not None and (given_one.name, given_one.size) == ("data", None)
    assert made.claim is not None and made.keep == 7
    assert (made.claim.name, made.claim.size, made.claim.storage_class) == ("mnist-checkpoints", "2Gi", "fast")


def test_a_number_of_processes_is_a_number_and_auto_is_nobodys_choice() -> None:
    assert a_seen_job(processesPerWorker=2).spec.processes == 2
    assert a_seen_job(processesPerWorker="auto").spec.processes is None


def test_a_field_of_a_newer_version_is_named_and_the_rest_is_still_read() -> None:
    job = a_seen_job(workers=5, telepathy=True)
    assert job.invalid is not None
    assert "spec.telepathy" in job.invalid and "upgrade the operator" in job.invalid
    assert job.spec.workers == 5, "a job that runs already must not lose its workers over it"


def test_a_value_of_another_type_is_named() -> None:
    job = a_seen_job(workers="three")
    assert job.invalid is not None and "spec.workers" in job.invalid


def test_who_reconciles_it_is_read_even_when_nothing_else_is_understood() -> None:
    assert a_seen_job(managedBy="other.io/controller", workers="three").spec.managed_by == "other.io/controller"


def test_a_job_on_its_way_out_is_seen_as_such() -> None:
    found = a_raw_job()
    found["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    assert observe.job(found).deleting


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [
        "image", "command", "args", "workers", "processesPerWorker", "resources", "volumes", "env", "checkpoint", "recovery",
        "podTemplate", "strategy", "tolerations",
    ]
)  # fmt: skip


@given(st.dictionaries(FIELDS, JUNK, max_size=5), JUNK)
def test_whatever_the_server_sends_becomes_a_job(spec: dict[str, Any], status: Any) -> None:
    found = a_raw_job()
    found["spec"] |= spec
    found["status"] = status
    assert isinstance(observe.job(found), Job)


@given(JUNK)
def test_junk_in_the_place_of_a_spec_is_an_invalid_job(junk: Any) -> None:
    found = a_raw_job() | {"spec": junk}
    assert observe.job(found).invalid is not None


@pytest.mark.parametrize("found", [{}, {"metadata": None}, {"metadata": {"labels": 7}, "spec": []}])
def test_an_object_without_anything_is_an_invalid_job(found: dict[str, Any]) -> None:
    assert observe.job(found).invalid is not None


def test_a_claim_tells_what_was_granted() -> None:
    found = {
        "metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteMany"]},
        "status": {"phase": "Bound", "accessModes": ["ReadOnlyMany"], "capacity": {"storage": "1Gi"}},
    }  # fmt: skip
    claim = observe.claim(found)
    assert (claim.phase, claim.access_modes, claim.capacity_bytes) == ("Bound", ("ReadOnlyMany",), 1 << 30)


def test_a_claim_that_nobody_has_bound_yet_tells_what_was_asked_for() -> None:
    claim = observe.claim({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}})
    assert (claim.phase, claim.access_modes, claim.capacity_bytes) == ("Pending", ("ReadWriteOnce",), None)
