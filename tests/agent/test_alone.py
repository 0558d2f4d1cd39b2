"""A whole agent in a process of its own, without an operator: the exit code and the last words tell everything."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.agent.harness import AgentProcess, alive, children, python, until

from disttrain_contract.env import RunConfig
from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import AgentState

Alone = Callable[[RunConfig], AgentProcess]


async def test_a_job_of_one_worker_needs_no_operator(alone: Alone) -> None:
    program = "import os; print('rank', os.environ['RANK'], 'of', os.environ['WORLD_SIZE'])"
    agent = alone(python(program)).start()
    assert await agent.ended() == 0
    assert "[rank 0] rank 0 of 2\n" in agent.output and "[rank 1] rank 1 of 2\n" in agent.output
    assert agent.last_words.state is AgentState.FINISHED and agent.last_words.failure is None
    logs = agent.folder / "volume/mnist/logs/incarnation-0001"
    assert (logs / "rank-1.log").read_text() == "rank 1 of 2\n"


async def test_a_failure_is_the_exit_code_the_log_and_the_last_words(alone: Alone) -> None:
    program = "import os, time\nif os.environ['RANK'] == '1': raise ValueError('no such thing')\ntime.sleep(100)"
    agent = alone(python(program)).start()
    assert await agent.ended() == 1
    failure = agent.last_words.failure
    assert failure and (failure.rank, failure.message) == (1, "ValueError: no such thing")
    assert failure.traceback.startswith("Traceback") and failure.failure_class is FailureClass.CODE
    assert "[rank 1] ValueError: no such thing" in agent.output
    assert "[agent] rank 1 failed: ValueError: no such thing" in agent.output


async def test_a_program_that_does_not_exist(alone: Alone) -> None:
    agent = alone(RunConfig(command=("trian",), processes_per_worker=2)).start()
    assert await agent.ended() == 64
    failure = agent.last_words.failure
    assert failure and failure.failure_class is FailureClass.ENTRYPOINT and "cannot start 'trian'" in failure.message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"workers": 3}, "a job of 3 workers needs an operator"),
        ({"run": RunConfig()}, "neither an entrypoint nor a command"),
        ({"worker_index": "one"}, "invalid literal for int"),
    ],
)
async def test_a_pod_that_makes_no_sense_says_so(alone: Alone, changes: dict[str, object], words: str) -> None:
    agent = alone(python("pass")).change(**changes).start()
    assert await agent.ended() == 64
    failure = agent.last_words.failure
    assert failure and words in failure.message and words in agent.output


async def test_sigterm_gives_ranks_the_time_to_checkpoint(alone: Alone) -> None:
    program = (
        "import os, pathlib, signal, time\n"
        "mark = pathlib.Path(os.environ['FOLDER'])\n"
        "def stop(*_):\n"
        "    time.sleep(0.3); (mark / ('saved-' + os.environ['RANK'])).touch(); os._exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "(mark / ('up-' + os.environ['RANK'])).touch()\n"
        "while True: signal.pause()\n"
    )
    agent = alone(python(program)).start()
    await until(lambda: (agent.folder / "up-0").exists() and (agent.folder / "up-1").exists())
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 143
    assert (agent.folder / "saved-0").exists() and (agent.folder / "saved-1").exists()
    assert agent.last_words.state is AgentState.STOPPED and agent.last_words.failure is None


async def test_ranks_that_will_not_stop_are_killed_in_time(alone: Alone) -> None:
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(100)"
    agent = alone(replace(python(program), grace_seconds=1.0)).start()
    await until(lambda: agent.output.count("deaf") == 2)
    ranks = agent.ranks
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 143
    assert not any(map(alive, ranks))


async def test_a_sigterm_during_the_start_is_not_lost(alone: Alone) -> None:
    agent = alone(python("import time; time.sleep(100)")).start(early="[15]")
    assert await agent.ended() == 143
    assert agent.last_words.state is AgentState.STOPPED


async def test_no_rank_outlives_its_agent(alone: Alone) -> None:
    agent = alone(python("import time; time.sleep(100)")).start()
    await until(lambda: len(agent.ranks) == 2)
    ranks = agent.ranks
    agent.signal(signal.SIGKILL)
    await agent.ended()
    await until(lambda: not any(map(alive, ranks)), "the kernel to end the ranks")


async def test_orphans_are_reaped_and_strays_ended(alone: Alone) -> None:
    program = (
        "import os, time\n"
        "if os.environ['RANK'] == '1': time.sleep(100)\n"
        "if os.fork() == 0:\n"
        "    if os.fork() == 0: time.sleep(0.1); os._exit(0)\n"  # an orphan that ends: a zombie, if nobody reaps it
        "    os.setsid()\n"
        "    if os.fork() == 0: print('stray', os.getpid(), flush=True); time.sleep(100)\n"
        "    os._exit(0)\n"
        "time.sleep(100)\n"
    )
    agent = alone(python(program)).start()
    await until(lambda: "stray" in agent.output and len(children(agent.pid)) == 3, "two ranks and one adopted stray")
    stray = int(agent.output.split("stray ")[1].split()[0])
    assert stray in children(agent.pid)
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 143
    await until(lambda: not alive(stray), "the stray to be ended")


async def test_an_agent_whose_output_nobody_reads_still_ends(alone: Alone) -> None:
    reading, writing = os.pipe()
    try:
        agent = alone(python("print('x' * 1000 * 1000)\nimport time\ntime.sleep(100)")).start(stdout=writing)
        await until(lambda: len(agent.ranks) == 2)
        agent.signal(signal.SIGTERM)
        assert await agent.ended() == 143
    finally:
        os.close(reading)
        os.close(writing)


async def test_output_that_is_read_late_arrives_whole_and_waits_in_the_rank_not_in_memory(alone: Alone) -> None:
    program = (
        "import os, pathlib, time\n"
        "for i in range(60000): print(i, 'x' * 1000)\n"
        "pathlib.Path(os.environ['FOLDER'], 'done').touch(); time.sleep(100)\n"
    )
    reading, writing = os.pipe()
    agent = alone(replace(python(program), processes_per_worker=1)).start(stdout=writing)
    os.close(writing)
    await until(lambda: (agent.folder / "volume/mnist/logs/incarnation-0001/rank-0.log").exists())
    await asyncio.sleep(1)  # time to print it all, were anybody listening
    assert not (agent.folder / "done").exists()
    with os.fdopen(reading, "rb") as late:
        lines = await asyncio.to_thread(lambda: [late.readline() for _ in range(60001)])
        status = Path(f"/proc/{agent.pid}/status").read_text()
        agent.signal(signal.SIGTERM)
        await asyncio.to_thread(late.read)
    assert await agent.ended() == 143
    assert sum(line.startswith(b"[rank 0] ") for line in lines) == 60000
    assert int(status.split("VmHWM:")[1].split()[0]) < 60 * 1024, "it never held more than its backlog"


@contextmanager
def small_disk(where: Path) -> Iterator[Path]:
    """A volume of 64 KiB."""
    where.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(where)], check=False).returncode
    if mounted != 0:
        pytest.skip("cannot mount a tmpfs: not root here")
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


async def test_a_full_volume_costs_log_lines_and_nothing_else(alone: Alone, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        agent = alone(python("for i in range(5000): print(i, 'x' * 40)")).change(checkpoint_mount=str(disk)).start()
        assert await agent.ended() == 0
        assert agent.output.count("[rank 0] ") == 5000
        assert "the log copy on the volume loses lines: No space left on device" in agent.output


async def test_as_pid_1_it_does_what_an_init_does(alone: Alone, tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-pf", "true"], check=False).returncode != 0:
        pytest.skip("cannot make a pid namespace: not root here")
    program = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    if os.fork() == 0: time.sleep(0.1)\n"
        "    os._exit(0)\n"
        "os.wait(); print('pid of my agent', os.getppid(), flush=True); time.sleep(100)\n"
    )
    wrap = ("unshare", "--pid", "--fork", "--mount-proc")
    agent = alone(replace(python(program), processes_per_worker=1)).start(wrap=wrap)
    await until(lambda: "pid of my agent 1\n" in agent.output, agent.output)
    (pid_1,) = children(agent.pid)
    await until(lambda: len(children(pid_1)) == 1, "the orphan to be reaped")
    os.kill(pid_1, signal.SIGTERM)
    assert await agent.ended() == 143
    assert agent.last_words.state is AgentState.STOPPED


@contextmanager
def memory_cgroup(limit: int) -> Iterator[Path]:
    """A memory cgroup of version 1 or 2 below the root."""
    v1 = Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists()
    where = Path("/sys/fs/cgroup/memory" if v1 else "/sys/fs/cgroup") / f"disttrain-test-{os.getpid()}"
    try:
        where.mkdir()
        (where / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(str(limit))
    except OSError:
        pytest.skip("cannot make a memory cgroup: not root here")
    try:
        yield where
    finally:
        where.rmdir()


async def test_a_rank_that_the_kernel_kills_for_memory_is_reported_as_such(alone: Alone) -> None:
    hungry = "import os, time\nif os.environ['RANK'] == '1': x = b'x' * (1 << 30)\ntime.sleep(100)"
    with memory_cgroup(200 * 2**20) as group:
        wrap = ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh")
        agent = alone(python(hungry)).start(wrap=wrap)
        assert await agent.ended() == 137
        await until(lambda: not (group / "cgroup.procs").read_text())
    failure = agent.last_words.failure
    assert failure and failure.failure_class is FailureClass.OOM and failure.rank == 1
    assert "limit of 200 MiB" in failure.message


async def test_the_real_entry_point(alone: Alone, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "disttrain_runtime.agent"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2] / "trainer_image")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 64
    assert "not started by the operator: DISTTRAIN_JOB, " in ended.stdout
