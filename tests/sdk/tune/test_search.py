"""The search file: what is wrong is said by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("optuna")

from disttrain.sdk.errors import BadInput
from disttrain.sdk.tune import read
from disttrain.sdk.tune.search import Range

GOOD: dict[str, Any] = {
    "name": "digits", "metric": "accuracy", "mode": "max", "trials": 3,
    "parameters": {"lr": {"low": 0.1, "high": 1.0}}, "job": {"spec": {"image": "x"}},
}  # fmt: skip


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump(GOOD | changes))
    return path


def test_the_job_may_be_a_file_beside_the_search(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({"kind": "DistTrainJob", "spec": {"image": "y"}}))
    assert read(written(tmp_path, job="job.yaml")).job["spec"]["image"] == "y"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mode": "up"}, "mode: "),
        ({"parameters": {"lr": {"low": 2, "high": 1}}}, "low must be less than high"),
        ({"parameters": {"lr": {"low": 0, "high": 1.0, "log": True}}}, "low must be greater than 0"),
        ({"parameters": {}}, "parameters: "),
        ({"name": "Digits"}, "name: "),
        ({"trails": 3}, "trails: Extra inputs"),
        ({"prune": {}}, "prune looks at evaluations while a trial trains, and there are none"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput) as caught:
        read(written(tmp_path, **changes))
    assert says in str(caught.value)


def test_whole_bounds_mean_whole_numbers() -> None:
    assert Range(low=1, high=8).whole
    assert not Range(low=1, high=8.0).whole
    assert not Range(low=1, high=8, step=0.5).whole
