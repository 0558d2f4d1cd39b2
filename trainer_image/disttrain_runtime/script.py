"""A user's own program, run in a process that has torch imported already: what `python train.py` would do, only sooner.

Used by the warm parent in place of `disttrain_runtime.worker`. It knows two ways to start Python, a file and a module,
and only with options that make no difference once the interpreter runs. Everything else is executed as it stands.
"""

from __future__ import annotations

import runpy
import shutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType

HARMLESS = frozenset({"-u"})
"""Unbuffered output: ranks have it anyway."""


@dataclass(frozen=True, slots=True)
class Program:
    """What follows the interpreter on a command line."""

    file: str | None
    module: str | None
    arguments: tuple[str, ...]


def parse(argv: Sequence[str]) -> Program | None:
    """`python [-u] file.py …` or `python [-u] -m package.module …`. None: something else."""
    words = list(argv[1:])
    while words and words[0] in HARMLESS:
        words.pop(0)
    if len(words) >= 2 and words[0] == "-m":
        return Program(None, words[1], tuple(words[2:]))
    if words and not words[0].startswith("-") and words[0].endswith(".py"):
        return Program(words[0], None, tuple(words[1:]))
    return None


def can_run(argv: Sequence[str], path: str | None) -> bool:
    """Whether this command starts the very interpreter that runs us. `path` is the PATH it is looked for in."""
    found = shutil.which(argv[0], path=path) if argv else None
    # Compared as they are called, not where links lead: a virtual environment is a link to another's interpreter.
    return found is not None and parse(argv) is not None and _same(found, sys.executable)


def main(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run it as `__main__`. Its exit code; a traceback is printed as the interpreter prints it."""
    program = parse(argv)
    assert program is not None, "checked before it was asked for"
    try:
        _run(program)
    except SystemExit as error:
        return _code(error)
    except BaseException as error:
        _forget_ourselves(error)
        traceback.print_exception(error)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def leave(code: int) -> None:
    """As every Python program ends: threads are waited for, exit handlers run."""
    raise SystemExit(code)


def _run(program: Program) -> None:
    if program.module is not None:
        sys.path[0] = str(Path.cwd())
        sys.argv = [program.module, *program.arguments]
        runpy.run_module(program.module, run_name="__main__", alter_sys=True)
        return
    assert program.file is not None
    path = Path(program.file)
    sys.path[0] = str(path.resolve().parent)
    sys.argv = [program.file, *program.arguments]
    main_module = ModuleType("__main__")
    main_module.__file__ = str(path.absolute())
    main_module.__builtins__ = __builtins__  # type: ignore[attr-defined]
    sys.modules["__main__"] = main_module
    try:
        source = path.read_bytes()
    except OSError as error:  # the interpreter's own words, which tell a missing file from a failing program
        sys.stderr.write(
            f"{sys.executable}: can't open file '{path.absolute()}': [Errno {error.errno}] {error.strerror}\n"
        )
        raise SystemExit(2) from None
    exec(compile(source, path.absolute(), "exec"), main_module.__dict__)  # noqa: S102 - it is what we are for


def _code(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    sys.stderr.write(f"{error.code}\n")
    return 1


def _forget_ourselves(error: BaseException) -> None:
    """Our own frames are not the user's business."""
    ours = {__file__, runpy.__file__}
    frame: TracebackType | None = error.__traceback__
    while frame is not None and (frame.tb_frame.f_code.co_filename in ours or _frozen(frame)):
        frame = frame.tb_next
    error.__traceback__ = frame


def _frozen(frame: TracebackType) -> bool:
    return frame.tb_frame.f_code.co_filename.startswith("<frozen")


def _same(one: str, other: str) -> bool:
    here, there = Path(one), Path(other)
    return here.parent.samefile(there.parent) and here.samefile(there)
