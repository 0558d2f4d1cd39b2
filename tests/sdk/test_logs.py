"""Logs of all ranks, through cuts, restarts and replacements."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sdk.conftest import condition, job, pod
from tests.sdk.fake_api import JOBS, FakeApi, Log, until

from disttrain.sdk import BadInput, Client, LogLine, log_lines, logs


def texts(lines: list[LogLine]) -> list[tuple[int | None, str]]:
    return [(line.rank, line.text) for line in lines]


@pytest.fixture
def running(api: FakeApi, client: Client) -> FakeApi:
    client.submit(job(workers=2, processesPerWorker=2))
    for index in range(2):
        api.put("pods", pod("mnist", index, uid=f"first-{index}"))
    return api


def test_a_line_knows_its_rank() -> None:
    assert log_lines.parse("p", b"2030-01-01T00:00:00.5Z [rank 12] loss 0.1") == LogLine(
        "p", 12, "2030-01-01T00:00:00.5Z", "loss 0.1"
    )
    assert log_lines.parse("p", b"2030-01-01T00:00:00.5Z agent: connected").rank is None
    assert log_lines.parse("p", b"2030-01-01T00:00:00.5Z [rank 3]").text == ""
    assert log_lines.parse("p", b"2030-01-01T00:00:00.5Z [rank 3] \xff").text == "\ufffd"


@given(st.sets(st.integers(0, 300), min_size=1))
def test_ranges_of_ranks_mean_what_they_say(ranks: set[int]) -> None:
    assert log_lines.parse_ranks(",".join(map(str, ranks))) == ranks
    low, high = min(ranks), max(ranks)
    assert log_lines.parse_ranks(f"{low}-{high}") == set(range(low, high + 1))


@pytest.mark.parametrize("text", ["", "a", "3-1", "1-", "-1", "1;2", "99999999"])
def test_nonsense_is_not_a_range(text: str) -> None:
    with pytest.raises(BadInput, match="is not a rank"):
        log_lines.parse_ranks(text)


def test_lines_of_all_pods_are_merged_by_time(running: FakeApi, client: Client) -> None:
    running.print("mnist-0", "[rank 0] one")
    running.print("mnist-1", "[rank 2] two")
    running.print("mnist-0", "[rank 1] three")
    assert texts(list(client.logs("mnist"))) == [(0, "one"), (2, "two"), (1, "three")]


def test_once_places_have_moved_a_rank_may_have_run_in_any_pod(running: FakeApi, client: Client) -> None:
    running.status("mnist", seats=[1, 0])
    running.print("mnist-0", "[rank 0] a")
    running.print("mnist-1", "[rank 0] b")
    assert texts(list(client.logs("mnist", ranks=frozenset({0})))) == [(0, "a"), (0, "b")]


def test_only_the_chosen_ranks_are_read_and_only_from_their_pods(running: FakeApi, client: Client) -> None:
    running.print("mnist-0", "agent speaks", "[rank 0] a", "[rank 1] b")
    running.print("mnist-1", "[rank 2] c", "[rank 3] d")
    assert texts(list(client.logs("mnist", ranks=frozenset({1})))) == [(1, "b")]
    assert not any("/mnist-1/log" in path for _, path, _ in running.requests)


def test_the_tail_is_asked_of_the_server(running: FakeApi, client: Client) -> None:
    running.print("mnist-0", *(f"[rank 0] {n}" for n in range(9)))
    assert texts(list(client.logs("mnist", tail=2, ranks=frozenset({0})))) == [(0, "7"), (0, "8")]


def test_pods_that_have_not_started_have_no_lines(running: FakeApi, client: Client) -> None:
    running.put("pods", pod("mnist", 1, uid="first-1", phase="ContainerCreating"))
    running.print("mnist-0", "[rank 0] a")
    assert texts(list(client.logs("mnist"))) == [(0, "a")]


def test_a_pod_without_a_previous_container_says_so(running: FakeApi, client: Client) -> None:
    found = list(client.logs("mnist", previous=True))
    assert [line.note for line in found] == [True, True]
    assert "previous terminated container" in found[0].text


def follow(client: Client, into: list[LogLine]) -> threading.Thread:
    """Read in a thread; `into` grows line by line."""

    def run() -> None:
        for line in client.logs("mnist", follow=True):
            into.append(line)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_every_line_comes_once_however_often_the_connection_is_cut(running: FakeApi, client: Client) -> None:
    seen: list[LogLine] = []
    follow(client, seen)
    for n in range(6):
        running.print("mnist-0", f"[rank 0] {n}")
        running.print("mnist-1", f"[rank 2] {n}")
        until(lambda n=n: len(seen) == 2 * n + 2)
        running.cut()
    assert [line.text for line in seen if line.rank == 0] == [str(n) for n in range(6)]
    assert [line.text for line in seen if line.rank == 2] == [str(n) for n in range(6)]


def test_after_a_cut_only_what_is_new_is_asked_for(running: FakeApi, client: Client) -> None:
    seen: list[LogLine] = []
    follow(client, seen)
    running.print("mnist-0", "[rank 0] a")
    until(lambda: seen)
    running.cut()
    running.print("mnist-0", "[rank 0] b")
    until(lambda: len(seen) == 2)
    asked = [query.get("sinceTime") for _, path, query in running.requests if path.endswith("mnist-0/log")]
    assert asked[0] is None and asked[-1] == seen[0].time


def test_a_pod_that_only_changes_is_not_read_twice(running: FakeApi, client: Client) -> None:
    seen: list[LogLine] = []
    follow(client, seen)
    running.print("mnist-0", "[rank 0] a")
    until(lambda: seen)
    running.put("pods", pod("mnist", 0, uid="first-0", podIP="10.0.0.1"))
    running.print("mnist-0", "[rank 0] b")
    running.put("pods", pod("mnist", 1, uid="second-1"))  # comes after it in the same watch
    until(lambda: any(line.note for line in seen))
    assert texts([line for line in seen if not line.note]) == [(0, "a"), (0, "b")]
    assert [line.pod for line in seen if line.note] == ["mnist-1"]


def test_following_goes_on_in_the_pod_that_replaces_a_lost_one(running: FakeApi, client: Client) -> None:
    seen: list[LogLine] = []
    follow(client, seen)
    running.print("mnist-1", "[rank 2] before")
    until(lambda: seen)
    running.end_log("mnist-1")
    running.remove("pods", "mnist-1")
    running.logs["mnist-1"] = Log()
    running.put("pods", pod("mnist", 1, uid="second-1", node="node-2"))
    running.print("mnist-1", "[rank 2] after", at="2030-01-01T00:00:09.{n:09d}Z")
    until(lambda: len(seen) == 3)
    assert [line.text for line in seen] == [
        "before",
        "replaced by a new pod on node-2, made for incarnation 1",
        "after",
    ]


def test_following_ends_after_the_last_words_of_a_finished_job(
    running: FakeApi, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LAST_WORDS_SECONDS", 0.3)
    seen: list[LogLine] = []
    thread = follow(client, seen)
    running.print("mnist-0", "[rank 0] a")
    until(lambda: seen)
    running.status("mnist", conditions=[condition("Succeeded", "True")])
    running.print("mnist-0", "[rank 0] bye")
    thread.join(10)
    assert not thread.is_alive()
    assert [line.text for line in seen] == ["a", "bye"]


def test_a_finished_jobs_logs_are_followed_to_their_end(running: FakeApi, client: Client) -> None:
    running.status("mnist", conditions=[condition("Failed", "True")])
    for index in range(2):
        running.put("pods", pod("mnist", index, uid=f"first-{index}", phase="Failed"))
        running.print(f"mnist-{index}", f"[rank {2 * index}] end")
        running.end_log(f"mnist-{index}")
    assert sorted(line.text for line in client.logs("mnist", follow=True)) == ["end", "end"]


def test_more_workers_than_streams_need_a_choice(
    running: FakeApi, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_STREAMS", 1)
    with pytest.raises(BadInput, match="at most 1 can be followed at once") as refused:
        list(client.logs("mnist", follow=True))
    assert "--rank" in refused.value.hint


def lines(*said: tuple[int, str]) -> list[LogLine]:
    return [LogLine("p", rank, f"t{n:03d}", text) for n, (rank, text) in enumerate(said)]


def test_troubles_are_tracebacks_and_alarms_by_rank_in_order_of_time() -> None:
    found = log_lines.troubles(
        lines(
            (1, "loss 0.2"),
            (1, "Traceback (most recent call last):"),
            (0, "RuntimeError: connection closed by peer"),
            (1, '  File "train.py", line 3, in <module>'),
            (1, "    1 / 0"),
            (1, "ZeroDivisionError: division by zero"),
            (1, "shutting down"),
        )
    )
    assert [(t.rank, t.lines[-1]) for t in found] == [
        (1, "ZeroDivisionError: division by zero"),
        (0, "RuntimeError: connection closed by peer"),
    ]
    assert len(found[0].lines) == 4


def test_the_rank_that_the_operator_blames_comes_first() -> None:
    found = log_lines.troubles(lines((0, "ValueError: a"), (2, "ValueError: b")), first=2)
    assert [t.rank for t in found] == [2, 0]


def test_chained_tracebacks_stay_whole() -> None:
    said = [
        "Traceback (most recent call last):", "  File x", "KeyError: 'a'", "",
        "During handling of the above exception, another exception occurred:", "",
        "Traceback (most recent call last):", "  File y", "TypeError: b", "goodbye",
    ]  # fmt: skip
    (found,) = log_lines.troubles(lines(*((0, text) for text in said)))
    assert found.lines[0] == "Traceback (most recent call last):"
    assert found.lines[-1] == "TypeError: b"
    assert "goodbye" not in found.lines


def test_a_job_without_pods_has_an_empty_log(api: FakeApi, client: Client) -> None:
    client.submit(job())
    assert list(client.logs("mnist")) == []
    assert (JOBS, "ml", "mnist") in api.objects
