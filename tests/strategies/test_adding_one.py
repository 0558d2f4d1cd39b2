"""A stranger adds a strategy as docs/strategies/adding-one.md says: one file, one line, one test. Here it is done, and the test run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

pytestmark = [pytest.mark.torch, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "strategies" / "adding-one.md"
FILE, LINE, TEST = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
STRATEGIES = Path("trainer_image/disttrain_runtime/strategies")


def follow_the_page(tree: Path) -> None:
    """A copy of the tree with what the page says, and nothing else."""
    for part in ("trainer_image", "tests/distributed", "tests/support"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / part, tree / part)
    (tree / STRATEGIES / "one_message.py").write_text(FILE)
    registry = tree / STRATEGIES / "__init__.py"
    first, rest = re.split(r"(?<=\] = \{\n)", registry.read_text(), maxsplit=1)
    imports = "from disttrain_runtime.strategies.one_message import OneMessage\n"
    at = first.index("from disttrain_runtime.strategies.strategy")
    registry.write_text(first[:at] + imports + first[at:] + LINE + rest)
    (tree / "tests" / "strategies").mkdir()
    (tree / "tests" / "strategies" / "test_one_message.py").write_text(TEST)


def test_a_strategy_takes_one_file_one_line_and_one_test(tmp_path: Path) -> None:
    follow_the_page(tmp_path)
    path = os.pathsep.join(
        map(str, (tmp_path, tmp_path / "trainer_image", ROOT))
    )  # the last for what conftest.py needs
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/strategies/test_one_message.py"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_without_the_line_its_name_is_refused_and_those_that_exist_are_named(tmp_path: Path) -> None:
    """So the test above has tried the copy, and not a strategy that was there before."""
    from disttrain_runtime.strategies import STRATEGIES as REGISTRY

    assert "oneMessage" not in REGISTRY
