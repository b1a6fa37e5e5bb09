"""Columns: what a table's observations and actions were called, and how they became numbers.

    age  weight  city  |  treatment            numbers     age, weight         Box [2]
    61   80.5    Bern  |  drug A        ->     categories  city: Basel, Bern   MultiDiscrete [2]
    47           Basel |  none                 action      drug A, none        Discrete(2)

The description stays with the dataset and with every policy trained on it: both then take and give
the values of the table, with the same categories and the same fills for what is missing.
"""

import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from offrl.errors import ConfigError, CorruptDataError, suggest

NUMBERS, CATEGORIES = "numbers", "categories"
MAX_CATEGORIES = 10_000
Value = str | int | float
Raw = Mapping[str, npt.NDArray[Any]]  # the columns of a table by name


@dataclass(frozen=True)
class Number:
    """A column of numbers; `fill` stands for a missing one."""

    name: str
    fill: float | None = None

    def encode(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return the numbers, missing ones filled; ConfigError names column and row."""
        numbers, bad = as_numbers(values)
        if bad.size:
            raise ConfigError(
                f"The column '{self.name}' holds {values[bad[0]]!r} in row {bad[0]}.",
                "Give a number.",
            )
        missing = np.flatnonzero(np.isnan(numbers))
        if missing.size and self.fill is None:
            raise ConfigError(
                f"The column '{self.name}' has no value in row {missing[0]}.",
                "Give one; the data that it was learned from had no missing values there.",
            )
        if missing.size:
            numbers = numbers.copy()
            numbers[missing] = self.fill
        return numbers


@dataclass(frozen=True)
class Category:
    """A column of choices among `values`; `fill` stands for a missing one."""

    name: str
    values: tuple[Value, ...]
    fill: Value | None = None

    def encode(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Return the number of each value; ConfigError names column, row and unknown value."""
        known = {value: number for number, value in enumerate(self.values)}
        codes = np.empty(len(values), dtype=np.int64)
        for row, given in enumerate(values.tolist()):
            value = self.fill if is_missing(given) else given
            code = None if value is None else known.get(value)
            if code is None and isinstance(value, str):
                number = number_of(value)  # 3 may come as "3"
                code = None if number is None else known.get(number)
            if code is None:
                raise self._unknown(row, given)
            codes[row] = code
        return codes

    def _unknown(self, row: int, given: object) -> ConfigError:
        if is_missing(given):
            return ConfigError(
                f"The column '{self.name}' has no value in row {row}.",
                "Give one; the data that it was learned from had no missing values there.",
            )
        shown = ", ".join(str(value) for value in self.values[:8])
        return ConfigError(
            f"The column '{self.name}' holds {given!r} in row {row}, which is none of its"
            f" {len(self.values)} values.",
            f"Its values are {shown}{' ...' if len(self.values) > 8 else ''}."
            f"{suggest(str(given), map(str, self.values))}",
        )

    def decode(self, codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the value of each number."""
        return np.array(self.values, dtype=self.dtype)[codes]

    @property
    def dtype(self) -> type:
        """The type of an array of these values."""
        kinds = {type(value) for value in self.values}
        return kinds.pop() if kinds in ({int}, {float}) else object


Column = Number | Category


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are the observation and the action, in their order."""

    obs: tuple[Column, ...]
    action: tuple[Column, ...]

    def __post_init__(self) -> None:
        for column in self.obs:
            if column.name in (NUMBERS, CATEGORIES):
                raise ConfigError(
                    f"An observation column cannot be called '{column.name}'.", "Rename it."
                )

    @property
    def numbers(self) -> tuple[Number, ...]:
        """The observation columns that are numbers."""
        return tuple(column for column in self.obs if isinstance(column, Number))

    @property
    def categories(self) -> tuple[Category, ...]:
        """The observation columns that are choices."""
        return tuple(column for column in self.obs if isinstance(column, Category))

    @property
    def flat_names(self) -> tuple[str, ...]:
        """What each column of `obs` is: `age`, or `ward=B` for a choice in its one-hot form."""
        choices = (f"{c.name}={value}" for c in self.categories for value in c.values)
        return (*(column.name for column in self.numbers), *choices)

    def describe(self, discrete: bool) -> list[dict[str, Any]]:
        """Return each column's name, role, kind, values and stand-in for a missing value."""
        roles = (("observation", self.obs), ("action", self.action))
        return [
            {
                "name": column.name,
                "role": role,
                "kind": "choices"
                if isinstance(column, Category) or (discrete and role == "action")
                else "number",
                "values": list(column.values) if isinstance(column, Category) else None,
                "fill": column.fill,
            }
            for role, columns in roles
            for column in columns
        ]

    def observation_space(self) -> spaces.Space[Any]:
        """Return a Box for the numbers, a MultiDiscrete for the choices, a Dict for both."""
        parts: OrderedDict[str, spaces.Space[Any]] = OrderedDict()
        if self.numbers:
            parts[NUMBERS] = spaces.Box(-np.inf, np.inf, (len(self.numbers),), np.float64)
        if self.categories:
            parts[CATEGORIES] = spaces.MultiDiscrete([len(c.values) for c in self.categories])
        return spaces.Dict(parts) if len(parts) > 1 else next(iter(parts.values()))

    def encode_obs(self, given: Any) -> Any:
        """Return an observation, or N of them, as the observation space has it.

        `given` is a mapping from column names to values, or to columns of N values, such as a row
        or a frame of the table; one that is in the space's form already is returned as it is.
        Raises ConfigError naming the column that is missing or holds what the data never had.
        """
        raw = self._named(given)
        if raw is None:
            return given
        columns = {}
        for column in self.obs:
            if column.name not in raw:
                raise ConfigError(
                    f"The observation has no column '{column.name}'.{suggest(column.name, raw)}",
                    f"It needs {', '.join(column.name for column in self.obs)}.",
                )
            columns[column.name] = _values(raw[column.name])
        single = all(values.ndim == 0 for values in columns.values())
        rows = {len(values) for values in columns.values() if values.ndim}
        if len(rows) > 1:
            raise ConfigError(
                f"The columns of the observation have {sorted(rows)} rows.", "Give one length."
            )
        n = 1 if single else rows.pop()
        whole = {
            name: values if values.ndim else np.full(n, values[()], dtype=values.dtype)
            for name, values in columns.items()
        }
        parts = self.encode_columns(whole)
        return _first(parts) if single else parts

    def encode_columns(self, raw: Raw) -> Any:
        """Return the observation columns of a table as the space has them, N rows each."""
        parts: dict[str, Any] = {}
        if self.numbers:
            parts[NUMBERS] = np.stack([c.encode(raw[c.name]) for c in self.numbers], axis=1)
        if self.categories:
            parts[CATEGORIES] = np.stack([c.encode(raw[c.name]) for c in self.categories], axis=1)
        return parts if len(parts) > 1 else next(iter(parts.values()))

    def decode_obs(self, observations: Any) -> dict[str, npt.NDArray[Any]]:
        """Return N observations in the space's form as the columns of the table."""
        both = isinstance(observations, Mapping)
        numbers = observations[NUMBERS] if both else observations
        choices = observations[CATEGORIES] if both else observations
        found: dict[str, npt.NDArray[Any]] = {}
        for column in self.obs:
            if isinstance(column, Number):
                found[column.name] = numbers[:, self.numbers.index(column)]
            else:
                found[column.name] = column.decode(choices[:, self.categories.index(column)])
        return found

    def encode_actions(self, actions: Any) -> Any:
        """Return N actions of the table as the action space has them."""
        (first, *others) = self.action
        if others or not isinstance(first, Category):
            return actions
        return first.encode(_values(actions))

    def decode_actions(self, actions: Any) -> Any:
        """Return one action or N of them, as the action space has them, as the table has them."""
        (first, *others) = self.action
        if others or not isinstance(first, Category):
            return actions
        if np.ndim(actions) == 0:
            return first.values[int(actions)]
        return first.decode(np.asarray(actions))

    def _named(self, given: Any) -> Mapping[str, Any] | None:
        if hasattr(given, "columns") and hasattr(given, "__getitem__"):  # a data frame
            return {str(name): given[name] for name in given.columns}
        if hasattr(given, "index") and hasattr(given, "to_dict"):  # a row of one
            given = given.to_dict()
        if not isinstance(given, Mapping) or set(given) == {NUMBERS, CATEGORIES}:
            return None
        return given

    def to_json(self) -> str:
        """Return the description as JSON text, as metadata.json and a checkpoint keep it."""
        described = {
            key: [_described(column) for column in getattr(self, key)] for key in ("obs", "action")
        }
        return json.dumps(described, allow_nan=False)

    @classmethod
    def from_json(cls, text: object) -> "Columns":
        """Return what `to_json` wrote; raises CorruptDataError for anything else."""
        try:
            described = json.loads(text) if isinstance(text, str) else {}
            return cls(*(tuple(map(_column, described[key])) for key in ("obs", "action")))
        except (TypeError, ValueError, KeyError, RecursionError, ConfigError) as error:
            raise CorruptDataError(
                f"The description of the table's columns cannot be read ({error}).",
                "Import the table again.",
            ) from error


def _described(column: Column) -> dict[str, Any]:
    values = {"values": list(column.values)} if isinstance(column, Category) else {}
    fill = {} if column.fill is None else {"fill": column.fill}
    return {"name": column.name, **values, **fill}


def _column(described: Any) -> Column:
    name, fill, values = described["name"], described.get("fill"), described.get("values")
    given = [*(values or ()), *(() if fill is None else (fill,))]
    if not isinstance(name, str) or any(
        isinstance(v, bool) or not isinstance(v, str | int | float) for v in given
    ):
        raise ValueError(f"the column {name!r} is not described by text and numbers")
    if values is None:
        return Number(name, None if fill is None else float(fill))
    if not 1 <= len(values) <= MAX_CATEGORIES:
        raise ValueError(f"the column {name!r} has {len(values)} values")
    return Category(name, tuple(values), fill)


_NO_VALUE = ("NAType", "NaTType")  # what pandas puts where nothing is


def is_missing(value: object) -> bool:
    """Return whether a cell holds nothing: None, NaN, NaT, NA, or empty text."""
    if isinstance(value, float | np.floating):
        return bool(np.isnan(value))
    if isinstance(value, np.datetime64):
        return bool(np.isnat(value))
    return (
        value is None or type(value).__name__ in _NO_VALUE or (isinstance(value, str) and not value)
    )


def number_of(text: str) -> Value | None:
    """Return the number that a text is, an int where it is written as one, None for no number."""
    try:
        return int(text) if text.strip().lstrip("+-").isdecimal() else float(text)
    except ValueError:
        return None


_NOTHING = {"", "nan", "na", "n/a", "null", "none", "<na>"}


def as_numbers(
    values: npt.NDArray[Any],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return the numbers of a column, NaN where one is missing, and the rows that are no number."""
    if values.dtype.kind in "biuf":
        return values.astype(np.float64), np.empty(0, np.int64)
    numbers = np.full(len(values), np.nan)
    bad: list[int] = []
    for row, given in enumerate(values.tolist()):
        if is_missing(given) or (isinstance(given, str) and given.strip().lower() in _NOTHING):
            continue
        try:
            numbers[row] = float(given)
        except (TypeError, ValueError):
            bad.append(row)
    return numbers, np.array(bad, dtype=np.int64)


def _values(given: Any) -> npt.NDArray[Any]:
    array = np.asarray(given.to_numpy() if hasattr(given, "to_numpy") else given)
    return array.astype(object) if array.dtype.kind in "US" else array


def _first(parts: Any) -> Any:
    if isinstance(parts, Mapping):
        return {key: part[0] for key, part in parts.items()}
    return parts[0]


def finite(value: float | None) -> bool:
    """Return whether a fill is a number that can be kept."""
    return value is not None and math.isfinite(value)
