"""Real processes die, and their connections close although their memory is still there."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from disttrain_runtime import keeper

DEADLINE = 10.0


@dataclass
class Kept:
    """A process, its keeper, and a connection to it."""

    pid: int
    keeper: int
    line: socket.socket

    def closed(self) -> bool:
        """Within the deadline."""
        return bool(select.select([self.line], [], [], DEADLINE)[0]) and self.line.recv(1) == b""


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


def gone(pid: int) -> bool:
    """A zombie counts: whoever adopts it is not us."""
    return state(pid) in ("gone", "Z")


@pytest.fixture
def begin() -> Iterator[Callable[[Callable[[], None]], Kept]]:
    made: list[Kept] = []

    def start(then: Callable[[], None]) -> Kept:
        listening = socket.create_server(("127.0.0.1", 0))
        telling, said = os.pipe()
        if (pid := os.fork()) == 0:
            with suppress(BaseException):
                os.setsid()
                address = listening.getsockname()
                listening.close()
                number = keeper.keep()
                line = socket.create_connection(address)
                os.write(said, str(number).encode())
                then()
                line.close()
            os._exit(0)
        line, _ = listening.accept()
        made.append(Kept(pid, int(os.read(telling, 32)), line))
        for fd in (telling, said):
            os.close(fd)
        listening.close()
        return made[-1]

    yield start
    for kept in made:
        kept.line.close()
        for pid in (kept.pid, kept.keeper):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(kept.pid, 0)


Begin = Callable[[Callable[[], None]], Kept]


def test_who_waits_for_a_dead_process_need_not_wait_until_its_memory_is_gone(begin: Begin) -> None:
    kept = begin(signal.pause)
    os.kill(kept.keeper, signal.SIGSTOP)  # as if the memory were endless
    until(lambda: state(kept.keeper) == "T")
    os.kill(kept.pid, signal.SIGKILL)
    assert kept.closed()
    assert os.waitpid(kept.pid, 0)[0] == kept.pid
    assert state(kept.keeper) == "T", "the memory is there, and nobody has waited for it"
    os.kill(kept.keeper, signal.SIGCONT)
    until(lambda: gone(kept.keeper))


def test_it_goes_with_a_process_that_ends_well(begin: Begin) -> None:
    kept = begin(lambda: None)
    assert os.waitpid(kept.pid, 0) == (kept.pid, 0)
    until(lambda: gone(kept.keeper))


def test_signals_to_the_whole_group_are_for_the_process_alone(begin: Begin) -> None:
    def train() -> None:
        heard: list[int] = []
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGIO):
            signal.signal(number, lambda n, _: heard.append(n))
        while len(heard) < 2:
            signal.pause()
        os._exit(len(heard) if signal.SIGIO not in heard else 99)

    kept = begin(train)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        time.sleep(0.05)  # its handlers; two of a kind at once would be one
        os.killpg(kept.pid, number)
    assert os.waitstatus_to_exitcode(os.waitpid(kept.pid, 0)[1]) == 2, "each heard once"
    until(lambda: gone(kept.keeper))


def test_who_waits_for_any_child_does_not_find_it(begin: Begin) -> None:
    def train() -> None:
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            os._exit(5)

    assert os.waitstatus_to_exitcode(os.waitpid(begin(train).pid, 0)[1]) == 5


def test_memory_that_is_written_is_the_processes_own_as_ever(begin: Begin) -> None:
    def train() -> None:
        found = bytearray(50_000_000)
        found[::4096] = b"x" * len(found[::4096])
        os._exit(7 if found.count(b"x") == len(found[::4096]) else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(begin(train).pid, 0)[1]) == 7


def test_without_a_descriptor_left_there_is_none_and_nothing_stays_behind() -> None:
    if (pid := os.fork()) == 0:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
        os._exit(3 if keeper.keep() is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
