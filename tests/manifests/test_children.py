"""Service, claim, event, and the small readers they share."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttrain_contract import labels
from disttrain_operator.core.actions import Event
from disttrain_operator.manifests import claim, event, meta, quantity, raw, service
from support.raw_objects import NOW, a_seen_job


def test_the_service_is_headless_and_names_pods_before_they_are_ready() -> None:
    made = service.service(a_seen_job())
    assert made["spec"]["clusterIP"] == "None" and made["spec"]["publishNotReadyAddresses"] is True
    assert made["spec"]["selector"] == {labels.JOB: "mnist"}
    assert made["metadata"]["name"] == "mnist" and meta.controller_uid(made) == "job-uid"


def test_the_claim_outlives_its_job() -> None:
    job = a_seen_job(
        checkpoint={"volume": {"size": "2Gi", "storageClassName": "fast", "accessModes": ["ReadWriteOnce"]}}
    )
    assert job.spec.claim is not None
    made = claim.claim(job, job.spec.claim)
    assert "ownerReferences" not in made["metadata"]
    assert made["metadata"]["name"] == "mnist-checkpoints" and made["metadata"]["labels"][labels.JOB] == "mnist"
    assert made["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}, "storageClassName": "fast"}  # fmt: skip


def test_workers_on_any_node_can_write_to_a_claim_that_names_no_mode() -> None:
    job = a_seen_job(checkpoint={"volume": {"size": "1Gi"}})
    assert job.spec.claim is not None
    assert claim.claim(job, job.spec.claim)["spec"]["accessModes"] == ["ReadWriteMany"]


def say(message: str = "rank 0 died", transition: str = "7", reason: str = "CodeError") -> dict[str, Any]:
    said = Event(reason, message, warning=True)
    return event.event(a_seen_job(), said, transition=transition, reporter="operator-0", now=NOW)


def test_one_transition_has_one_event_name_and_another_transition_another() -> None:
    assert say()["metadata"]["name"] == say()["metadata"]["name"]
    assert len({say()["metadata"]["name"], say(transition="8")["metadata"]["name"], say("x")["metadata"]["name"]}) == 3


def test_an_event_points_at_the_job_and_fits_the_api_servers_limits() -> None:
    made = say("ü" * 2000)
    assert made["regarding"]["uid"] == "job-uid" and made["type"] == "Warning"
    assert len(made["note"].encode()) <= 1024 and made["note"].endswith("…")
    assert made["eventTime"] == "2030-01-01T00:00:00.000000Z"


@pytest.mark.parametrize(
    ("text", "value"),
    [("500m", "0.5"), ("2", "2"), (2, "2"), ("4Gi", str(4 << 30)), ("1.5Ki", "1536"), ("1e3", "1000"), ("2k", "2000"), ("9n", "9E-9")],
)  # fmt: skip
def test_quantities(text: object, value: str) -> None:
    assert quantity.parse(text) == Decimal(value)


@given(st.one_of(st.text(), st.none(), st.lists(st.integers()), st.floats(), st.booleans()))
def test_what_is_no_quantity_is_none_and_never_an_error(junk: object) -> None:
    found = quantity.parse(junk)
    assert found is None or isinstance(found, Decimal)


def test_times_survive_the_trip_to_the_millisecond() -> None:
    moment = datetime(2030, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
    assert meta.parse_time(meta.rfc3339(moment, fraction=True)) == moment
    assert meta.rfc3339(moment) == "2030-01-02T03:04:05Z"
    assert meta.parse_time("yesterday") is None and meta.parse_time(7) is None


def test_a_boolean_is_not_a_number() -> None:
    assert raw.integer({"n": True}, "n") is None and raw.number({"n": False}, "n") is None


@pytest.mark.parametrize("references", [None, [], {}, [{"uid": "x"}], [7], "x"])
def test_an_object_without_a_controller_has_none(references: Any) -> None:
    assert meta.controller_uid({"metadata": {"ownerReferences": references}}) is None
