"""One finding of the check, and how a place in a dataset is written."""

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


def listed(columns: Any, most: int = 8) -> str:
    """Return column numbers as text, the first ones of many."""
    shown = ", ".join(str(int(column)) for column in columns[:most])
    return f"{shown} ..." if len(columns) > most else shown
