"""Several sources as one."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from disttrain.sdk.merging import Merge


class Numbers:
    """Gives numbers, then ends, fails, or waits until it is closed."""

    def __init__(self, *numbers: int, then: Exception | None = None, waits: bool = False) -> None:
        self._numbers, self._then, self._waits = numbers, then, waits
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[int]:
        yield from self._numbers
        if self._waits:
            assert self.closed.wait(10)
        if self._then is not None:
            raise self._then

    def close(self) -> None:
        self.closed.set()


def merged(*sources: Numbers) -> Merge[int]:
    merge: Merge[int] = Merge()
    for source in sources:
        merge.add(source, lambda n: n * 10)
    return merge


def test_everything_comes_once_and_then_it_ends() -> None:
    assert sorted(n for n in merged(Numbers(1, 2), Numbers(), Numbers(3)).read() if n) == [10, 20, 30]


def test_the_error_of_one_source_is_the_readers_and_closes_the_others() -> None:
    quiet = Numbers(waits=True)
    with pytest.raises(ValueError, match="cut"):
        list(merged(Numbers(1, then=ValueError("cut")), quiet).read())
    assert quiet.closed.is_set()


def test_leaving_early_closes_all_and_an_error_after_that_is_nobodys() -> None:
    source = Numbers(1, then=ValueError("because it was closed"), waits=True)
    stream = merged(source).read()
    assert next(stream) == 10
    stream.close()  # type: ignore[attr-defined]
    assert source.closed.is_set()


def test_silence_is_told() -> None:
    merge = merged(Numbers(waits=True))
    assert next(merge.read(tick=0.01)) is None
    merge.close()


def test_a_source_may_join_while_others_are_read() -> None:
    merge = merged(Numbers(1))
    found = []
    for n in merge.read():
        found.append(n)
        if n == 10:
            merge.add(Numbers(2), lambda m: m * 10)
    assert found == [10, 20]
