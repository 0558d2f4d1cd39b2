"""Ranks that are forked live as if they had been executed, and are executed whenever they cannot be forked."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from tests.agent.stage import Stage, children, descriptors, in_a_process_of_its_own

PORTRAIT = """
import faulthandler, json, os, signal, sys
main = sys.modules["__main__"]
status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
print(json.dumps({
    "argv": sys.argv, "given": list(argv), "orig_argv": sys.orig_argv, "path": sys.path, "cwd": os.getcwd(),
    "main": [main.__spec__.name, main.__file__], "flags": str(sys.flags),
    "cmdline": open("/proc/self/cmdline").read().rstrip("\\0").split("\\0"),
    "leads": os.getpid() == os.getsid(0) == os.getpgid(0), "stdin": os.read(0, 1).decode(),
    "descriptors": len(os.listdir("/proc/self/fd")), "hash": hash("some text"), "fault": faulthandler.is_enabled(),
    "streams": [(s.line_buffering, s.write_through, s.encoding, s.errors, s.fileno()) for s in (sys.stdout, sys.stderr)],
    "signals": [status[name] for name in ("SigBlk", "SigIgn", "SigCgt")], "threads": status["Threads"],
    "environment": {k: v for k, v in os.environ.items() if k != "DISTTRAIN_REPORT_FD"},
    "really": sorted(os.popen("env").read().split()) != [],
}))
"""


async def portrait(stage: Stage) -> dict[str, object]:
    assert await stage.run(PORTRAIT, words=("-7",)) == 0, stage.lines
    stage.supervisor.close()
    found: dict[str, object] = json.loads(stage.lines[0][0])
    return found


@in_a_process_of_its_own
async def test_a_forked_rank_cannot_be_told_from_an_executed_one() -> None:
    warm = await Stage().ready()
    forked = await portrait(warm)
    assert warm.parent and not warm.has_said("executed")
    executed = await portrait(Stage(warm=False))
    assert forked == executed
    assert forked["given"] == ["-7"] and forked["leads"] and forked["descriptors"] == 5


@in_a_process_of_its_own
async def test_a_rank_is_our_own_child_and_dies_of_what_it_dies_of() -> None:
    stage = await Stage().ready()
    assert await stage.run("import os; print(os.getppid())") == 0
    assert stage.lines[0] == [str(os.getpid())]
    assert await stage.run("", DISTTRAIN_CODE="7") == 7
    assert await stage.run("raise SystemExit(5)") == 5
    assert await stage.run("import os; os.kill(os.getpid(), 9)", 1) == -signal.SIGKILL
    assert await stage.run("import ctypes; ctypes.string_at(0)", 2) == -signal.SIGSEGV
    assert stage.lines[2][0] == "Fatal Python error: Segmentation fault"
    assert await stage.run("raise ValueError('no')", 3) == 1
    assert stage.lines[3][0] == "Traceback (most recent call last):" and stage.lines[3][-1] == "ValueError: no"
    assert not stage.has_said("executed")


@in_a_process_of_its_own
async def test_the_report_socket_arrives_under_the_number_that_the_rank_is_told() -> None:
    stage = await Stage().ready()
    program = "import os, stat; fd = int(os.environ['DISTTRAIN_REPORT_FD']); print(stat.S_ISSOCK(os.fstat(fd).st_mode))"
    await stage.run(program)
    assert stage.lines[0] == ["True"]


@in_a_process_of_its_own
async def test_a_forked_rank_can_be_ended_with_all_that_it_started() -> None:
    stage = await Stage().ready()
    stage.start("import signal, subprocess; print(subprocess.Popen(['sleep', '100']).pid); signal.pause()")
    await stage.until(lambda: stage.lines)
    stage.supervisor.kill()
    await stage.until(lambda: stage.ended)
    assert stage.ended == {0: -signal.SIGKILL}
    await stage.until(lambda: children() == [stage.parent])


@in_a_process_of_its_own
async def test_two_hundred_restarts_leave_nothing_behind() -> None:
    stage = await Stage().ready()
    parent = stage.parent
    await stage.run("")
    before = descriptors(), descriptors(parent), Path(f"/proc/{parent}/statm").read_text().split()[1]
    for _ in range(200):
        assert await stage.run("import os; os.write(1, b'x')") == 0
    assert (descriptors(), descriptors(parent)) == before[:2]
    assert children() == [parent] == [stage.parent]
    assert Path(f"/proc/{parent}/task/{parent}/children").read_text() == "", "no zombie of its own either"
    grown = int(Path(f"/proc/{parent}/statm").read_text().split()[1]) - int(before[2])
    assert grown < 256, f"the parent grew by {grown} pages"


@in_a_process_of_its_own
async def test_strays_are_ended_and_the_parent_is_none() -> None:
    stage = await Stage().ready()
    program = (  # the rank ends when the stray has left its group: what is still in it dies with the rank
        "import os, time\nreading, writing = os.pipe()\n"
        "if os.fork() == 0: os.setsid(); os.write(writing, b'.'); time.sleep(100)\n"
        "os.read(reading, 1)"
    )
    assert await stage.run(program) == 0
    await stage.until(lambda: len(children()) == 2)
    stage.supervisor.end_strays()
    await stage.until(lambda: children() == [stage.parent])
    assert await stage.run("") == 0 and not stage.has_said("executed")


@in_a_process_of_its_own
async def test_a_parent_that_dies_between_two_requests_is_replaced() -> None:
    stage = await Stage().ready()
    first = stage.parent
    os.kill(first, signal.SIGKILL)
    await stage.until(lambda: stage.has_said("the warm parent ended (-9); making a new one"))
    await stage.ready()
    assert stage.parent != first and stage.kills == 1
    assert await stage.run("") == 0 and not stage.has_said("executed")


@in_a_process_of_its_own
async def test_while_the_next_parent_is_not_ready_ranks_are_executed() -> None:
    stage = await Stage().ready()
    os.kill(stage.parent, signal.SIGKILL)  # nobody has noticed yet: the next request finds it dead
    assert await stage.run("") == 0
    assert stage.has_said("did not fork rank 0") and stage.has_said("executed instead")
    await stage.ready()
    assert await stage.run("") == 0
    assert len([line for line in stage.said if "executed" in line]) == 1


@in_a_process_of_its_own
async def test_a_parent_that_hangs_costs_a_bounded_time_and_never_forks_late() -> None:
    stage = await Stage().ready()
    os.kill(hung := stage.parent, signal.SIGSTOP)
    assert await stage.run("print('once')") == 0
    assert stage.has_said("did not fork rank 0: timed out; it is executed instead")
    await stage.until(lambda: hung not in children())
    await stage.ready()
    assert stage.lines[0] == ["once"] and stage.kills == 0, "it was we who killed it"


@in_a_process_of_its_own
async def test_a_parent_that_always_dies_is_given_up() -> None:
    stage = await Stage().ready()
    for _ in range(4):
        os.kill(stage.parent, signal.SIGTERM)
        ended = stage.parent
        await stage.until(lambda ended=ended: stage.warm and stage.warm.pid != ended)
        await stage.ready()
    assert stage.warm and stage.warm.pid is None and stage.has_said("(-15); ranks will be executed")
    assert await stage.run("") == 0 and children() == []


@in_a_process_of_its_own
async def test_an_import_that_fails_leaves_it_to_the_ranks_to_say_so() -> None:
    stage = await Stage(WHEN_IMPORTED="raise OSError('no such library')").ready()
    await stage.until(lambda: stage.has_said("ranks will be executed"))
    assert stage.has_said("warm parent: OSError: no such library")
    assert await stage.run("") == 1 and stage.lines[0][-1] == "OSError: no such library"
    assert children() == [] and stage.kills == 0


@in_a_process_of_its_own
async def test_a_parent_with_a_second_thread_forks_nobody() -> None:
    stage = await Stage(
        WHEN_IMPORTED="import threading, time; threading.Thread(target=time.sleep, args=(1,)).start()"
    ).ready()
    await stage.until(lambda: stage.has_said("ranks will be executed"))
    assert stage.has_said("cannot fork: the imports started 1 threads")
    assert await stage.run("print(1)") == 0 and stage.lines[0] == ["1"]


@in_a_process_of_its_own
async def test_a_rank_with_another_environment_is_executed() -> None:
    """Libraries read such variables when they are loaded."""
    stage = await Stage(OMP_NUM_THREADS="1").ready()
    assert await stage.run("import os; print(os.environ['OMP_NUM_THREADS'])", OMP_NUM_THREADS="2") == 0
    assert stage.lines[0] == ["2"] and stage.has_said("its environment is not the one")


@in_a_process_of_its_own
async def test_an_environment_of_a_megabyte_arrives() -> None:
    """Kubernetes gives every pod seven variables for every service."""
    many = {f"SERVICE_{i}": "x" * 1000 for i in range(1000)}
    stage = await Stage(**many).ready()
    assert await stage.run("import os; print(sum(map(len, os.environ.values())) > 1_000_000)") == 0
    assert stage.lines[0] == ["True"] and not stage.has_said("executed")


@in_a_process_of_its_own
async def test_the_end_of_the_agent_is_the_end_of_the_parent() -> None:
    stage = await Stage().ready()
    assert stage.warm
    stage.warm.close()
    await stage.until(lambda: children() == [])
    assert stage.said[1:] == [], "and no new one is made"
