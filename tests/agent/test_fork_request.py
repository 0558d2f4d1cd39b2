"""A request is answered by a rank that belongs to us, or by nobody, ever."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from disttrain_runtime.agent.execute import Ends
from disttrain_runtime.agent.fork_request import ForkRequest, ask, asked, wait_for_go
from disttrain_runtime.agent.launch import RankSpec

SPEC = RankSpec(0, 0, ("python", "-m", "x"), {"NAME": "ü\udcff"})


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def ends() -> Iterator[Ends]:
    fds = [os.open("/dev/null", os.O_WRONLY) for _ in range(3)]
    yield Ends(*fds)
    for fd in fds:
        os.close(fd)


def received(theirs: socket.socket) -> ForkRequest:
    request = asked(theirs)
    assert request is not None
    return request


def test_a_rank_gets_what_the_agent_asked_for(pair: tuple[socket.socket, socket.socket], ends: Ends) -> None:
    found: list[object] = []

    def rank() -> None:
        request = received(pair[1])
        found.extend([*request.read(), wait_for_go(request)])
        request.close()

    thread = threading.Thread(target=rank)
    thread.start()
    assert ask(pair[0], SPEC, ends, 5.0) == os.getpid()
    thread.join()
    assert found == [["python", "-m", "x"], {"NAME": "ü\udcff"}, True]


def test_a_death_on_the_way_is_noticed_at_once(pair: tuple[socket.socket, socket.socket], ends: Ends) -> None:
    thread = threading.Thread(target=lambda: received(pair[1]).close())
    thread.start()
    with pytest.raises(ConnectionError, match="it died while it forked"):
        ask(pair[0], SPEC, ends, 60.0)
    thread.join()


def test_a_parent_that_is_gone_is_noticed_at_once(pair: tuple[socket.socket, socket.socket], ends: Ends) -> None:
    pair[1].close()
    with pytest.raises(OSError):
        ask(pair[0], SPEC, ends, 60.0)


def test_a_rank_that_comes_too_late_is_not_wanted(pair: tuple[socket.socket, socket.socket], ends: Ends) -> None:
    with pytest.raises(TimeoutError):
        ask(pair[0], SPEC, ends, 0.01)
    request = received(pair[1])
    assert wait_for_go(request) is False
    request.close()


def test_nothing_stays_open_whatever_happens(pair: tuple[socket.socket, socket.socket], ends: Ends) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(TimeoutError):
        ask(pair[0], SPEC, ends, 0.01)
    received(pair[1]).close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_end_of_the_agent_ends_the_waiting(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()
    assert asked(pair[1]) is None
