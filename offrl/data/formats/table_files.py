"""Tables as columns by name: CSV read strictly, Parquet through pyarrow, data frames as they are.

Rows are counted from 0, without the header. A CSV cell is text until the column is known to be
numbers; an empty one is a missing value. A cell that an export guarded against spreadsheets
(`'=1+1`) loses its guard again.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from offrl.data.formats.sources import REMEDY
from offrl.errors import ConfigError, CorruptDataError

Table = dict[str, npt.NDArray[Any]]
RISKY = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the beginning of a formula
_DELIMITERS = (",", ";", "\t", "|")


def read_table(path: Path) -> Table:
    """Return the columns of a CSV or Parquet file; raises CorruptDataError naming the line."""
    with path.open("rb") as file:
        parquet = file.read(4) == b"PAR1"
    table = _parquet(path) if parquet else _csv(path)
    if not table or not len(next(iter(table.values()))):
        raise CorruptDataError(f"{path} has a header and no rows.", REMEDY)
    return table


def table_of_frame(frame: Any) -> Table:
    """Return the columns of a data frame (pandas, or one that has `columns` and `to_numpy`)."""
    try:
        table = {str(name): np.asarray(frame[name].to_numpy()) for name in frame.columns}
    except (AttributeError, TypeError, KeyError) as error:
        raise ConfigError(
            f"A {type(frame).__name__} is not a data frame.", "Give a pandas DataFrame."
        ) from error
    if len(table) < len(frame.columns):
        raise ConfigError("The data frame has two columns of one name.", "Rename one of them.")
    if not table or not len(frame):
        raise ConfigError("The data frame has no rows.", "Give at least one row.")
    for name, column in table.items():
        if column.ndim != 1:
            raise ConfigError(f"The column '{name}' is not one value per row.", "Split it.")
    return table


def guarded(text: str) -> str:
    """Return a cell that no spreadsheet runs: one that begins like a formula gets a quote first."""
    risky = text.startswith(RISKY) or (text[:1] == "'" and text[1:2] in (*RISKY, "'"))
    return f"'{text}" if risky else text


def unguarded(cell: str) -> str:
    """Return what `guarded` was given."""
    return cell[1:] if cell[:1] == "'" and cell[1:2] in (*RISKY, "'") and cell[1:2] else cell


def _csv(path: Path) -> Table:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = _rows(path, file)
            _, header = next(lines)
            names = [unguarded(cell.strip()) for cell in header]
            _check_names(path, names)
            cells: list[list[str]] = []
            for line, row in lines:
                if len(row) != len(names):
                    raise CorruptDataError(
                        f"{path}, line {line} (row {len(cells)}): {len(row)} cells, where the"
                        f" header has {len(names)}.",
                        "Correct the line; a text with a comma or a line break must be quoted.",
                    )
                cells.append(row)
    except UnicodeDecodeError as error:
        raise CorruptDataError(
            f"{path} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8."
        ) from error
    columns = zip(*cells, strict=True) if cells else ([] for _ in names)
    return {
        name: np.array([unguarded(cell) for cell in column], dtype=object)
        for name, column in zip(names, columns, strict=True)
    }


def _rows(path: Path, file: Any) -> Iterator[tuple[int, list[str]]]:
    """The lines that are not blank, with their numbers, the header first."""
    first = file.readline()
    file.seek(0)
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if any("\0" in cell for cell in row):
                raise csv.Error("a NUL byte")
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise CorruptDataError(f"{path}, line {reader.line_num}: {error}.", REMEDY) from error


def _check_names(path: Path, names: Sequence[str]) -> None:
    for name in names:
        if name and names.count(name) > 1:
            raise CorruptDataError(
                f"{path}: two columns are called '{name}'.", "Rename one of them."
            )


def _parquet(path: Path) -> Table:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigError(
            f"{path} is a Parquet table, and pyarrow is not installed.",
            "Install it: pip install 'offrl[arrow]'",
        ) from error
    try:
        read = pq.read_table(path)
        columns = [_numpy(read.column(i).combine_chunks(), pa) for i in range(read.num_columns)]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorruptDataError(f"{path} cannot be read: {error}.", REMEDY) from error
    _check_names(path, read.column_names)
    return dict(zip(read.column_names, columns, strict=True))


def _numpy(column: Any, pa: Any) -> npt.NDArray[Any]:
    kind = column.type
    plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if plain and column.null_count == 0:
        return column.to_numpy(zero_copy_only=False)
    if pa.types.is_floating(kind):
        return column.to_numpy(zero_copy_only=False)  # null becomes NaN
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return column.to_numpy(zero_copy_only=False)
    values = column.to_pylist()
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made
