from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttrain.api import DistTrainJobStatus
from disttrain.api.crd import structural
from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import Best, Checkpoint, Ending, Progress
from disttrain_operator.core.conditions import Condition, Type
from disttrain_operator.core.goodput import Bucket, Ledger
from disttrain_operator.core.model import NodeFailure, Recovery, StandbyTrouble, Status, WorkerCounts
from disttrain_operator.manifests.status import from_wire, measured, to_wire

TIMES = st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds the zone
WHOLE = st.integers(min_value=0, max_value=2**53 - 1)
NUMBERS = st.floats()
TEXT = st.text(min_size=1, max_size=40)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


CONDITIONS = st.lists(
    st.builds(
        Condition, type=st.sampled_from(Type), status=st.sampled_from(["True", "False"]), reason=TEXT,
        message=st.text(max_size=40), since=TIMES, observed_generation=WHOLE,
    ),
    unique_by=lambda c: c.type,
).map(lambda found: tuple(sorted(found, key=lambda c: list(Type).index(c.type))))  # fmt: skip
STATUSES = st.builds(
    Status,
    conditions=CONDITIONS,
    state=maybe(TEXT),
    observed_generation=maybe(WHOLE),
    incarnation=WHOLE,
    attempts=WHOLE,
    charges=st.lists(TIMES, max_size=3).map(tuple),
    charged_step=WHOLE,
    repeats=WHOLE,
    goodput=st.builds(Ledger, current=st.sampled_from(Bucket), since=TIMES, seconds=st.dictionaries(st.sampled_from(Bucket), st.floats(0, 1e9))),
    start_time=maybe(TIMES),
    completion_time=maybe(TIMES),
    restart_after=maybe(TIMES),
    replacing=st.lists(st.uuids().map(str), max_size=3).map(tuple),
    workers=st.builds(WorkerCounts, desired=WHOLE, ready=WHOLE, active=WHOLE, succeeded=WHOLE, failed=WHOLE, standby=maybe(WHOLE)),
    seats=st.lists(WHOLE, max_size=5, unique=True).map(tuple),
    standby_trouble=maybe(st.builds(StandbyTrouble, failures=WHOLE, failed_at=TIMES, cause=TEXT)),
    progress=maybe(
        st.builds(
            Progress, step=WHOLE, total_steps=maybe(WHOLE), epoch=maybe(WHOLE), loss=maybe(NUMBERS),
            samples_per_second=maybe(NUMBERS), metrics=st.dictionaries(TEXT, NUMBERS, max_size=40),
            best=maybe(st.builds(Best, metric=TEXT, value=NUMBERS, step=WHOLE)), ended=maybe(st.builds(Ending, reason=TEXT, message=TEXT)),
        )
    ),
    checkpoint=maybe(
        st.builds(Checkpoint, step=WHOLE, digest=TEXT, path=TEXT, incarnation=WHOLE, time=TEXT, bytes=WHOLE, seconds=NUMBERS)
    ),
    node_failures=st.lists(st.builds(NodeFailure, TEXT, st.sampled_from(FailureClass), TIMES), max_size=3).map(tuple),
    recoveries=WHOLE,
    last_recovery=maybe(
        st.builds(
            Recovery, incarnation=WHOLE, cause=TEXT, failure_class=st.sampled_from(FailureClass), failed_at=TIMES, rank=maybe(WHOLE),
            pod=maybe(TEXT), node=maybe(TEXT), exit_code=maybe(WHOLE), traceback=maybe(TEXT), step=maybe(WHOLE),
            restored_step=maybe(WHOLE), source=maybe(TEXT), recover_seconds=maybe(NUMBERS), lost_steps=maybe(WHOLE), drill=maybe(TEXT),
        )
    ),
)  # fmt: skip


@given(STATUSES)
def test_what_was_read_back_is_written_the_same(status: Status) -> None:
    """The law on which zero idle writes rest."""
    wire = json.loads(json.dumps(to_wire(status), allow_nan=False))
    assert to_wire(from_wire(wire)) == wire


ALLOWED = jsonschema.Draft202012Validator(structural(DistTrainJobStatus))


@given(STATUSES)
def test_every_status_is_what_the_crd_allows(status: Status) -> None:
    wire = to_wire(status, eta_seconds=3)
    ALLOWED.validate(wire)
    DistTrainJobStatus.model_validate(wire)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
KEYS = st.sampled_from(
    ["conditions", "progress", "recovery", "last", "step", "metrics", "checkpoint", "lastCommitted", "workers", "type", "class"]
)  # fmt: skip


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=20))
def test_junk_is_passed_over(junk: Any) -> None:
    assert isinstance(from_wire(junk), Status)


def test_durations_that_are_computed_from_times_keep_milliseconds() -> None:
    failed_at = datetime(2030, 1, 1, 0, 0, 0, 250000, tzinfo=UTC)
    last = Recovery(incarnation=1, cause="x", failure_class=FailureClass.CODE, failed_at=failed_at)
    held = failed_at + timedelta(milliseconds=1500)
    back = from_wire(to_wire(Status(last_recovery=last, restart_after=held)))
    assert back.last_recovery == last and back.restart_after == held


def test_a_newer_operators_words_are_passed_over_and_the_known_ones_kept() -> None:
    wire = to_wire(Status(incarnation=3, attempts=2, last_recovery=None)) | {"invented": {"a": 1}}
    wire["conditions"] = [{"type": "Invented", "status": "True", "lastTransitionTime": "2030-01-01T00:00:00Z"}]
    wire["recovery"]["last"] = {"incarnation": 2, "class": "Invented", "failedAt": "2030-01-01T00:00:00Z"}
    back = from_wire(wire)
    assert (back.incarnation, back.attempts, back.conditions, back.last_recovery) == (3, 2, (), None)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, "0.5", True])
def test_a_loss_that_json_cannot_say_is_left_out(loss: Any) -> None:
    assert "loss" not in to_wire(Status(progress=Progress(step=1, loss=loss)))["progress"]


def test_numbers_are_written_as_people_read_them() -> None:
    assert measured(0.123456789) == 0.123457 and measured(1234567.0) == 1234570.0


@pytest.mark.parametrize("seats", [[0, "1"], [0, 0], [0, -1], [True, 0], "01", None])
def test_seats_are_read_whole_or_not_at_all(seats: Any) -> None:
    assert from_wire({"seats": seats}).seats == ()
    assert from_wire({"seats": [0, 3, 2]}).seats == (0, 3, 2)


def test_an_agent_that_reports_nonsense_cannot_break_the_write() -> None:
    nonsense: Any = Progress(step="ten", total_steps=2**70, epoch=1.5, metrics={"a": "b", "c": 1.0})  # type: ignore[arg-type]
    assert to_wire(Status(progress=nonsense))["progress"] == {"step": 0, "metrics": {"c": 1.0}}


def test_the_printer_column_counts_finished_workers_as_ready() -> None:
    done = Status(workers=WorkerCounts(desired=3, ready=1, succeeded=2))
    assert to_wire(done)["workers"]["summary"] == "3/3"


def test_a_checkpoint_of_known_size_comes_back_whole() -> None:
    saved = Checkpoint(step=5, digest="sha256:a", path="p", incarnation=2, time="2030-01-01T00:00:00Z", bytes=1 << 40, seconds=1.5)  # fmt: skip
    assert from_wire(to_wire(Status(checkpoint=saved))).checkpoint == saved
    assert from_wire(to_wire(replace(Status(), replacing=("a", "b")))).replacing == ("a", "b")
