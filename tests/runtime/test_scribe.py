"""What is handed to a thread is done in order, and a disk that hangs holds nobody up."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from disttrain_runtime import scribe
from disttrain_runtime.scribe import Scribe


@pytest.fixture
def disk() -> Iterator[threading.Event]:
    """It hangs until it is set."""
    found = threading.Event()
    yield found
    found.set()


def test_everything_is_done_in_order_before_a_wait_is_over() -> None:
    done: list[int] = []
    writer = Scribe()
    for number in range(100):
        assert writer.do(lambda n=number: done.append(n))  # type: ignore[misc]
    assert writer.wait() and done == list(range(100))


def test_who_writes_nothing_has_no_thread() -> None:
    before = threading.active_count()
    assert Scribe().wait()
    assert threading.active_count() == before


def test_a_disk_that_hangs_is_waited_for_once(monkeypatch: pytest.MonkeyPatch, disk: threading.Event) -> None:
    monkeypatch.setattr(scribe, "PATIENCE_SECONDS", 0.2)
    now = [0.0]
    writer, done = Scribe(lambda: now[0]), []
    writer.do(disk.wait)
    writer.do(lambda: done.append("behind it"))
    now[0] = 0.2
    assert not writer.wait(), "its time is over"
    assert not writer.wait(), "and nobody waits again"
    disk.set()
    now[0] = 0.0  # time enough
    assert writer.wait() and done == ["behind it"]


def test_what_is_too_much_is_refused_and_not_kept(monkeypatch: pytest.MonkeyPatch, disk: threading.Event) -> None:
    monkeypatch.setattr(scribe, "MOST", 2)
    writer = Scribe()
    assert writer.do(disk.wait) and writer.do(lambda: None)
    assert not writer.do(lambda: None)


def test_an_error_is_raised_on_the_thread_that_hands_over_and_once(disk: threading.Event) -> None:
    writer, done = Scribe(), []

    def fails() -> None:
        disk.wait()
        raise ValueError("overtaken")

    writer.do(fails)
    writer.do(lambda: done.append("dropped"))
    disk.set()
    with pytest.raises(ValueError, match="overtaken"):
        writer.wait()
    assert writer.wait() and done == []
