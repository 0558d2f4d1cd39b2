"""Real child processes: started, heard, ended, and nothing left behind."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.agent.harness import ROOT, alive, until

from disttrain_contract.messages import Progress, RankBody, RankEvent
from disttrain_runtime.agent.launch import RankSpec
from disttrain_runtime.agent.rank_process import Listener, RankProcess
from disttrain_runtime.agent.supervisor import Supervisor
from support.limits import no_descriptor_left


@dataclass
class World:
    """A supervisor that touches only its own children, and what it heard."""

    lines: dict[int, list[bytes]] = field(default_factory=dict)
    messages: list[tuple[int, RankBody]] = field(default_factory=list)
    ended: dict[int, int] = field(default_factory=dict)
    last: dict[int, RankProcess] = field(default_factory=dict)

    def __post_init__(self) -> None:
        listener = Listener(self._on_lines, self._on_message)
        self.supervisor = Supervisor(listener, self._on_exit, init=False)

    def start(self, program: str, rank: int = 0, argv: tuple[str, ...] = ()) -> None:
        environment = dict(os.environ) | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT / "trainer_image")}
        self.supervisor.start(RankSpec(rank, rank, argv or (sys.executable, "-c", program), environment))

    async def end_of(self, *ranks: int) -> list[int]:
        """Their exit statuses."""
        await until(lambda: all(rank in self.ended for rank in ranks), f"ranks {ranks} to end")
        return [self.ended[rank] for rank in ranks]

    def said(self, rank: int = 0) -> list[bytes]:
        return self.lines.get(rank, [])

    def _on_lines(self, spec: RankSpec, lines: list[bytes]) -> None:
        self.lines.setdefault(spec.rank, []).extend(lines)

    def _on_message(self, spec: RankSpec, event: RankEvent, body: RankBody) -> None:
        self.messages.append((spec.rank, body))

    def _on_exit(self, rank: RankProcess, status: int) -> None:
        self.ended[rank.spec.rank] = status
        self.last[rank.spec.rank] = rank


@pytest.fixture
async def world() -> Iterator[World]:  # type: ignore[misc]
    world = World()
    yield world
    world.supervisor.kill()
    await until(lambda: (world.supervisor.reap(), not world.supervisor._ranks)[1])
    world.supervisor.close()


async def test_exit_codes_and_signals_are_told_apart(world: World) -> None:
    world.start("pass", 0)
    world.start("raise SystemExit(7)", 1)
    world.start("import os; os.kill(os.getpid(), 11)", 2)
    assert await world.end_of(0, 1, 2) == [0, 7, -signal.SIGSEGV]


async def test_all_that_a_rank_printed_is_heard_before_its_end(world: World) -> None:
    world.start("import os; os.write(1, b'one\\ntwo\\nno newline'); os.write(2, b'err' * 20000); os._exit(3)")
    await world.end_of(0)
    assert world.said()[:2] == [b"one", b"two"] and b"no newline" in world.said()
    assert sum(line.count(b"err") for line in world.said()) >= 19000
    assert world.last[0].stderr.endswith("err") and "one" not in world.last[0].stderr


async def test_last_words_that_were_not_read_yet_are_read_at_the_end(world: World) -> None:
    world.start("import os; os.write(2, b'word\\n' * 10000); os.write(1, b'out\\nend'); os._exit(1)")
    world.supervisor.pause()
    await world.end_of(0)
    assert world.said().count(b"word") == 10000
    assert b"out" in world.said() and b"end" in world.said() and world.last[0].stderr.endswith("word\n")


async def test_messages_on_the_report_pipe(world: World) -> None:
    world.start(
        "import os\n"
        "from disttrain_contract import env, messages as m\n"
        "fd = int(os.environ[env.REPORT_FD])\n"
        "os.write(fd, b'junk\\n' + m.encode_rank_message(m.RankEvent.PROGRESS, m.Progress(step=4)))\n"
    )
    await world.end_of(0)
    assert world.messages == [(0, Progress(step=4))] and world.last[0].junk == 1


async def test_a_rank_gets_no_other_descriptor_and_no_input(world: World) -> None:
    keep = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(keep, True)
    world.start("import os; print(len(os.listdir('/proc/self/fd')), os.read(0, 1))")
    await world.end_of(0)
    os.close(keep)
    assert world.said() == [b"5 b''"], "0, 1, 2, the report pipe, and the listing itself"


@pytest.mark.parametrize("argv", [("no-such-program",), ("/etc/passwd",), ("/",), ("nul\0byte",)])
async def test_a_program_that_cannot_be_executed_is_an_error_here(world: World, argv: tuple[str, ...]) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises((OSError, ValueError)):
        world.start("", argv=argv)
    assert len(list(Path("/proc/self/fd").iterdir())) == before, "and leaks nothing"


async def test_descriptors_are_given_back(world: World) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for rank in range(5):
        world.start("print(1)", rank)
    await world.end_of(*range(5))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("but", range(12))
async def test_without_a_descriptor_left_nothing_is_started_and_nothing_lost(world: World, but: int) -> None:
    """Refused at each of the descriptors that a start needs; the limit is the kernel's."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    with no_descriptor_left(but=but):
        try:
            world.start("print(1)")
        except OSError as error:
            assert error.errno == errno.EMFILE
        else:
            assert but > 6, "it needs more than that"
            await world.end_of(0)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    world.start("print(2)", rank=1)
    assert await world.end_of(1) == [0]


async def test_sigterm_reaches_the_rank_but_not_its_data_loaders(world: World) -> None:
    world.start(
        "import os, signal, subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '100'])\n"
        "def stop(*_):\n"
        "    print('loader', child.poll()); os._exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "print('ready', child.pid)\n"
        "signal.pause()\n"
    )
    await until(lambda: world.said())
    world.supervisor.terminate()
    await world.end_of(0)
    assert world.said()[1] == b"loader None"
    loader = int(world.said()[0].split()[1])
    await until(lambda: not alive(loader), "the group to be gone with its leader")


async def test_one_rank_may_be_spared(world: World) -> None:
    for rank in (0, 1):
        world.start("import time; print('up'); time.sleep(100)", rank)
    await until(lambda: world.said(0) and world.said(1))
    world.supervisor.terminate(spare=1)
    assert await world.end_of(0) == [-signal.SIGTERM]
    assert 1 not in world.ended


async def test_kill_takes_the_whole_group_even_when_stopped(world: World) -> None:
    world.start(
        "import os, signal, subprocess\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(subprocess.Popen(['sleep', '100']).pid)\n"
        "os.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    await until(lambda: world.said())
    world.supervisor.terminate()
    world.supervisor.kill()
    assert await world.end_of(0) == [-signal.SIGKILL]
    await until(lambda: not alive(int(world.said()[0])))


async def test_a_daemon_that_keeps_the_pipes_open_delays_nothing(world: World) -> None:
    world.start(
        "import os, sys, time\n"
        "reading, writing = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.setsid(); os.write(writing, b'.'); time.sleep(100)\n"
        "os.read(reading, 1); print('bye'); sys.stdout.flush(); os._exit(5)\n"
    )
    assert await world.end_of(0) == [5]
    assert world.said() == [b"bye"]


async def test_a_paused_rank_blocks_on_its_output_and_nothing_is_lost(world: World) -> None:
    world.start("for i in range(20000): print(i, 'x' * 20)")
    world.supervisor.pause()
    already = len(world.said())
    await asyncio.sleep(0.3)  # long enough to print it all, were anybody reading
    assert 0 not in world.ended and len(world.said()) == already
    world.supervisor.resume()
    await world.end_of(0)
    assert len(world.said()) == 20000
