"""What `docs/guarantees.md` promises names its tests; here they are looked for."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(product_sync_tests/[\w/]+\.py)::(\w+)`", PAGE)))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_the_test_that_shows_a_promise_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_promise_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if re.match(r"\| \d+[a-z]? \|", line)]
    numbers = [row.split("|")[1].strip() for row in rows]
    assert [each for each in numbers if each.isdigit()] == [str(number + 1) for number in range(26)]
    assert all(re.search(r"`product_sync_tests/[\w/]+\.py::test_\w+`", row) for row in rows)


def test_the_reports_that_it_points_to_are_there() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).is_file(), link
