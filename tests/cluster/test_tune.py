"""`disttrain tune` on the real cluster: the program as a person calls it; its tuner and the operator die in the middle of the search."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from support.cluster import Cluster, job

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

TRIALS = 4
STEPS_PER_EPOCH = 15
EPOCHS = 20
"""300 steps, a quarter of a minute: long enough to be hit in the middle."""
TUNER_SECONDS = 400
"""Two rounds of two trials at a time, most of it the start of their pods, on a busy machine."""


def search(folder: Path) -> Path:
    """A search file: one worker a trial, nothing is given up early, so that every trial must come to its end."""
    trial = job("named-by-the-tuner", args=["--epochs", str(EPOCHS)], evaluation={"everySteps": 100})
    file = folder / "tune.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "name": "tuned", "metric": "accuracy", "mode": "max", "trials": TRIALS, "parallel": 2,
                "parameters": {"lr": {"low": 0.001, "high": 0.01, "log": True}}, "job": trial,
            }
        )
    )  # fmt: skip
    return file


def tuner(cluster: Cluster, file: Path) -> subprocess.Popen[str]:
    """It remembers beside the file."""
    return subprocess.Popen(
        [sys.executable, "-m", "disttrain.cli.main", "tune", "-f", str(file), "--study", str(file.with_suffix(".study")),
         "-n", cluster.namespace, "--kubeconfig", str(cluster.kubeconfig)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ) | {"NO_COLOR": "1"},
    )  # fmt: skip


def told(cluster: Cluster, process: subprocess.Popen[str]) -> str:
    """The table that it ends with."""
    try:
        out, err = process.communicate(timeout=TUNER_SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, err + cluster.story()
    return out


def uids(cluster: Cluster) -> dict[str, str]:
    return {j["metadata"]["name"]: j["metadata"]["uid"] for j in cluster.list("dtj")}


def test_a_search_outlives_its_tuner_and_the_operator_and_names_the_best_trial(
    cluster: Cluster, system: Cluster, tmp_path: Path
) -> None:
    file = search(tmp_path)
    first = tuner(cluster, file)
    try:
        cluster.job("tuned-0").wait_step(20)
        assert first.poll() is None, "it has other trials to start"
    finally:
        first.kill()
        _, said = first.communicate()
    assert first.returncode == -signal.SIGKILL, said
    begun = uids(cluster)
    assert set(begun) == {"tuned-0", "tuned-1"}, said

    second = tuner(cluster, file)
    system.kubectl("delete", "pod", "-l", "app.kubernetes.io/name=disttrain", "--grace-period=0", "--force")
    table = told(cluster, second)

    header, *rows = (line.split() for line in table.splitlines())
    assert header == ["TRIAL", "STATE", "ACCURACY", "lr", "JOB"]
    assert [row[1] for row in rows] == ["best"] + ["complete"] * (TRIALS - 1), table
    assert sorted(row[0] for row in rows) == [str(n) for n in range(TRIALS)]
    found = uids(cluster)
    assert set(found) == {f"tuned-{n}" for n in range(TRIALS)}
    assert {name: found[name] for name in begun} == begun, "what the first tuner had started was not started again"
    reached = {row[4]: float(row[2]) for row in rows}
    for name, accuracy in reached.items():
        trial = cluster.job(name)
        trial.wait("Succeeded", timeout=10)
        progress = trial.status["progress"]
        assert progress["step"] == EPOCHS * STEPS_PER_EPOCH
        assert accuracy == pytest.approx(progress["metrics"]["accuracy"], rel=1e-5), "the value is the job's own"
        assert trial.status["incarnation"] == 1, "neither death is a trial's affair"
    assert reached[rows[0][4]] == max(reached.values()) > 0.5, "a tenth would be chance"

    assert told(cluster, tuner(cluster, file)) == table, "a search that has ended only tells"
