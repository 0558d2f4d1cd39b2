"""`disttrain list` and `get`."""

from __future__ import annotations

import json
import os
import signal
import threading

import pytest
import yaml
from tests.cli.conftest import Cli
from tests.sdk.conftest import job
from tests.sdk.fake_api import JOBS, FakeApi, until


@pytest.fixture
def two(api: FakeApi) -> FakeApi:
    api.put(JOBS, job("mnist") | {"metadata": {"name": "mnist", "managedFields": [{"manager": "x"}]}})
    api.status(
        "mnist", state="Running", incarnation=2, workers={"summary": "2/3"}, recovery={"count": 1},
        progress={"step": 5, "totalSteps": 10, "loss": 0.123456, "etaSeconds": 65}, checkpoint={"lastCommitted": {"step": 4, "digest": "d"}},
    )  # fmt: skip
    api.put(JOBS, job("zeta") | {"metadata": {"name": "zeta", "namespace": "other"}})
    return api


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_the_table_is_that_of_kubectl(two: FakeApi, cli: Cli) -> None:
    header, row = rows(cli("list").out)
    assert header == ["NAME", "STATE", "WORKERS", "STEP", "LOSS", "RECOVERIES", "AGE"]
    assert row[:6] == ["mnist", "Running", "2/3", "5/10", "0.1235", "1"]


def test_wide_adds_columns_and_all_namespaces_the_namespace(two: FakeApi, cli: Cli) -> None:
    header, first, second = rows(cli("list", "-A", "-o", "wide").out)
    assert header == [
        "NAMESPACE",
        "NAME",
        "STATE",
        "WORKERS",
        "STEP",
        "LOSS",
        "RECOVERIES",
        "AGE",
        "CHECKPOINT",
        "ETA",
        "INCARNATION",
        "IMAGE",
    ]
    assert first[-5:] == ["step", "4", "1m5s", "2", "trainer:dev"]
    assert second[:3] == ["other", "zeta", "Pending"]


def test_documents_are_those_of_the_api_without_managed_fields(two: FakeApi, cli: Cli) -> None:
    listed = json.loads(cli("list", "-o", "json").out)
    assert (listed["kind"], [i["metadata"]["name"] for i in listed["items"]]) == ("List", ["mnist"])
    one = yaml.safe_load(cli("get", "mnist", "-o", "yaml").out)
    assert one["spec"]["workers"] == 3
    assert "managedFields" not in one["metadata"]


def test_names_can_be_piped(two: FakeApi, cli: Cli) -> None:
    assert cli("list", "-o", "name").out == "disttrainjob.disttrain.dev/mnist\n"


def test_an_empty_namespace_says_so_and_is_no_error(api: FakeApi, cli: Cli) -> None:
    done = cli("list", "-n", "empty")
    assert (done.code, done.out, done.err) == (0, "", "no jobs in namespace empty\n")
    assert json.loads(cli("list", "-o", "json").out)["items"] == []


def test_watching_prints_a_line_for_every_change(two: FakeApi, cli: Cli) -> None:
    def life() -> None:
        until(lambda: any(query.get("watch") for _, _, query in list(two.requests)))
        two.status("mnist", state="Suspended")
        two.remove(JOBS, "mnist")
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()

    threading.Thread(target=life, daemon=True).start()
    done = cli("list", "-w", "-o", "name")
    assert done.code == 130
    assert done.out.splitlines() == ["disttrainjob.disttrain.dev/mnist"] * 2 + [
        "disttrainjob.disttrain.dev/mnist (deleted)"
    ]


def test_get_of_nobody_is_refused(api: FakeApi, cli: Cli) -> None:
    done = cli("get", "nobody")
    assert (done.code, done.err) == (2, 'error: disttrainjobs.disttrain.dev "nobody" not found\n')
