"""Tests that a page names, and whether they are there."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(?:(\w+)::)?(test_\w+)`")


@cache
def defined_in(path: str) -> set[tuple[str, str]]:
    """Class and name of each test of a file; the class of a plain function is ""."""
    if not (ROOT / path).is_file():
        return set()
    body = ast.parse((ROOT / path).read_text()).body
    classes = [("", body), *((c.name, c.body) for c in body if isinstance(c, ast.ClassDef))]
    return {(c, f.name) for c, held in classes for f in held if isinstance(f, ast.FunctionDef)}
