"""The actions of a table: choices by text or whole numbers, amounts by numbers; and their masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from offrl.data.columns import Category, Column, Number, Value, as_numbers, is_missing, number_of
from offrl.data.formats.bounds import Bounds, action_space_of
from offrl.data.formats.table_columns import (
    as_written,
    listed,
    numeric,
    ordered,
    require_scalar,
)
from offrl.data.formats.table_files import Table
from offrl.errors import ConfigError, CorruptDataError, suggest

_MASK_MARKS = " ,;[]|"


@dataclass(frozen=True)
class Actions:
    """The actions of every row that has one, what they were called, and the space they are in."""

    values: npt.NDArray[Any]  # [N] or [N, K]; of a row without an action: 0
    columns: tuple[Column, ...]
    space: spaces.Space[Any]
    notes: tuple[str, ...] = ()

    @property
    def first(self) -> int:
        """The number of the first choice."""
        return int(self.space.start) if isinstance(self.space, spaces.Discrete) else 0


def actions_of(
    table: Table,
    names: Sequence[str],
    taken: npt.NDArray[np.bool_],
    values: str | Sequence[Value] | None,
    bounds: Bounds | None,
) -> Actions:
    """Return the actions; `taken` tells the rows that have one.

    Raises CorruptDataError naming column and row of an action that is none.
    """
    (name, *others) = names
    column = table[name]
    if not others and (values is not None or _are_choices(column, taken)):
        if bounds is not None:
            raise ConfigError(
                f"--action-bounds: the column '{name}' holds choices, which have no bounds.",
                "Leave it out; amounts are written with a decimal point.",
            )
        return _choices(name, column, taken, values)
    if values is not None:
        raise ConfigError(
            "--action-values: several columns hold amounts, not choices.", "Leave it out."
        )
    amounts = np.stack([numeric(n, table[n], taken) for n in names], axis=1)
    space, notes = action_space_of(amounts, None, bounds, unit=False)
    columns = tuple(Number(n) for n in names)
    return Actions(np.nan_to_num(amounts), columns, space, tuple(notes))


def _are_choices(column: npt.NDArray[Any], taken: npt.NDArray[np.bool_]) -> bool:
    """Whole numbers and text are choices; numbers with a decimal point are amounts."""
    if column.dtype.kind in "biu":
        return True
    if column.dtype.kind == "f":
        return False
    for cell in column[taken].tolist():
        if isinstance(cell, str):
            if isinstance(number_of(cell), float):
                return not np.isfinite(as_numbers(column[taken])[0]).all()
        elif isinstance(cell, float | np.floating):
            return False
    return True


def _choices(
    name: str,
    column: npt.NDArray[Any],
    taken: npt.NDArray[np.bool_],
    declared: str | Sequence[Value] | None,
) -> Actions:
    cells = column[taken].tolist()
    for row, cell in zip(np.flatnonzero(taken).tolist(), cells, strict=True):
        if is_missing(cell):
            raise CorruptDataError(
                f"The column '{name}' has no value in row {row}.", "Give the action of every row."
            )
        require_scalar(name, row, cell)
    given = as_written([_choice(cell) for cell in cells])
    allowed = None if declared is None else declared_values(declared)
    distinct = ordered(set(given)) if allowed is None else allowed
    unknown = set(given) - set(distinct)
    if unknown:
        first = next(i for i, value in enumerate(given) if value in unknown)
        row = int(np.flatnonzero(taken)[first])
        raise CorruptDataError(
            f"The column '{name}' holds {given[first]!r} in row {row}, which is none of the action"
            " values.",
            "Name every choice in --action-values."
            f"{suggest(str(given[first]), map(str, distinct))}",
        )
    notes = []
    if allowed is None:
        notes.append(
            f"the {len(distinct)} values of '{name}' that occur are all the choices there are;"
            " --action-values names others"
        )
    number = {value: i for i, value in enumerate(distinct)}
    codes = np.zeros(len(column), dtype=np.int64)
    codes[taken] = [number[value] for value in given]
    whole = all(isinstance(value, int) for value in distinct)
    if whole and list(distinct) == list(range(int(distinct[0]), int(distinct[0]) + len(distinct))):
        start = int(distinct[0])
        space = spaces.Discrete(len(distinct), start=start)
        return Actions(codes + start, (Number(name),), space, tuple(notes))
    return Actions(codes, (Category(name, distinct),), spaces.Discrete(len(distinct)), tuple(notes))


def _choice(cell: Any) -> Value:
    """A cell as a choice; a frame turns whole numbers beside a missing one into floats."""
    if isinstance(cell, bool | np.integer):
        return int(cell)
    return int(cell) if isinstance(cell, float) and cell.is_integer() else cell


def declared_values(declared: str | Sequence[Value]) -> tuple[Value, ...]:
    """Return the choices that `0-33`, `a,b,c` or a sequence means, in the order given."""
    if not isinstance(declared, str):
        values = tuple(declared)
    else:
        first, dash, last = declared.partition("-")
        if dash and first.strip().isdecimal() and last.strip().isdecimal():
            values: tuple[Value, ...] = tuple(range(int(first), int(last) + 1))
        else:
            values = tuple(as_written(listed(declared)))
    if not values or len(set(values)) < len(values):
        raise ConfigError(
            f"--action-values: {declared!r} names no value, or one twice.",
            "Give 0-33, or drug A,drug B,none.",
        )
    return values


def masks_of(
    table: Table, names: Sequence[str], taken: npt.NDArray[np.bool_], actions: Actions
) -> npt.NDArray[np.bool_]:
    """Return which actions each row allowed, [N, n]: one column of 0 and 1 in a row, or n columns.

    Raises CorruptDataError naming the row of a mask that does not fit, or forbids what was done.
    """
    if not isinstance(actions.space, spaces.Discrete):
        raise ConfigError("--action-mask: the actions are amounts.", "Leave it out.")
    n, rows = int(actions.space.n), np.flatnonzero(taken).tolist()
    masks = np.zeros((len(taken), n), dtype=bool)
    if len(names) > 1:
        if len(names) != n:
            raise ConfigError(
                f"--action-mask: {len(names)} columns were named, and there are {n} actions.",
                "Name one column for each action, in the order of the actions.",
            )
        cells = np.stack([numeric(name, table[name], taken) for name in names], axis=1)
        wrong = np.flatnonzero(taken & ((cells != 0) & (cells != 1)).any(axis=1))
        if wrong.size:
            raise _bad_mask(names[0], int(wrong[0]), "holds something other than 0 and 1", n)
        masks[taken] = cells[taken] == 1
    else:
        (name,) = names
        for row in rows:
            masks[row] = _mask(name, row, table[name][row], n)
    forbidden = [row for row in rows if not masks[row, int(actions.values[row]) - actions.first]]
    if forbidden:
        raise CorruptDataError(
            f"The action of row {forbidden[0]} is one that its mask forbids"
            f" ({len(forbidden)} such).",
            "Correct the mask; an action that was taken was possible.",
        )
    return masks


def _mask(name: str, row: int, cell: Any, n: int) -> list[bool]:
    if isinstance(cell, str):
        marks = [mark for mark in cell if mark not in _MASK_MARKS]
    elif isinstance(cell, Sequence) or np.ndim(cell) == 1:
        marks = [str(int(bool(mark))) for mark in cell]
    else:
        raise _bad_mask(name, row, f"is {cell}", n)
    if len(marks) != n or not set(marks) <= {"0", "1"}:
        raise _bad_mask(name, row, f"is {cell!r}", n)
    return [mark == "1" for mark in marks]


def _bad_mask(name: str, row: int, what: str, n: int) -> CorruptDataError:
    return CorruptDataError(
        f"The mask '{name}' {what} in row {row}.", f"Give {n} marks, 0 or 1, such as {'1' * n}."
    )
