"""The file of a sweep, read and held against what there is.

algos = ["bc", "awr"]
datasets = ["offrl/pendulum/mixed-v0"]
seeds = [0, 1, 2]
steps = 20_000                  # and whatever else `offrl train` may be told of a run

[settings]                      # of every algorithm; a list is tried value by value
hidden_size = 64

[awr]                           # of one algorithm, before those of every algorithm
temperature = [0.3, 1.0, 3.0]

[evaluation]
episodes = 20                   # 0 for none
seed = 0
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from offrl.algos import ALGORITHMS, get, source_of
from offrl.errors import ConfigError, suggest
from offrl.run import FORMAT, SETTINGS, read_toml

OF_A_RUN = SETTINGS - {"algo", "dataset", "seeds"}
EVERY, EVALUATION = "settings", "evaluation"
_LISTS = ("algos", "datasets", "seeds")


@dataclass(frozen=True)
class Judging:
    """How each trial is evaluated once it is trained."""

    env: str | None = None  # what the dataset names
    episodes: int = 50
    seed: int = 0


@dataclass(frozen=True)
class SweepFile:
    """What a sweep's file says, every word of it known."""

    algos: tuple[str, ...]
    datasets: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    of_a_run: Mapping[str, Any] = field(default_factory=dict[str, Any])
    every: Mapping[str, Any] = field(default_factory=dict[str, Any])
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    judging: Judging = field(default_factory=Judging)

    def axes(self, algo: str) -> tuple[dict[str, Any], dict[str, list[Any]]]:
        """The settings of an algorithm that stand, and those that are tried value by value."""
        given = {**self.every, **self.own.get(get(algo).name, {})}
        fixed = {name: value for name, value in given.items() if not isinstance(value, list)}
        return fixed, {name: value for name, value in given.items() if isinstance(value, list)}


def read_sweep(source: str | Path | Mapping[str, Any], code: Sequence[str] = ()) -> SweepFile:
    """The sweep of a TOML file, or of what such a file holds.

    `code` names again the algorithms of a file that are code of the user (FILE.py:CLASS), which
    runs only where it was typed. Raises ConfigError naming the file and the word that is off.
    """
    if isinstance(source, Mapping):
        where, table = "The sweep", dict(source)
    else:
        where, table = str(source), read_toml(Path(source))
    if table.pop("format", FORMAT) != FORMAT:
        raise ConfigError(f"{where} has another format than {FORMAT}.")
    lists = {name: _list(where, name, table) for name in _LISTS}
    if not isinstance(source, Mapping):
        _refuse_untyped(where, lists["algos"], code)
    algorithms = [get(algo).name for algo in lists["algos"]]
    if len(set(algorithms)) < len(algorithms):
        raise ConfigError(f"{where} names an algorithm twice.", "Name each once.")
    of_a_run, tables = _sorted(where, table, algorithms)
    return SweepFile(
        algos=tuple(lists["algos"]),
        datasets=tuple(lists["datasets"]),
        seeds=tuple(lists["seeds"]),
        of_a_run=of_a_run,
        every=_values(where, EVERY, tables.pop(EVERY, {})),
        judging=_judging(where, tables.pop(EVALUATION, {})),
        own={name: _values(where, name, held) for name, held in tables.items()},
    )


def _list(where: str, name: str, table: dict[str, Any]) -> list[Any]:
    kind, example = (int, "[0, 1, 2]") if name == "seeds" else (str, '["..."]')
    if name not in table:
        if name == "seeds":
            return [0]
        near = suggest(name, table)
        raise ConfigError(f"{where} names no {name}.{near}", f"Write {name} = {example}.")
    values = table.pop(name)
    good = isinstance(values, list | tuple) and bool(values)
    good = good and all(isinstance(v, kind) and not isinstance(v, bool) for v in values)
    if not good or (kind is int and any(value < 0 for value in values)):
        raise ConfigError(f"{where}: {name} is a list, not {values!r}.", f"{name} = {example}")
    if len(set(values)) < len(values):
        raise ConfigError(f"{where}: {name} names one twice.", "Name each once.")
    return list(values)


def _refuse_untyped(where: str, algos: Sequence[str], code: Sequence[str]) -> None:
    for algo in algos:
        if source_of(algo) and algo not in code:
            raise ConfigError(
                f"An algorithm of {where} is code of yours, {algo}.",
                f"Name it again to run it: --algo {algo}",
            )


def _sorted(
    where: str, table: Mapping[str, Any], algorithms: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of a run, and tables; what nothing reads is refused with the nearest word."""
    known = {EVERY, EVALUATION, *algorithms, *ALGORITHMS}
    of_a_run: dict[str, Any] = {}
    tables: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            if key not in known:
                raise ConfigError(
                    f"{where} has a table [{key}], which nothing reads.{suggest(key, known)}",
                    f"Settings of an algorithm go into a table of its name: "
                    f"{', '.join(f'[{name}]' for name in algorithms)}.",
                )
            tables[key] = dict(value)
        elif key not in OF_A_RUN:
            near = suggest(key, {*_LISTS, *OF_A_RUN})
            raise ConfigError(
                f"{where} sets '{key}', which nothing reads.{near}",
                f"Settings of every algorithm go into a table [{EVERY}].",
            )
        elif isinstance(value, list):
            raise ConfigError(
                f"{where}: '{key}' has one value in a sweep, not {value!r}.",
                f"Only settings of algorithms vary: a table [{EVERY}], or one of their name.",
            )
        else:
            of_a_run[key] = value
    return of_a_run, tables


def _values(where: str, name: str, table: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in table.items():
        values = value if isinstance(value, list) else [value]
        if not values or any(not isinstance(v, bool | int | float | str) for v in values):
            raise ConfigError(f"{where}: '{key}' of [{name}] is a value or a list of them.")
        if len({(type(v), v) for v in values}) < len(values):
            raise ConfigError(f"{where}: '{key}' of [{name}] names a value twice.", "Once will do.")
    return dict(table)


def _judging(where: str, table: Mapping[str, Any]) -> Judging:
    known = {f.name for f in fields(Judging)}
    for key, value in table.items():
        if key not in known:
            raise ConfigError(
                f"{where}: [{EVALUATION}] sets '{key}', which nothing reads.{suggest(key, known)}",
                f"It takes {', '.join(sorted(known))}.",
            )
        text = key == "env"
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        if not (isinstance(value, str) if text else whole):
            kind = "the id of an environment" if text else "a whole number from 0"
            raise ConfigError(f"{where}: '{key}' of [{EVALUATION}] is {kind}, not {value!r}.")
    return Judging(**table)
