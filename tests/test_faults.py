"""Every test that docs/faults.md names is there."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(?:(\w+)::)?(test_\w+)`")


@cache
def defined_in(path: str) -> set[tuple[str, str]]:
    """Class and name of each test of a file; the class of a plain function is ""."""
    body = ast.parse((ROOT / path).read_text()).body
    classes = [("", body), *((c.name, c.body) for c in body if isinstance(c, ast.ClassDef))]
    return {(c, f.name) for c, held in classes for f in held if isinstance(f, ast.FunctionDef)}


def test_every_row_of_the_page_names_tests_that_exist():
    page = (ROOT / "docs" / "faults.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith("| fault ")]
    assert len(rows) > 60
    for row in rows:
        named = NAMED.findall(row)
        assert named, row
        assert row.count("`tests/") == len(named), row
        for path, group, name in named:
            assert (group, name) in defined_in(path), f"{path}::{group}::{name}"
