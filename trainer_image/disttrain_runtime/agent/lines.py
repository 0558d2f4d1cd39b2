"""Cut a stream of bytes into lines, and remember its end. Pure."""

from __future__ import annotations

MAX_LINE = 16 * 1024
"""A longer line goes out in pieces: the container runtime splits it there anyway."""


class LineBuffer:
    """Bytes in, whole lines out."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._rest = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their newline."""
        self._rest += data
        *lines, rest = bytes(self._rest).split(b"\n")
        cut = [piece for line in lines for piece in self._pieces(line)]
        while len(rest) > self._limit:
            cut.append(rest[: self._limit])
            rest = rest[self._limit :]
        self._rest = bytearray(rest)
        return cut

    def flush(self) -> list[bytes]:
        """A last line that has no newline."""
        rest, self._rest = bytes(self._rest), bytearray()
        return [rest] if rest else []

    def _pieces(self, line: bytes) -> list[bytes]:
        return [line[i : i + self._limit] for i in range(0, len(line), self._limit)] or [b""]


class Tail:
    """The last bytes of a stream."""

    def __init__(self, limit: int) -> None:
        self._kept = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> None:
        """Remember these, forget the oldest."""
        self._kept += data
        if len(self._kept) > 2 * self._limit:  # not at every call: that would copy the tail for every line
            del self._kept[: -self._limit]

    def text(self) -> str:
        """What is remembered."""
        return self._kept[-self._limit :].decode("utf-8", "replace")
