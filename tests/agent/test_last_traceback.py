"""Finding the traceback that matters in what a program printed."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from disttrain_runtime.agent.last_traceback import find


def stderr_of(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False).stderr


def test_of_a_chain_the_last_one_is_what_ended_the_program() -> None:
    found = find(stderr_of("try:\n  1/0\nexcept Exception as e:\n  raise ValueError('second') from e"))
    assert found and found.message == "ValueError: second" and "ZeroDivision" not in found.text


def test_an_error_that_was_handled_before_is_not_it() -> None:
    found = find(stderr_of("import traceback\ntry:\n  1/0\nexcept Exception: traceback.print_exc()\n{}['k']"))
    assert found and found.message == "KeyError: 'k'"


def test_torch_puts_the_rank_before_every_line() -> None:
    text = '[rank1]: Traceback (most recent call last):\n[rank1]:   File "a"\n[rank1]: ValueError: no\n'
    found = find("noise\n" + text + "[rank1]: later noise\n")
    assert found and found.text.endswith('\n  File "a"\nValueError: no')


def test_torchrun_only_carries_the_message() -> None:
    inner = 'Traceback (most recent call last):\n  File "train.py"\nValueError: real\n'
    outer = (
        'Traceback (most recent call last):\n  File "run.py"\n'
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n====\ntrain.py FAILED\n"
    )
    found = find(inner + "E1: failed (exitcode: 1)\n" + outer)
    assert found and found.message == "ValueError: real"
    only = find(outer)
    assert only and "ChildFailedError" in only.message, "better than nothing"


def test_a_traceback_without_its_end_is_none() -> None:
    assert find('Traceback (most recent call last):\n  File "a"') is None
    assert find("") is None and find("all is well\n") is None


@given(st.text(max_size=200))
def test_no_text_breaks_it(text: str) -> None:
    find(text)
    find("Traceback (most recent call last):\n" + text)
