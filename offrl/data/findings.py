"""One finding of the check, and how a place in a dataset is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Found:
    """One finding: the code of the rule, the column, what is wrong, where, how many values."""

    code: str
    field: str
    message: str
    place: str = ""
    count: int = 1
    minor: bool = False  # a note, whatever the rule says


def place(number: int, step: Any) -> str:
    """Return a step of an episode as it is written in a report."""
    return f"episode {number} step {int(step)}"


def listed(columns: Any, names: Sequence[str] | None = None, most: int = 8) -> str:
    """Return columns as text, by their names where they have any, the first ones of many."""
    shown = ", ".join(column_name(int(column), names) for column in columns[:most])
    return f"{shown} ..." if len(columns) > most else shown


def column_name(column: int, names: Sequence[str] | None) -> str:
    """Return a column by its name in the table that it came from, else by its number."""
    return str(column) if names is None else f"'{names[column]}'"
