"""Several endless iterables as one: a thread each, one queue."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

S_co = TypeVar("S_co", covariant=True)
S = TypeVar("S")
T = TypeVar("T")


class Source(Protocol[S_co]):
    """An iterable that can be ended from another thread."""

    def __iter__(self) -> Iterator[S_co]: ...

    def close(self) -> None:
        """End the iteration."""


class _End:
    """A source has ended, perhaps with an error."""

    def __init__(self, problem: BaseException | None) -> None:
        self.problem = problem


class Merge(Generic[T]):
    """What the sources give, in the order in which it comes."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[T] | _End] = queue.SimpleQueue()
        self._closers: list[Callable[[], None]] = []
        self._open = 0
        self._closed = False

    @property
    def open_sources(self) -> int:
        """How many have not ended."""
        return self._open

    def add(self, source: Source[S], convert: Callable[[S], T]) -> None:
        """Start reading a source; also while the merge is being read."""
        self._open += 1
        self._closers.append(source.close)
        threading.Thread(target=self._pump, args=(source, convert), daemon=True).start()

    def read(self, tick: float | None = None) -> Iterator[T | None]:
        """Until all sources have ended or one has failed; None whenever nothing has come for `tick` seconds."""
        try:
            while self._open:
                try:
                    found = self._queue.get(timeout=tick)
                except queue.Empty:
                    yield None
                    continue
                if not isinstance(found, _End):
                    yield found[0]
                    continue
                self._open -= 1
                if found.problem is not None:
                    raise found.problem
        finally:
            self.close()

    def close(self) -> None:
        """End all sources; their threads follow as soon as their connections are closed."""
        self._closed = True
        for close in self._closers:
            close()

    def _pump(self, source: Source[S], convert: Callable[[S], T]) -> None:
        problem: BaseException | None = None
        try:
            for found in source:
                if self._closed:
                    break
                self._queue.put((convert(found),))
        except BaseException as caught:  # handed to the reader's thread
            problem = caught
        self._queue.put(_End(problem))
