"""`disttrain tune` from file to table."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("optuna")

from tests.cli.conftest import Cli
from tests.sdk.conftest import condition, job
from tests.sdk.fake_api import JOBS, FakeApi

from disttrain.sdk.tune import tuner


def without_command(**spec: Any) -> dict[str, Any]:
    raw = job(**spec)
    del raw["spec"]["command"]
    return raw


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    raw = {
        "name": "digits", "metric": "accuracy", "mode": "max", "trials": 2, "parallel": 2,
        "parameters": {"lr": {"low": 0.001, "high": 1.0, "log": True}}, "job": without_command(entrypoint="task:build"),
    }  # fmt: skip
    path = tmp_path / "tune.yaml"
    path.write_text(yaml.safe_dump(raw))
    return str(path)


def train(api: FakeApi, ends: threading.Event) -> None:
    """Every job comes to a good end, the later ones to a better one."""
    while not ends.wait(0.01):
        for (kind, _, name), raw in list(api.objects.items()):
            if kind == JOBS and "conditions" not in raw.get("status", {}):
                number = int(name.rsplit("-", 1)[1])
                metrics = {"accuracy": 0.5 + number / 10}
                api.status(name, progress={"step": 9, "metrics": metrics}, conditions=[condition("Succeeded", "True")])


def test_the_best_trial_is_the_first_row(api: FakeApi, cli: Cli, search: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner.Tuner.run, "__defaults__", (0.02,))
    ends = threading.Event()
    threading.Thread(target=train, args=(api, ends), daemon=True).start()
    done = cli("tune", "-f", search)
    ends.set()
    assert done.code == 0, done.err
    header, best, other = (line.split() for line in done.out.splitlines())
    assert header == ["TRIAL", "STATE", "ACCURACY", "lr", "JOB"]
    assert (best[0], best[1], best[2], best[4]) == ("1", "best", "0.6", "digits-1")
    assert (other[0], other[1]) == ("0", "complete")
    assert "trial 0: lr=" in done.err
    again = cli("tune", "-f", search)
    assert (again.code, again.err, again.out) == (0, "", done.out), "a search that has ended only tells"


def test_a_file_that_is_wrong_is_refused(api: FakeApi, cli: Cli, search: str) -> None:
    Path(search).write_text("name: x")
    done = cli("tune", "-f", search)
    assert done.code == 2
    assert "mode: Field required" in done.err
