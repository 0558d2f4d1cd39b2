"""Tell a person what is going on and for how long: a ticking line on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

# A terminal is redrawn often enough to look alive; a log gets a line at this distance, so that CI sees life.
TICK_SECONDS = 0.5
LOG_EVERY_SECONDS = 15.0
WIDTH = 110


def elapsed_text(seconds: float) -> str:
    """`8.2 s`, `3 min 07 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def line(name: str, note: str, seconds: float) -> str:
    """One status line, cut to the width of a common terminal."""
    text = f"  … {name}  {elapsed_text(seconds)}" + (f"  {note}" if note else "")
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


class Step:
    """A running piece of work; `note` says where it stands."""

    def __init__(self, name: str, out: TextIO) -> None:
        self.name = name
        self.note = ""
        self.out = out
        self.started = time.monotonic()
        self._done = threading.Event()
        self._terminal = out.isatty()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return time.monotonic() - self.started

    def start(self) -> None:
        """Begin to show it."""
        if self._terminal:
            self._draw()
        self._thread.start()

    def finish(self, mark: str, note: str = "") -> None:
        """Show how it ended, on a line that stays."""
        self._done.set()
        self._thread.join()
        clear = "\r\x1b[K" if self._terminal else ""
        tail = f"  {note}" if note else ""
        self.out.write(f"{clear}  {mark} {self.name}  {elapsed_text(self.seconds)}{tail}\n")
        self.out.flush()

    def _tick(self) -> None:
        while not self._done.wait(TICK_SECONDS if self._terminal else LOG_EVERY_SECONDS):
            self._draw()

    def _draw(self) -> None:
        text = line(self.name, self.note, self.seconds)
        self.out.write(f"\r\x1b[K{text}" if self._terminal else f"{text}\n")
        self.out.flush()


@contextmanager
def step(name: str, out: TextIO | None = None) -> Iterator[Step]:
    """Show a piece of work while it runs, and its time when it ends."""
    current = Step(name, out or sys.stdout)
    current.start()
    try:
        yield current
    except BaseException:
        current.finish("✗")
        raise
    current.finish("✓", current.note)


def say(text: str) -> None:
    """A line that stays."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
