import json
import os
import subprocess
import sys

from dev.cluster.processes import Processes, start_ticks


def _remember(folder, name, pid, ticks):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"pid": pid, "ticks": ticks}))


def test_a_running_process_is_recognised(tmp_path):
    _remember(tmp_path, "me", os.getpid(), start_ticks(os.getpid()))
    assert Processes(tmp_path).pid("me") == os.getpid()


def test_a_pid_that_now_belongs_to_somebody_else_is_not_ours(tmp_path):
    _remember(tmp_path, "me", os.getpid(), start_ticks(os.getpid()) - 1)
    assert not Processes(tmp_path).is_alive("me")


def test_a_half_written_file_is_no_process(tmp_path):
    (tmp_path / "me.json").write_text('{"pid": 1')
    assert not Processes(tmp_path).is_alive("me")


def test_a_corpse_is_not_alive():
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    try:
        assert start_ticks(process.pid) is None
    finally:
        process.wait()


def test_stopping_ends_the_process_and_forgets_it(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    _remember(tmp_path, "sleeper", process.pid, start_ticks(process.pid))
    Processes(tmp_path).stop(["sleeper"])
    assert process.wait(timeout=10) != 0
    assert Processes(tmp_path).names() == []


def test_one_that_will_not_listen_is_ended_all_the_same(tmp_path):
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    _remember(tmp_path, "deaf", process.pid, start_ticks(process.pid))
    Processes(tmp_path).stop(["deaf"], patience=0.2)
    assert process.wait(timeout=10) == -9
