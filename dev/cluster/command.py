"""Run a program; when it fails, say which one, how, and what it printed last."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# Enough of a failing program's output to see the cause, not so much that it hides it.
LAST_LINES = 15


class Trouble(Exception):
    """Something a person must act on; its text says what and how. Shown without a traceback."""


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    check: bool = True,
) -> str:
    """Run to the end and return stdout; a failure raises with the last lines of both streams."""
    done = subprocess.run(argv, env=_merged(env), cwd=cwd, input=stdin, capture_output=True, text=True)
    if check and done.returncode != 0:
        raise _failed(argv, done.returncode, (done.stderr + done.stdout).splitlines())
    return done.stdout


def stream(
    argv: Sequence[str],
    on_line: Callable[[str], None],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
) -> None:
    """Run to the end, handing over every output line as it comes (and keeping it in `log`)."""
    last: deque[str] = deque(maxlen=LAST_LINES)
    with (
        subprocess.Popen(
            argv, env=_merged(env), cwd=cwd, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process,
        (log or Path(os.devnull)).open("a") as kept,
    ):  # fmt: skip
        assert process.stdout is not None
        try:
            for raw in process.stdout:
                kept.write(raw)
                last.append(raw.rstrip())
                on_line(raw.rstrip())
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        raise _failed(argv, process.returncode, list(last))


def succeeds(argv: Sequence[str]) -> bool:
    """Whether the program exists and exits 0."""
    try:
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    except OSError:
        return False


def _merged(env: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if env is None else {**os.environ, **env}


def _failed(argv: Sequence[str], code: int, lines: list[str]) -> Trouble:
    shown = "\n".join(f"    {text[:300]}" for text in lines[-LAST_LINES:])
    return Trouble(f"{shlex.join(argv)[:300]}\n  exited with {code}:\n{shown}")
