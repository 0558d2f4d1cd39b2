"""A command in a pod, over a real WebSocket: what it prints, how it ends, and what can go wrong."""

from __future__ import annotations

import json
import time

import pytest
from tests.sdk.conftest import pod
from tests.sdk.fake_api import FakeApi
from tests.sdk.fake_exec import Ran
from tests.sdk.refusals import status_body

from disttrain.sdk import Client, errors, paths
from disttrain.sdk.execute import Ended, Execution, exit_code

PATH = paths.execute("ml", "mnist-0")


@pytest.fixture(autouse=True)
def a_pod(api: FakeApi) -> None:
    api.put("pods", pod("mnist", 0))


def started(client: Client, *command: str) -> Execution:
    return client._transport.execute(PATH, command, "trainer")


def test_the_command_arrives_word_by_word_and_its_words_come_back(api: FakeApi, client: Client) -> None:
    api.execs.answer = lambda name, command: Ran(out="one\ntwo\n", err="a warning\n", code=0)
    running = started(client, "python", "-m", "some thing", "--rank", "3")
    assert (running.line(5), running.line(5), running.line(5)) == ("one", "two", None)
    assert running.end(5) == Ended(0, "a warning")
    assert api.execs.seen == [("mnist-0", ["python", "-m", "some thing", "--rank", "3"])]
    assert ("GET", PATH) in [(method, path) for method, path, _ in api.requests]


def test_its_exit_code_is_told(api: FakeApi, client: Client) -> None:
    api.execs.answer = lambda *_: Ran(err="no\n", code=3)
    running = started(client, "false")
    assert running.line(5) is None and running.end(5) == Ended(3, "no")


def test_a_line_is_there_before_the_command_has_ended(api: FakeApi, client: Client) -> None:
    ended: list[float] = []
    api.execs.answer = lambda *_: Ran(out="full\n", then=lambda: (time.sleep(0.3), ended.append(time.monotonic())))
    running = started(client, "fill")
    assert running.line(5) == "full" and not ended
    assert running.end(5).code == 0 and ended


def test_waiting_is_bounded(api: FakeApi, client: Client) -> None:
    api.execs.answer = lambda *_: Ran(then=lambda: time.sleep(0.5))
    with pytest.raises(errors.TimedOut):
        started(client, "sleep").line(0.05)


def test_a_connection_that_is_cut_is_no_success(api: FakeApi, client: Client) -> None:
    api.execs.answer = lambda *_: Ran(out="half", cut=True)
    running = started(client, "fill")
    with pytest.raises(errors.Unreachable):
        running.line(5)
        running.end(5)


def test_a_program_that_is_not_in_the_image_is_said_in_the_clusters_words(api: FakeApi, client: Client) -> None:
    said = 'exec: "python": executable file not found in $PATH'
    api.execs.answer = lambda *_: Ran(verdict=status_body(500, "InternalError", said))
    with pytest.raises(errors.Refused, match="executable file not found"):
        started(client, "python").end(5)


def test_who_may_not_execute_is_told_so_as_everywhere(api: FakeApi, client: Client) -> None:
    said = 'pods "mnist-0" is forbidden: User "jane" cannot create resource "pods/exec"'
    api.fail("GET", "/exec$", 403, status_body(403, "Forbidden", said))
    with pytest.raises(errors.NotAllowed, match='cannot create resource "pods/exec"'):
        started(client, "python")


def test_a_pod_that_is_gone_is_not_found(api: FakeApi, client: Client) -> None:
    api.remove("pods", "mnist-0")
    with pytest.raises(errors.NotFound):
        started(client, "python")


def test_without_a_server_it_is_unreachable(api: FakeApi, client: Client) -> None:
    api.stop()
    with pytest.raises(errors.Unreachable, match="does not answer"):
        started(client, "python")


@pytest.mark.parametrize("verdict", ["", "null", "gibberish", "[1]"])
def test_an_end_that_nobody_understands_is_a_cut_connection(verdict: str) -> None:
    with pytest.raises(errors.Unreachable):
        exit_code(verdict)


def test_a_failure_without_an_exit_code_is_refused() -> None:
    with pytest.raises(errors.Refused, match="no such container"):
        exit_code(json.dumps({"status": "Failure", "message": "no such container", "details": None}))
