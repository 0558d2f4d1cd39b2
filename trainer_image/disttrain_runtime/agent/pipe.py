"""Read what a rank says on its pipe: one JSON object a line. Junk is counted and skipped, never trusted."""

from __future__ import annotations

from disttrain_contract.messages import MAX_MESSAGE_BYTES, RankBody, RankEvent, decode_rank_message


class RankPipe:
    """Bytes in, messages out."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False
        self.junk = 0
        """Lines that were not ours."""

    def feed(self, data: bytes) -> list[tuple[RankEvent, RankBody]]:
        """The messages that `data` completes."""
        *lines, rest = (self._rest + data).split(b"\n")
        messages = []
        for line in lines:
            if self._skipping:  # the end of a line that was too long
                self._skipping = False
            elif line:
                messages += self._read(line)
        if len(rest) > MAX_MESSAGE_BYTES:
            self.junk += not self._skipping
            self._skipping, rest = True, b""
        self._rest = rest
        return messages

    def _read(self, line: bytes) -> list[tuple[RankEvent, RankBody]]:
        try:
            if len(line) > MAX_MESSAGE_BYTES:
                raise ValueError("too long")
            return [decode_rank_message(line)]
        except ValueError:  # also UnicodeDecodeError
            self.junk += 1
            return []
