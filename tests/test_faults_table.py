"""docs/faults.md is true as far as a test can tell: every fault has a test, and the tests exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TABLE = TESTS.parent / "docs" / "faults.md"

ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in TABLE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| fault ")
]


@cache
def functions_of(name):
    """The tests of a module that are run; none that is always skipped."""
    tree = ast.parse((TESTS / name).read_text(encoding="utf-8"))
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and not any("mark.skip(" in ast.unparse(mark) for mark in node.decorator_list)
    }


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:40] for row in ROWS])
def test_every_fault_has_a_test_that_exists(row):
    assert len(row) == 3 and all(row)
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row[2])
    assert named, "no test is named"
    for module, test in named:
        assert test in functions_of(module), f"there is no {module}::{test}"


def test_every_line_of_the_list_of_faults_is_there(shared_data):
    """A line may have become several rows."""
    lines = (shared_data / "FAULTS.md").read_text().splitlines()
    faults = [line for line in lines if line.startswith("- ")]
    assert len(ROWS) >= len(faults) > 40


def test_nothing_is_named_twice():
    assert len({row[0] for row in ROWS}) == len(ROWS) > 60
