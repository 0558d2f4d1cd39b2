"""Why a rank died, from what is left of it."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import Failure
from disttrain_runtime.agent.diagnose import Death, cannot_start, diagnose

TRACEBACK = """\
epoch 3
Traceback (most recent call last):
  File "train.py", line 9, in <module>
    main()
ValueError: no such thing
"""
GLOO = TRACEBACK.replace(
    "ValueError: no such thing", "RuntimeError: [pair.cc:534] Connection closed by peer [10.0.0.2]"
)
SAID = Failure(rank=9, local_rank=9, exit_code=1, failure_class=FailureClass.CODE, message="KeyError: 'x'", step=4)


def death(status: int, stderr: str = "", **more: object) -> Failure | None:
    return diagnose(Death(rank=3, local_rank=1, status=status, stderr=stderr, **more))  # type: ignore[arg-type]


def verdict(status: int, stderr: str = "", **more: object) -> tuple[FailureClass, int, str]:
    failure = death(status, stderr, **more)
    assert failure is not None and (failure.rank, failure.local_rank) == (3, 1)
    return failure.failure_class, failure.exit_code, failure.message


def test_exit_0_is_no_failure() -> None:
    assert death(0, TRACEBACK) is None


def test_an_exception_is_named_by_its_last_line_and_kept_whole() -> None:
    failure = death(1, TRACEBACK, step=7)
    assert failure and failure.message == "ValueError: no such thing"
    assert failure.failure_class is FailureClass.CODE and failure.exit_code == 1 and failure.step == 7
    assert failure.traceback.startswith("Traceback") and failure.traceback.endswith("no such thing")


def test_without_a_traceback_the_last_line_must_do() -> None:
    assert verdict(3, "loading\nno data in /data\n\n") == (FailureClass.CODE, 3, "exit code 3: no data in /data")
    assert verdict(3) == (FailureClass.CODE, 3, "exit code 3")


def test_a_kill_has_nothing_to_do_with_what_was_printed_before() -> None:
    assert verdict(-signal.SIGKILL, TRACEBACK) == (FailureClass.SIGNAL, 137, "exit code 137 (SIGKILL)")
    assert verdict(-signal.SIGTERM, GLOO) == (FailureClass.SIGNAL, 143, "exit code 143 (SIGTERM)")


def test_a_crash_brings_faulthandlers_stack() -> None:
    stack = 'Fatal Python error: Segmentation fault\n\nCurrent thread 0x1:\n  File "a.py", line 2 in f\n'
    failure = death(-signal.SIGSEGV, stack)
    assert failure and failure.failure_class is FailureClass.SIGNAL
    assert failure.message == "exit code 139 (SIGSEGV): Segmentation fault" and "a.py" in failure.traceback


def test_the_kernels_out_of_memory_kill_is_said_as_such_with_the_limit() -> None:
    kind, code, message = verdict(-signal.SIGKILL, "step 4\n", oom_kills=1, memory_limit=512 * 2**20)
    assert (kind, code) == (FailureClass.OOM, 137)
    assert message.startswith("out of memory: killed by the kernel at the container's limit of 512 MiB")
    child = "RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed."
    assert verdict(1, TRACEBACK.replace("ValueError: no such thing", child), oom_kills=1)[0] is FailureClass.OOM
    assert verdict(1, "", oom_kills=1, said=SAID)[0] is FailureClass.OOM


@pytest.mark.parametrize(
    ("last_line", "kind"),
    [
        ("MemoryError", FailureClass.OOM),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", FailureClass.OOM),
        ("torch.cuda.OutOfMemoryError: CUDA out of memory.", FailureClass.OOM),
        ("OSError: [Errno 28] No space left on device: '/checkpoints/x'", FailureClass.STORAGE),
        ("OSError: [Errno 30] Read-only file system", FailureClass.STORAGE),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'data'", FailureClass.CODE),
        ("torch.distributed.DistBackendError: NCCL error: ncclRemoteError: …", FailureClass.NETWORK),
        ("torch.distributed.DistNetworkError: The client socket has timed out", FailureClass.NETWORK),
        ("RuntimeError: [pair.cc:534] Connection reset by peer", FailureClass.NETWORK),
        ("ModuleNotFoundError: No module named 'numpyy'", FailureClass.CODE),
    ],
)
def test_exceptions_tell_who_must_act(last_line: str, kind: FailureClass) -> None:
    assert verdict(1, TRACEBACK.replace("ValueError: no such thing", last_line))[0] is kind


@pytest.mark.parametrize(
    ("status", "stderr"),
    [
        (2, "python: can't open file '/app/train.py': [Errno 2] No such file or directory\n"),
        (1, "/usr/bin/python3: No module named trainn\n"),
        (1, "/usr/bin/python3: Error while finding module specification for 'a.b' (ModuleNotFoundError: …)\n"),
        (127, "sh: 1: trian: not found\n"),
        (126, "sh: 1: ./train.sh: Permission denied\n"),
    ],
)
def test_a_program_that_is_not_there_is_the_jobs_mistake(status: int, stderr: str) -> None:
    kind, code, message = verdict(status, stderr)
    assert (kind, code) == (FailureClass.ENTRYPOINT, 64)
    assert message.startswith(stderr.strip()) and "check spec.command" in message


def test_our_own_exit_codes_mean_what_they_say() -> None:
    assert verdict(64, "cannot import digits:build\n")[0] is FailureClass.ENTRYPOINT
    assert verdict(74, "")[0] is FailureClass.STORAGE


def test_a_command_that_cannot_be_executed() -> None:
    failure = cannot_start(3, 1, "trian", FileNotFoundError(errno.ENOENT, "No such file or directory"))
    assert failure.failure_class is FailureClass.ENTRYPOINT and failure.exit_code == 64
    assert failure.message.startswith("cannot start 'trian': No such file or directory")
    assert cannot_start(3, 1, "a\0b", ValueError("embedded null byte")).failure_class is FailureClass.ENTRYPOINT


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_pod_that_has_used_up_its_processes_may_have_some_again(number: int) -> None:
    failure = cannot_start(3, 1, "train", OSError(number, os.strerror(number)))
    assert failure.failure_class is FailureClass.CODE and failure.exit_code == 1, (
        "tried again, as far as the budget goes"
    )
    assert failure.message.startswith(f"cannot start 'train': {os.strerror(number)}; the pod has used up")


def test_the_ranks_own_words_count_but_not_who_it_says_it_is() -> None:
    failure = death(5, TRACEBACK, said=SAID)
    assert failure and failure.message == "KeyError: 'x'" and failure.step == 4
    assert (failure.rank, failure.local_rank, failure.exit_code) == (3, 1, 5)


@pytest.mark.parametrize(("status", "said"), [(0, 0), (0, 300), (-15, 1)])
def test_a_failure_never_ends_as_exit_0(status: int, said: int) -> None:
    from dataclasses import replace

    assert verdict(status, "", said=replace(SAID, exit_code=said))[1] == 1


@pytest.mark.parametrize("status", [-signal.SIGTERM, -signal.SIGKILL, 143, 1])
def test_dying_of_our_own_signal_is_no_failure(status: int) -> None:
    assert death(status, "stopping\n", signalled=True) is None
    interrupted = TRACEBACK.replace("ValueError: no such thing", "KeyboardInterrupt")
    assert death(status, interrupted, signalled=True) is None


def test_a_rank_that_was_already_failing_when_we_signalled_it_still_tells_why() -> None:
    assert verdict(-signal.SIGTERM, TRACEBACK, signalled=True)[2].endswith("ValueError: no such thing")
    assert verdict(1, GLOO, signalled=True)[0] is FailureClass.NETWORK
