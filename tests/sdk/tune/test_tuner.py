"""A search against a fake API server: whatever dies when, every trial is one job and counts once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

from tests.sdk.conftest import condition, job
from tests.sdk.fake_api import JOBS, FakeApi

from disttrain.sdk import Client
from disttrain.sdk.errors import BadInput
from disttrain.sdk.tune import Search, Standing, Trials, Tuner


def without_command(**spec: Any) -> dict[str, Any]:
    raw = job(**spec)
    del raw["spec"]["command"]
    return raw


SEARCH: dict[str, Any] = {
    "name": "digits",
    "metric": "accuracy",
    "mode": "max",
    "trials": 4,
    "parallel": 2,
    "parameters": {"lr": {"low": 0.001, "high": 1.0, "log": True}, "hidden": {"low": 8, "high": 64, "step": 8}, "norm": {"choices": [True, False]}},
    "job": without_command(entrypoint="task:build", args=["--epochs=3"], evaluation={"everySteps": 10}),
}  # fmt: skip


@pytest.fixture
def tuner(client: Client, tmp_path: Path) -> Iterator[Callable[..., Tuner]]:
    """Every call is another life of the tuner, on the same file."""
    opened: list[Trials] = []

    def make(**changes: Any) -> Tuner:
        while opened:
            opened.pop().close()
        search = Search.model_validate(SEARCH | changes)
        opened.append(Trials(tmp_path / "digits.study", search))
        return Tuner(client, search, opened[0], sleep=lambda seconds: pytest.fail("nothing to wait for"))

    yield make
    for trials in opened:
        trials.close()


def look(tuner: Tuner) -> list[str]:
    return list(tuner.look())


def trials(tuner: Tuner) -> list[Standing]:
    return list(tuner._trials.all())


def jobs(api: FakeApi) -> list[str]:
    return sorted(name for kind, _, name in api.objects if kind == JOBS)


def progress(api: FakeApi, number: int, step: int, accuracy: float) -> None:
    api.status(f"digits-{number}", progress={"step": step, "metrics": {"accuracy": accuracy}})


def finish(api: FakeApi, number: int, accuracy: float | None) -> None:
    metrics = {"accuracy": accuracy} if accuracy is not None else {"evalLoss": 1.0}
    api.status(
        f"digits-{number}", progress={"step": 100, "metrics": metrics}, conditions=[condition("Succeeded", "True")]
    )


def test_trials_are_jobs_with_their_parameters_as_arguments(api: FakeApi, tuner: Callable[..., Tuner]) -> None:
    said = look(tuner())
    assert jobs(api) == ["digits-0", "digits-1"], "as many at a time as may be"
    raw = api.objects[JOBS, "ml", "digits-1"]
    assert raw["metadata"]["labels"] == {"disttrain.dev/study": "digits", "disttrain.dev/trial": "1"}
    epochs, *arguments = raw["spec"]["args"]
    assert epochs == "--epochs=3"
    assert [a.split("=")[0] for a in arguments] == ["--lr", "--hidden", "--norm"]
    values = dict(a.removeprefix("--").split("=") for a in arguments)
    assert 0.001 <= float(values["lr"]) <= 1.0
    assert int(values["hidden"]) % 8 == 0
    assert values["norm"] in ("true", "false")
    assert said[1].startswith("trial 1: lr=")


def test_it_goes_on_until_all_have_ended_and_names_the_best(api: FakeApi, tuner: Callable[..., Tuner]) -> None:
    one = tuner()
    look(one)
    finish(api, 0, 0.5)
    assert "trial 0: accuracy 0.5, the best so far" in look(one)
    assert jobs(api) == ["digits-0", "digits-1", "digits-2"]
    finish(api, 1, 0.9)
    finish(api, 2, 0.7)
    assert "trial 1: accuracy 0.9, the best so far" in look(one)
    finish(api, 3, 0.8)
    assert look(one) == ["trial 3: accuracy 0.8"]
    assert one.done
    best = one._trials.best()
    assert best is not None
    assert (best.number, best.value) == (1, 0.9)
    assert jobs(api) == [f"digits-{n}" for n in range(4)], "what has ended stays, with its checkpoints"


def test_the_best_evaluation_of_a_job_counts_when_the_job_measures_by_it(
    api: FakeApi, tuner: Callable[..., Tuner]
) -> None:
    one = tuner()
    look(one)
    best = {"metric": "accuracy", "value": 0.9, "step": 40}
    api.status(
        "digits-0",
        progress={"step": 100, "metrics": {"accuracy": 0.6}, "best": best},
        conditions=[condition("Succeeded", "True")],
    )
    assert "trial 0: accuracy 0.9, the best so far" in look(one)


def test_a_tuner_that_died_before_its_job_was_there_submits_it_with_the_same_parameters(
    api: FakeApi, tuner: Callable[..., Tuner]
) -> None:
    asked = tuner()._trials.ask()
    assert jobs(api) == []
    second = tuner()
    look(second)
    lr = next(a for a in api.objects[JOBS, "ml", "digits-0"]["spec"]["args"] if a.startswith("--lr="))
    assert float(lr.removeprefix("--lr=")) == asked.parameters["lr"]
    assert len(trials(second)) == 2


def test_a_tuner_that_died_after_submitting_does_not_submit_again(api: FakeApi, tuner: Callable[..., Tuner]) -> None:
    first = tuner()
    trial = first._trials.ask()
    first._client.submit(first._search.manifest(0, trial.parameters, first._trials.id))
    before = api.objects[JOBS, "ml", "digits-0"]["metadata"]["uid"]
    look(tuner())
    assert api.objects[JOBS, "ml", "digits-0"]["metadata"]["uid"] == before
    assert jobs(api) == ["digits-0", "digits-1"]


def test_what_ended_while_nobody_looked_is_counted(api: FakeApi, tuner: Callable[..., Tuner]) -> None:
    look(tuner())
    finish(api, 0, 0.4)
    api.status("digits-1", conditions=[condition("Failed", "True", "BudgetExhausted", "rank 0: CodeError")])
    said = look(tuner())
    assert said[:2] == ["trial 0: accuracy 0.4, the best so far", "trial 1: failed: rank 0: CodeError"]
    assert jobs(api) == [f"digits-{n}" for n in range(4)]


def test_another_life_of_the_tuner_proposes_something_new(api: FakeApi, tuner: Callable[..., Tuner]) -> None:
    first = tuner(trials=2)
    look(first)
    second = tuner(trials=4, parallel=4)
    look(second)
    proposed = [t.parameters["lr"] for t in trials(second)]
    assert len(set(proposed)) == 4


def test_a_trial_that_is_worse_than_the_others_is_given_up_and_its_job_goes(
    api: FakeApi, tuner: Callable[..., Tuner]
) -> None:
    one = tuner(prune={"startupTrials": 2}, parallel=3)
    look(one)
    for number in (0, 1):
        for step in (10, 20):
            progress(api, number, step, 0.9)
            look(one)
        finish(api, number, 0.9)
    progress(api, 2, 12, 0.2)
    assert "trial 2: given up at step 12, accuracy 0.2" in look(one)
    assert trials(one)[2].state == "pruned"
    assert "digits-2" not in jobs(api)
    look(tuner())
    assert "digits-2" not in jobs(api), "and does not come back"


def test_a_job_whose_trial_was_given_up_goes_also_when_the_tuner_died_in_between(
    api: FakeApi, tuner: Callable[..., Tuner]
) -> None:
    first = tuner()
    look(first)
    first._trials.saw(0, 10, 0.5)
    first._trials.prune(0)
    assert "digits-0" in jobs(api)
    look(tuner())
    assert "digits-0" not in jobs(api)


def test_trials_are_compared_at_the_same_steps(api: FakeApi, tuner: Callable[..., Tuner]) -> None:
    """Status is written every few seconds, at any step; evaluations are every 10 steps."""
    one = tuner()
    look(one)
    for step, accuracy in ((7, 0.0), (13, 0.3), (17, 0.3), (45, 0.6), (31, 0.5)):
        progress(api, 0, step, accuracy)
        look(one)
    assert dict(trials(one)[0].seen) == {10: 0.3, 20: 0.6, 30: 0.6, 40: 0.6}


def test_a_job_without_the_metric_and_one_that_was_deleted_are_failed_trials(
    api: FakeApi, tuner: Callable[..., Tuner]
) -> None:
    one = tuner()
    look(one)
    finish(api, 0, None)
    api.remove(JOBS, "digits-1")
    said = look(one)
    assert "trial 0: failed: job digits-0 has no metric accuracy in its status" in said
    assert "trial 1: failed: job digits-1 was deleted" in said


def test_a_job_of_somebody_else_is_not_touched(api: FakeApi, tuner: Callable[..., Tuner]) -> None:
    api.put(JOBS, job("digits-0"))
    before = api.objects[JOBS, "ml", "digits-0"]
    with pytest.raises(BadInput, match="belongs to no trial of this search"):
        look(tuner())
    assert api.objects[JOBS, "ml", "digits-0"] == before


def test_two_tuners_on_one_file_are_one_too_many(tuner: Callable[..., Tuner], tmp_path: Path) -> None:
    tuner()
    with pytest.raises(BadInput, match="another tuner is at work"):
        Trials(tmp_path / "digits.study", Search.model_validate(SEARCH))


def test_an_api_server_that_is_away_for_a_while_is_waited_for(api: FakeApi, client: Client, tmp_path: Path) -> None:
    """Also the end: a whole search, in which a job ends whenever the tuner sleeps."""
    search = Search.model_validate(SEARCH | {"parallel": 1, "trials": 2})
    store = Trials(tmp_path / "s", search)

    def sleep(seconds: float) -> None:
        for number in range(2):
            if (JOBS, "ml", f"digits-{number}") in api.objects:
                finish(api, number, 0.5 + number / 10)

    said = list(Tuner(client, search, store, sleep).run())
    store.close()
    assert said[-1] == "trial 1: accuracy 0.6, the best so far"
