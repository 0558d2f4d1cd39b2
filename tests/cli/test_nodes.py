"""`disttrain nodes`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.cli.conftest import Cli
from tests.sdk.conftest import job
from tests.sdk.fake_api import JOBS, FakeApi
from tests.sdk.refusals import status_body

from disttrain.cli import session

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "now", lambda: NOW)


def against(node: str, kind: str, minutes: int) -> dict[str, Any]:
    return {"node": node, "class": kind, "at": (NOW - timedelta(minutes=minutes)).isoformat()}


@pytest.fixture
def blamed(api: FakeApi) -> FakeApi:
    api.put(JOBS, job("mnist"))
    api.put(JOBS, job("zeta") | {"metadata": {"name": "zeta", "namespace": "other"}})
    api.put(JOBS, job("quiet"))
    api.status(
        "mnist", recovery={"count": 1, "nodeFailures": [against("bad", "Node", 60), against("odd", "Gremlin", 1)]}
    )
    seen = [against("bad", "Signal", 0), against("meh", "Hang", 60), against("bad", "Hang", 0)]
    api.objects["disttrainjobs", "other", "zeta"]["status"] = {"recovery": {"count": 3, "nodeFailures": seen}}
    return api


def test_marks_are_added_up_over_all_jobs_and_the_worst_comes_first(blamed: FakeApi, cli: Cli) -> None:
    done = cli("nodes")
    assert done.code == 0, done.err
    head, first = (" ".join(line.split()) for line in done.out.splitlines())
    assert head == "NODE MARK NEW PODS FAILURES LAST OF JOBS"
    assert first == "bad 1.10 avoid it for 1h8m 3 0s ago ml/mnist (Node), other/zeta (Hang, Signal)"


def test_a_suspicion_is_shown_before_it_steers_anybody(api: FakeApi, cli: Cli) -> None:
    api.put(JOBS, job("mnist"))
    api.status("mnist", recovery={"count": 1, "nodeFailures": [against("meh", "Signal", 30)]})
    assert " ".join(cli("nodes").out.splitlines()[1].split()) == "meh 0.28 take it 1 30m ago ml/mnist (Signal)"


def test_who_may_not_list_all_jobs_sees_those_of_his_namespace(blamed: FakeApi, cli: Cli) -> None:
    blamed.fail("GET", "/apis/disttrain.dev/v1alpha1/disttrainjobs", 403, status_body(403, "Forbidden", "no", kind="x"))
    done = cli("nodes")
    assert done.code == 0 and "only of namespace ml" in done.err
    assert done.out.splitlines()[1].split()[:2] == ["bad", "0.50"]


def test_a_cluster_without_trouble_is_said_to_be_one(api: FakeApi, cli: Cli) -> None:
    api.put(JOBS, job("mnist"))
    done = cli("nodes")
    assert (done.code, done.out, done.err) == (0, "", "nothing is held against any node\n")
