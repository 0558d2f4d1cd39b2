"""What one end writes, the other reads; what nobody should write is refused with one kind of error."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttrain_contract import messages as m
from disttrain_contract.failures import FailureClass

PROGRESS = m.Progress(step=7, total_steps=100, epoch=1, loss=0.5, samples_per_second=9.0, metrics={"accuracy": 0.9})
CHECKPOINT = m.Checkpoint(step=5, digest="ab", path="/c/step-5", incarnation=2, time="2030-01-01T00:00:00Z", bytes=4)
PROBLEM = m.CheckpointProblem(step=6, reason="DiskFull", message="no space left")
COPY = m.RemoteCopy(step=5, url="s3://bucket/job", reason="RemoteDenied", message="no")
RESTORE = m.Restore(step=5, source="volume", digest="ab", skipped=("step 6: torn",))
FAILURE = m.Failure(
    rank=3,
    local_rank=1,
    exit_code=1,
    failure_class=FailureClass.CODE,
    message="ValueError: no",
    traceback="Traceback…",
    step=7,
    seconds_ago=0.5,
)
FULL = m.Report(
    incarnation=2,
    state=m.AgentState.FAILED,
    processes=2,
    progress=PROGRESS,
    checkpoint=CHECKPOINT,
    checkpoint_problem=PROBLEM,
    remote_copy=COPY,
    restore=RESTORE,
    failure=FAILURE,
)
MEMBERS = m.Membership(incarnation=2, workers=3, processes_per_worker=1, master_addr="10.0.0.1", master_port=29502)


def report(**changes: Any) -> str:
    """A well-formed report as JSON, with some of it replaced."""
    return json.dumps(json.loads(m.encode(FULL)) | changes)


def test_a_report_survives_the_trip() -> None:
    assert m.decode_report(m.encode(FULL)) == FULL
    small = m.Report(incarnation=0, state=m.AgentState.IDLE)
    assert m.decode_report(m.encode(small)) == small


@pytest.mark.parametrize("members", [None, MEMBERS])
@pytest.mark.parametrize("stop", [None, "suspended"])
def test_an_assignment_survives_the_trip(members: m.Membership | None, stop: str | None) -> None:
    sent = m.Assignment(job_uid="u", incarnation=2, membership=members, stop=stop)
    assert m.decode_assignment(m.encode(sent)) == sent


@pytest.mark.parametrize(
    ("event", "body"),
    [
        (m.RankEvent.PROGRESS, PROGRESS),
        (m.RankEvent.CHECKPOINT, CHECKPOINT),
        (m.RankEvent.CHECKPOINT_PROBLEM, PROBLEM),
        (m.RankEvent.REMOTE_COPY, COPY),
        (m.RankEvent.RESTORE, RESTORE),
        (m.RankEvent.FAILURE, FAILURE),
    ],
)
def test_every_rank_message_survives_the_pipe_in_one_line(event: m.RankEvent, body: m.RankBody) -> None:
    line = m.encode_rank_message(event, body)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert m.decode_rank_message(line) == (event, body)


def test_a_newer_version_may_say_more_than_we_know() -> None:
    raw = json.loads(m.encode(FULL))
    raw["shoe_size"], raw["failure"]["weather"] = 43, "rain"
    assert m.decode_report(json.dumps(raw)) == FULL


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "7",
        "null",
        "{",
        "{}",
        "[" * 60_000,
        report(incarnation="2"),
        report(incarnation=2.5),
        report(incarnation=True),
        report(incarnation=None),
        report(incarnation=2**63),
        report(state="asleep"),
        report(state=["failed"]),
        report(progress=[]),
        report(progress={"step": "x"}),
        report(progress={"loss": 1.0}),
        report(progress={"step": 1, "metrics": {"a": "b"}}),
        report(progress={"step": 1, "metrics": [1]}),
        report(restore={"step": 1, "source": "volume", "skipped": "all"}),
        report(restore={"step": 1, "source": "volume", "skipped": [1]}),
        report(failure={"rank": 1}),
        report(failure=json.loads(m.encode(FULL))["failure"] | {"failure_class": "Gremlins"}),
        report(failure=json.loads(m.encode(FULL))["failure"] | {"seconds_ago": float("inf")}),
        '{"incarnation": ' + "9" * 5000 + ', "state": "idle"}',
    ],
)
def test_a_malformed_report_is_a_value_error_and_nothing_else(text: str) -> None:
    with pytest.raises(ValueError):
        m.decode_report(text)


ANY_TEXT = st.text(st.sampled_from("ab \0\ud800\u00e9\U0001f600"), max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)
fields_of_a_report = st.dictionaries(st.sampled_from(sorted(json.loads(m.encode(FULL)))), json_values, max_size=4)


@given(fields_of_a_report)
def test_whatever_passes_the_reader_can_be_stored_as_strict_json(changes: dict[str, Any]) -> None:
    try:
        read = m.decode_report(report(**changes))
    except ValueError:
        return
    text = json.dumps(json.loads(m.encode(read)), allow_nan=False)
    assert m.decode_report(text) == read
    for part in (read.failure and read.failure.message, read.checkpoint and read.checkpoint.path):
        (part or "").encode()


def test_a_loss_that_is_not_a_number_is_left_out_rather_than_breaking_the_status() -> None:
    read = m.decode_report(report(progress={"step": 1, "loss": float("nan"), "metrics": {"a": float("inf"), "b": 1}}))
    assert read.progress == m.Progress(step=1, loss=None, metrics={"b": 1.0})


def test_an_agent_that_talks_too_much_is_cut_short() -> None:
    raw = json.loads(m.encode(FULL))
    raw["progress"]["metrics"] = {f"{'m' * 100}{i}": 1.0 for i in range(100)} | {str(i): 1.0 for i in range(100)}
    raw["failure"] |= {"message": "x" * 9000, "traceback": "a" * 9000 + "END"}
    raw["restore"]["skipped"] = ["y" * 5000] * 50
    read = m.decode_report(json.dumps(raw))
    assert read.progress and read.failure and read.restore
    assert len(read.progress.metrics) <= m.MAX_METRICS
    assert all(len(name) <= m.MAX_METRIC_NAME for name in read.progress.metrics)
    assert len(read.failure.message) == m.MAX_TEXT
    assert len(read.failure.traceback) == m.MAX_TRACEBACK and read.failure.traceback.endswith("END")
    assert len(read.restore.skipped) == m.MAX_SKIPPED
    assert m.bounded(read) == read


@given(st.integers(0, 9000), st.integers(0, 2000), st.integers(0, 40), st.sampled_from("a\u00e9\U0001f600\n"))
def test_the_last_words_always_fit_the_kubelet_and_name_the_cause(tb: int, text: int, many: int, char: str) -> None:
    big = m.Report(
        incarnation=3,
        state=m.AgentState.FAILED,
        progress=m.Progress(step=1, metrics={f"metric {i} {char * 40}": 0.1 for i in range(many)}),
        restore=m.Restore(step=1, source="volume", skipped=(char * text,) * many),
        failure=m.Failure(
            rank=1,
            local_rank=0,
            exit_code=9,
            failure_class=FailureClass.OOM,
            message="killed " + char * text,
            traceback=char * tb,
        ),
    )
    words = m.encode_within(big, 4096)
    assert len(words.encode()) <= 4096
    read = m.decode_report(words)
    assert (read.incarnation, read.state) == (3, m.AgentState.FAILED)
    assert read.failure and read.failure.exit_code == 9 and read.failure.message.startswith("killed ")


def test_the_end_of_the_traceback_is_what_is_kept() -> None:
    long = replace(FULL, failure=replace(FAILURE, traceback="x" * 5000 + "ValueError: no"))
    read = m.decode_report(m.encode_within(long, 4096))
    assert read.failure and read.failure.traceback.endswith("ValueError: no")
    assert read.progress == PROGRESS
