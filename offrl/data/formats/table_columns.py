"""What the columns of a table are: numbers or choices, their values and their fills."""

import datetime
import fnmatch
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from offrl.data.columns import (
    MAX_CATEGORIES,
    Category,
    Column,
    Number,
    Value,
    as_numbers,
    finite,
    is_missing,
    number_of,
)
from offrl.data.formats.table_files import Table
from offrl.errors import ConfigError, CorruptDataError, suggest

Names = str | Sequence[str] | None
Fill = str | Mapping[str, Any] | None
_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")
RULES = ("mean", "median", "mode")


def listed(names: Names) -> list[str]:
    """Return names given as a list, or as text with commas between them."""
    given = names.split(",") if isinstance(names, str) else list(names or ())
    return [name.strip() for name in given if name.strip()]


def matching(table: Table, option: str, names: Names, *, taken: Iterable[str] = ()) -> list[str]:
    """Return the columns that names and patterns mean, in the order given.

    A pattern (`f_*`) passes over columns that are `taken` by something else; a name does not.
    Raises ConfigError for one that matches nothing.
    """
    found: dict[str, None] = {}
    for name in listed(names):
        if name in table:
            found[name] = None
            continue
        matched = [c for c in table if fnmatch.fnmatchcase(c, name) and c not in set(taken)]
        if not matched:
            raise ConfigError(
                f"{option}: the table has no column '{name}'.{suggest(name, table)}",
                f"It has {', '.join(list(table)[:20])}{' ...' if len(table) > 20 else ''}.",
            )
        found.update(dict.fromkeys(matched))
    return list(found)


def one_column(table: Table, option: str, name: str) -> npt.NDArray[Any]:
    """Return a column by its name; ConfigError suggests the nearest."""
    (found, *others) = matching(table, option, [name])
    if others:
        raise ConfigError(f"{option}: '{name}' means several columns.", "Name one.")
    return table[found]


def numeric(name: str, values: npt.NDArray[Any], rows: npt.NDArray[np.bool_] | None = None) -> Any:
    """Return a column as finite numbers; where `rows` is false a cell may be missing (NaN).

    Raises CorruptDataError naming column and row.
    """
    if values.dtype.kind == "M":
        raise CorruptDataError(
            f"The column '{name}' holds dates.", "Turn them into numbers, such as hours since one."
        )
    numbers, bad = as_numbers(values)
    if bad.size:
        raise CorruptDataError(
            f"The column '{name}' holds {values[bad[0]]!r} in row {bad[0]}, which is no number"
            f" ({bad.size} such).",
            "Correct the cell, or leave it empty where the value is missing.",
        )
    needed = np.ones(len(numbers), dtype=bool) if rows is None else rows
    missing = np.flatnonzero(np.isnan(numbers) & needed)
    if missing.size:
        raise CorruptDataError(
            f"The column '{name}' has no value in row {missing[0]} ({missing.size} such).",
            "Give one in every row.",
        )
    infinite = np.flatnonzero(np.isinf(numbers))
    if infinite.size:
        raise CorruptDataError(
            f"The column '{name}' is infinite in row {infinite[0]}.", "Give a finite number."
        )
    return numbers


def observation_columns(
    table: Table, names: Sequence[str], categories: Sequence[str], fill: Fill
) -> tuple[Column, ...]:
    """Return what each observation column is: numbers, or choices where its cells are text.

    Raises CorruptDataError naming column and row where numbers and text are mixed, or a value is
    missing that no fill stands for.
    """
    fills = _fills(names, fill)
    return tuple(_column(name, table[name], name in categories, fills.get(name)) for name in names)


def _fills(names: Sequence[str], fill: Fill) -> dict[str, Any]:
    if fill is None:
        return {}
    if isinstance(fill, str) and fill in RULES:
        return dict.fromkeys(names, fill)
    pairs: dict[str, Any] = {} if isinstance(fill, str) else dict(fill)
    for part in listed(fill) if isinstance(fill, str) else ():
        name, _, value = part.partition("=")
        pairs[name.strip()] = value.strip()
    for name, value in pairs.items():
        if name not in names:
            raise ConfigError(
                f"--fill: '{name}' is no observation column.{suggest(name, names)}",
                "Give mean, median or mode for all columns, or COLUMN=VALUE,COLUMN=median.",
            )
        if is_missing(value):
            raise ConfigError(f"--fill: '{name}' is filled by nothing.", "Give COLUMN=VALUE.")
    return pairs


