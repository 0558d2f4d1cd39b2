"""docs/faults.md names tests that exist, says nothing twice, and counts right."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "faults.md").read_text()
NAME = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
REASONS = ("Not tested yet: ", "Cannot be made here because ")


class Row(NamedTuple):
    """One line of the tables."""

    number: str
    fault: str
    does: str
    proven: str
    tests: str


ROWS = [Row(*line.strip("| ").split(" | ")) for line in TEXT.splitlines() if re.match(r"\| \d", line)]


@cache
def functions(file: str) -> frozenset[str]:
    """The tests that a file defines outside of classes."""
    body = ast.parse((ROOT / file).read_text()).body
    return frozenset(node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_fault_is_there_once_and_in_order() -> None:
    assert [row.number for row in ROWS] == [str(number) for number in range(1, 75)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.number)
def test_every_test_that_is_named_exists(row: Row) -> None:
    assert row.tests.count("`tests/") == row.tests.count("::") == len(NAME.findall(row.tests))
    for file, name in NAME.findall(row.tests):
        assert (ROOT / file).is_file(), file
        assert name.startswith("test_") and name in functions(file), f"{file} defines no {name}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.number)
def test_what_is_proven_has_a_test_and_what_is_not_has_a_reason(row: Row) -> None:
    named, reason = bool(NAME.search(row.tests)), any(start in row.tests for start in REASONS)
    assert (named, reason) == {"yes": (True, False), "half": (True, True), "no": (False, True)}[row.proven]
    assert row.proven != "no" or row.tests.startswith(REASONS)


def test_the_count_at_the_top_is_that_of_the_rows() -> None:
    count = Counter(row.proven for row in ROWS)
    said = f"Of the 74 faults {count['yes']} are proven by a test, {count['half']} partly, {count['no']} not."
    assert said in TEXT, f"write: {said}"
