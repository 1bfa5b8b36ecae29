"""The page "What survives what": each of its rows names a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "what-survives.md").read_text()
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)


@pytest.mark.parametrize(("file", "test"), NAMED, ids=[test for _, test in NAMED])
def test_every_test_that_the_page_names_exists(file: str, test: str) -> None:
    module = ast.parse((ROOT / "tests" / file).read_text())

    assert test in {node.name for node in module.body if isinstance(node, ast.FunctionDef)}


def test_every_row_of_a_table_of_faults_names_one_test() -> None:
    tables = re.split(r"^\| fault \|.*\n\|[-|]+\|\n", PAGE, flags=re.MULTILINE)[1:]
    rows = [row for table in tables for row in table.split("\n\n")[0].splitlines()]

    assert len(rows) > 30
    assert not [row for row in rows if not re.search(r"\| `[\w/]+\.py::\w+` \|$", row)]
    assert len(rows) == len(NAMED)
