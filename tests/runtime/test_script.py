"""Run by us or by the interpreter: a program cannot tell, and neither can who reads its output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from disttrain_runtime.script import Program, can_run, parse

US = "import sys; from disttrain_runtime import script; script.leave(script.main([sys.executable, *sys.argv[1:]], {}))"
PROGRAMS = {
    "who am I": "import sys, os; print(__name__, __file__, sys.argv, sys.path[0], __doc__, __spec__ if False else '')",
    "ends well": "print('done')",
    "ends with a code": "import sys; sys.exit(3)",
    "ends with words": "raise SystemExit('not today')",
    "ends with nothing": "raise SystemExit",
    "raises": "def f():\n    raise ValueError('bad data')\n\nf()",
    "raises from another": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError('x') from e",
    "is not Python": "def f(:\n",
    "has exit handlers": "import atexit; atexit.register(print, 'bye')",
    "has a thread": "import threading, time; threading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start()",
    "imports a neighbour": "import neighbour; print(neighbour.NAME)",
    "is imported by pickle": "import sys\nclass A: pass\nprint(sys.modules['__main__'].A is A, A.__module__)",
    "starts children": "import multiprocessing as m\ndef f(x): return x + 1\n"
    "if __name__ == '__main__':\n    print(m.get_context('spawn').Pool(1).map(f, [1, 2]))",
}


def run(arguments: list[str], folder: Path, *, by_us: bool) -> tuple[int, str, str]:
    command = [sys.executable, *(["-c", US] if by_us else []), *arguments]
    ended = subprocess.run(command, cwd=folder, env=dict(os.environ), capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout, ended.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "neighbour.py").write_text("NAME = 'next door'")
    return tmp_path


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_file_behaves_as_under_the_interpreter(name: str, folder: Path) -> None:
    (folder / "code" / "train.py").write_text(PROGRAMS[name])
    words = ["code/train.py", "--lr", "0.1"]
    assert run(words, folder, by_us=True) == run(words, folder, by_us=False)


def test_a_module_behaves_as_under_the_interpreter(folder: Path) -> None:
    (folder / "code" / "__init__.py").write_text("")
    (folder / "code" / "train.py").write_text("import sys; print(__name__, __package__, sys.argv)")
    words = ["-m", "code.train", "x"]
    assert run(words, folder, by_us=True) == run(words, folder, by_us=False)


def test_a_file_that_is_not_there_is_told_in_the_interpreters_words(folder: Path) -> None:
    assert run(["code/no.py"], folder, by_us=True) == run(["code/no.py"], folder, by_us=False)


@pytest.mark.parametrize(
    ("argv", "program"),
    [
        (["python", "train.py", "--lr", "1"], Program("train.py", None, ("--lr", "1"))),
        (["python", "-u", "train.py"], Program("train.py", None, ())),
        (["python", "-u", "-m", "pkg.train", "-m"], Program(None, "pkg.train", ("-m",))),
        (["python", "-c", "print()"], None),
        (["python", "-O", "train.py"], None),
        (["python", "-"], None),
        (["python"], None),
        (["python", "folder"], None),
    ],
)
def test_only_what_is_understood_is_taken(argv: list[str], program: Program | None) -> None:
    assert parse(argv) == program


def test_only_our_own_interpreter_is_stood_for(tmp_path: Path) -> None:
    here = str(Path(sys.executable).parent)
    assert can_run([sys.executable, "train.py"], None)
    assert can_run(["python", "train.py"], here)
    assert not can_run(["bash", "train.py"], None)
    assert not can_run(["python", "train.py"], str(tmp_path)), "there is none on this PATH"
    (tmp_path / "python").symlink_to(sys.executable)
    assert not can_run(["python", "train.py"], str(tmp_path)), "another environment's, whatever it links to"
    assert not can_run([], None)
