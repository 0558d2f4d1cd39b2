"""Memory for two processes."""

from __future__ import annotations

import gc
import os

import pytest

from disttrain_runtime.checkpoint.block import Block


def test_who_is_given_the_descriptor_sees_the_same_bytes() -> None:
    mine = Block.make(100)
    theirs = Block.attach(os.dup(mine.fd), 100)
    mine.map[:5] = b"hello"
    assert theirs.map[:5] == b"hello"
    with pytest.raises(TypeError):
        theirs.map[:5] = b"other"


def test_a_block_that_is_closed_or_forgotten_gives_its_descriptor_back() -> None:
    closed, forgotten = Block.make(10), Block.make(10)
    numbers = (closed.fd, forgotten.fd)
    closed.close()
    del forgotten
    gc.collect()
    for number in numbers:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)


def test_a_view_outlives_the_block() -> None:
    block = Block.make(10)
    view = memoryview(block.map)
    block.close()
    view[0] = 7
    assert view[0] == 7