def _column(name: str, values: npt.NDArray[Any], chosen: bool, fill: Any) -> Column:
    if values.dtype.kind == "M":
        numeric(name, values)
    if not chosen and values.dtype.kind not in "biuf":
        numbers, bad = as_numbers(values)
        good = int((~np.isnan(numbers)).sum())
        if bad.size and good:
            row = int(bad[0]) if bad.size <= good else int(np.flatnonzero(~np.isnan(numbers))[0])
            most = "numbers" if bad.size <= good else "text"
            raise CorruptDataError(
                f"The column '{name}' holds {values[row]!r} in row {row}, where most are {most}.",
                f"Correct the cell, or take the whole column as choices: --categories {name}",
            )
        chosen = bool(bad.size)
        if chosen and all(_COMMA.fullmatch(str(cell)) for cell in values[bad].tolist()):
            raise CorruptDataError(
                f"The column '{name}' holds {values[bad[0]]!r} in row {bad[0]}: a comma, where a"
                " number has a point.",
                f"Write the numbers with points, or take them as choices: --categories {name}",
            )
    if chosen:
        return _category(name, values, fill)
    numbers = numeric(name, values, np.zeros(len(values), dtype=bool))
    known = numbers[~np.isnan(numbers)]
    if not known.size:
        raise CorruptDataError(f"The column '{name}' is empty.", "Leave it out of --obs.")
    stand_in = None if fill is None else _number_fill(name, known, fill)
    if stand_in is None:
        _refuse_missing(name, np.isnan(numbers))
    return Number(name, stand_in)


def _number_fill(name: str, known: npt.NDArray[np.float64], fill: Any) -> float:
    if fill == "mean":
        return float(known.mean())
    if fill == "median":
        return float(np.median(known))
    if fill == "mode":
        values, counts = np.unique(known, return_counts=True)
        return float(values[counts.argmax()])
    try:
        number = float(fill)
    except (TypeError, ValueError):
        number = None
    if number is None or not finite(number):
        raise ConfigError(
            f"--fill: '{name}' holds numbers, and {fill!r} is none.",
            "Give a number, mean, median or mode.",
        )
    return number


def _category(name: str, values: npt.NDArray[Any], fill: Any) -> Category:
    cells = [None if is_missing(cell) else cell for cell in values.tolist()]
    known = [_plain(name, cell, row) for row, cell in enumerate(cells) if cell is not None]
    if not known:
        raise CorruptDataError(f"The column '{name}' is empty.", "Leave it out of --obs.")
    known = as_written(known)
    stand_in: Value | None = None
    if fill in RULES:
        stand_in = Counter(known).most_common(1)[0][0]
    elif fill is not None:
        stand_in = fill if isinstance(fill, int | float) else str(fill)
        number = number_of(stand_in) if isinstance(stand_in, str) else None
        if number is not None and not any(isinstance(value, str) for value in known):
            stand_in = number
    else:
        _refuse_missing(name, np.array([cell is None for cell in cells]))
    distinct = ordered({*known, *(() if stand_in is None else (stand_in,))})
    if len(distinct) > MAX_CATEGORIES:
        raise ConfigError(
            f"The column '{name}' has {len(distinct)} different values; at most"
            f" {MAX_CATEGORIES} can be choices.",
            "Leave it out of --obs, or turn it into numbers.",
        )
    return Category(name, distinct, stand_in)


def _refuse_missing(name: str, missing: npt.NDArray[np.bool_]) -> None:
    rows = np.flatnonzero(missing)
    if rows.size:
        raise CorruptDataError(
            f"The column '{name}' has no value in row {rows[0]} ({rows.size} such).",
            "Say what stands for it, for every later policy as well: --fill median, or"
            f" --fill {name}=VALUE",
        )


def require_scalar(name: str, row: int, cell: object) -> None:
    """Raise CorruptDataError where a cell is a list or another thing that is no one value."""
    if not isinstance(cell, str | int | float | np.generic | datetime.date):
        raise CorruptDataError(
            f"The column '{name}' holds a {type(cell).__name__} in row {row}.",
            "A cell is a text or a number.",
        )


def _plain(name: str, cell: object, row: int) -> Value:
    if isinstance(cell, np.generic):
        cell = cell.item()
    if isinstance(cell, bool):
        return int(cell)
    if isinstance(cell, str | int | float):
        return cell
    raise CorruptDataError(
        f"The column '{name}' holds a {type(cell).__name__} in row {row}.",
        "Choices are text or numbers.",
    )


def as_written(values: Sequence[Value]) -> list[Value]:
    """Return texts that are all numbers as those numbers, anything else as it is."""
    if not all(isinstance(value, str) for value in values):
        return list(values)
    numbers = [number_of(str(value)) for value in values]
    found = [number for number in numbers if number is not None]
    return found if len(found) == len(numbers) else list(values)


def ordered(values: Iterable[Value]) -> tuple[Value, ...]:
    """Return values in a fixed order: numbers by size, then texts by letter."""
    return tuple(sorted(values, key=lambda v: (1, v) if isinstance(v, str) else (0, v)))
