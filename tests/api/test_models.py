"""The models accept what the design shows and name what is wrong with the rest."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from disttrain.api import DistTrainJob, to_wire

MINIMAL = {
    "apiVersion": "disttrain.dev/v1alpha1",
    "kind": "DistTrainJob",
    "metadata": {"name": "digits"},
    "spec": {"image": "me/train:1", "entrypoint": "digits.task:build"},
}


def with_spec(**more) -> dict:
    return {**MINIMAL, "spec": {**MINIMAL["spec"], **more}}


def test_a_job_needs_little() -> None:
    job = DistTrainJob.model_validate(MINIMAL)
    assert (job.spec.workers, job.spec.processes_per_worker, job.spec.recovery.budget.failures) == (1, "auto", 5)


def test_a_job_survives_the_trip() -> None:
    job = DistTrainJob.model_validate(with_spec(workers=3, checkpoint={"volume": {"size": "1Gi"}, "everySteps": 10}))
    assert DistTrainJob.model_validate(to_wire(job)) == job


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ({"worker": 3}, "worker"),
        ({"workers": 0}, "workers"),
        ({"workers": "many"}, "workers"),
        ({"entrypoint": "no colon"}, "entrypoint"),
    ],
    ids=["unknown field", "no workers", "wrong type", "not an entry point"],
)
def test_nonsense_is_named(spec: dict, where: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DistTrainJob.model_validate(with_spec(**spec))
    assert where in caught.value.errors()[0]["loc"]
