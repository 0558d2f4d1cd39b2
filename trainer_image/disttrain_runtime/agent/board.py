"""One rank's page, in the agent's memory: made before the rank, read while it lives."""

from __future__ import annotations

import mmap
import os

from disttrain_runtime.pulse import PAGE, Beat, read

MAX_STACKS = 256 * 1024
"""Of text: hundreds of threads."""


class Board:
    """A file without a name. The rank opens it through /proc: same user, same pod."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("rank")
        try:
            os.ftruncate(self._fd, PAGE)
            self._page = mmap.mmap(self._fd, PAGE)
        except OSError:
            os.close(self._fd)
            raise

    @property
    def path(self) -> str:
        """Where the rank finds it. It maps the page at its start; afterwards nothing depends on the path."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def beat(self) -> Beat | None:
        """The newest sign of life. None: there was none; the rank is a script, or still imports."""
        return read(self._page)

    def stacks(self) -> str:
        """What the rank wrote behind the page when it was asked for its stacks."""
        return os.pread(self._fd, MAX_STACKS, PAGE).decode(errors="replace")

    def clear_stacks(self) -> None:
        """Before asking again."""
        os.ftruncate(self._fd, PAGE)

    def close(self) -> None:
        """The rank is gone."""
        self._page.close()
        os.close(self._fd)
