"""Who is blamed for what."""

from __future__ import annotations

import pytest

from disttrain_contract.messages import MAX_TRACEBACK
from disttrain_runtime.errors import EntrypointError, FencedError, PeerStoppedError, StorageError, TaskError, judge

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.7]:31337"


class DistBackendError(RuntimeError):
    """Named as torch names it."""


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


@pytest.mark.parametrize(
    ("error", "failure_class", "exit_code"),
    [
        (ValueError("loss is wrong"), "CodeError", 1),
        (FileNotFoundError("/data/train.bin"), "CodeError", 1),
        (SystemExit(3), "CodeError", 3),
        (SystemExit("sorry"), "CodeError", 1),
        (RuntimeError("shapes do not match"), "CodeError", 1),
        (ConnectionResetError("the user's own download"), "CodeError", 1),
        (RuntimeError(GLOO), "Network", 1),
        (DistBackendError("NCCL error in ProcessGroupNCCL.cpp"), "Network", 1),
        (MemoryError(), "OutOfMemory", 1),
        (OutOfMemoryError("CUDA out of memory"), "OutOfMemory", 1),
        (EntrypointError("no such module"), "EntrypointError", 64),
        (StorageError("the volume is read-only"), "Storage", 74),
        (FencedError("overtaken"), "Network", 1),
        (PeerStoppedError("rank 1 was told to stop"), "Network", 143),
    ],
)
def test_blame_goes_where_it_belongs(error: BaseException, failure_class: str, exit_code: int) -> None:
    verdict = judge(error)
    assert (verdict.failure_class, verdict.exit_code) == (failure_class, exit_code)


def test_an_error_that_wraps_a_lost_peers_is_a_victims_too() -> None:
    """As torch's pipelines do: they tell which stage stumbled, and over what in the cause."""
    try:
        try:
            raise RuntimeError(GLOO)
        except RuntimeError as cause:
            raise RuntimeError("Failed to run stage backward") from cause
    except RuntimeError as error:
        assert judge(error).failure_class == "Network"


def test_the_message_is_the_tracebacks_last_line() -> None:
    assert judge(KeyError("weights")).message == "KeyError: 'weights'"
    assert judge(StorageError("the volume is full")).message == "the volume is full"


def test_a_traceback_is_given_only_when_it_shows_the_users_code() -> None:
    assert judge(EntrypointError("there is no module")).traceback == ""
    assert "TaskError: batch_size" in judge(TaskError("batch_size")).traceback
    try:
        try:
            raise ZeroDivisionError("in the user's module")
        except ZeroDivisionError as cause:
            raise EntrypointError("importing raised") from cause
    except EntrypointError as error:
        assert "in the user's module" in judge(error).traceback


def test_a_long_traceback_keeps_its_end() -> None:
    def deeper(n: int) -> None:
        if n == 0:
            raise ValueError("at the bottom of it")
        deeper(n - 1) if n % 2 else deeper(n - 1)

    with pytest.raises(ValueError, match="bottom") as caught:
        deeper(400)
    text = judge(ValueError("x" * 2 * MAX_TRACEBACK)).traceback
    assert len(text) == MAX_TRACEBACK
    assert judge(caught.value).traceback.rstrip().endswith("ValueError: at the bottom of it")
