"""Tables: a row for each decision, whose columns are named by whoever brings them.

    patient  day  age  ward  treatment  cost  over      --episode patient --time day
    7        1    61   B     drug A     -3.5            --obs 'age,ward' --action treatment
    7        2    61   B     none       -0.5  died      --reward cost --ends over

A last row of an episode with neither action nor reward is the state after the last action. In a
bandit table every row is a decision of its own, after which nothing follows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from offrl.data.columns import Columns, is_missing
from offrl.data.episodes import Episode
from offrl.data.formats.bounds import Bounds
from offrl.data.formats.steps import Imported
from offrl.data.formats.table_actions import Actions, actions_of, masks_of
from offrl.data.formats.table_columns import (
    Fill,
    Names,
    listed,
    matching,
    numeric,
    observation_columns,
    one_column,
    require_scalar,
)
from offrl.data.formats.table_files import Table, read_table
from offrl.errors import ConfigError, CorruptDataError

WORDS = {
    "": (False, False), "0": (False, False), "false": (False, False), "0.0": (False, False),
    "1": (True, False), "true": (True, False), "1.0": (True, False), "terminated": (True, False),
    "truncated": (False, True), "both": (True, True),
}  # fmt: skip
ENDS_HELP = (
    "Give --ends terminated where nothing follows an episode's last row (the patient left, the game"
    " is over); --ends truncated where the log stops and the world goes on (a time limit, the end"
    " of the day), so that the value of what follows is estimated and not 0; or the column that"
    " says which."
)


@dataclass(frozen=True)
class Roles:
    """Which columns of a table are what; the command line has the same words."""

    obs: Names = None
    action: Names = None
    reward: str | None = None
    episode: str | None = None
    time: str | None = None
    bandit: bool = False
    ends: str | None = None
    propensity: str | None = None
    log_prob: str | None = None
    action_mask: Names = None
    categories: Names = None
    fill: Fill = None
    action_values: Any = None
    action_bounds: Bounds | None = None

    def __post_init__(self) -> None:
        needed = {"obs": self.obs, "action": self.action, "reward": self.reward}
        for option, given in needed.items():
            if not listed(given):
                raise ConfigError(
                    f"--{option} is missing: nothing says which column is the {option}.",
                    f"Name it: --{option} COLUMN",
                )
        if self.propensity and self.log_prob:
            raise ConfigError(
                "--propensity and --log-prob are two words for one thing.", "Give one of them."
            )
        if self.bandit and (self.episode or self.ends not in (None, "terminated")):
            raise ConfigError(
                "In a bandit table every row is an episode and terminated.",
                "Leave out --episode and --ends, or --bandit.",
            )
        if not self.bandit and not self.episode:
            raise ConfigError(
                "--episode is missing: nothing says which rows belong together.",
                "Name the column, or give --bandit where every row is a decision of its own.",
            )
        if not self.bandit and not self.ends:
            raise ConfigError("--ends is missing, and there is no safe guess.", ENDS_HELP)


def read(path: Path, **roles: Any) -> Imported:
    """Return the episodes of a CSV or Parquet table; `roles` are the fields of `Roles`.

    Raises ConfigError where the options are off, CorruptDataError naming row and column.
    """
    chosen = Roles(**roles)
    return episodes_of_table(read_table(path), chosen)


def episodes_of_table(table: Table, roles: Roles) -> Imported:
    """Return the episodes of a table held in memory."""
    rows = len(next(iter(table.values())))
    action_names = matching(table, "--action", roles.action)
    mask_names = matching(table, "--action-mask", roles.action_mask)
    single = [roles.reward, roles.episode, roles.time, roles.propensity, roles.log_prob]
    single.append(_ends_column(table, roles.ends))
    taken_names = [*action_names, *mask_names, *(name for name in single if name)]
    obs_names = matching(table, "--obs", roles.obs, taken=taken_names)
    categories = matching(table, "--categories", roles.categories, taken=taken_names)
    reward_column = one_column(table, "--reward", roles.reward or "")
    order, starts = _order(table, roles, rows)
    rows_of = _Rows(order, np.array(starts))
    empty = [_missing(table[name]) for name in action_names] + [_missing(reward_column)]
    finals = _finals(np.all(empty, axis=0), action_names[0], rows_of)
    taken = ~finals
    actions = actions_of(table, action_names, taken, roles.action_values, roles.action_bounds)
    reward = np.nan_to_num(numeric(roles.reward or "", reward_column, taken))
    log_prob, notes = _log_prob(table, roles, taken, actions)
    masks = masks_of(table, mask_names, taken, actions) if mask_names else None
    columns = Columns(
        observation_columns(table, obs_names, categories, roles.fill), actions.columns
    )
    obs = columns.encode_columns(table)
    flags, more = _ends(table, roles, rows_of, finals)
    cut = _Cut(
        _taken(obs, order),
        actions.values[order],
        reward[order],
        flags[:, order],
        None if log_prob is None else log_prob[order],
        None if masks is None else masks[order],
    )
    ends = [(a, b, bool(finals[order[b - 1]])) for a, b in pairwise(starts)]
    episodes = [cut.episode(number, a, b, final) for number, (a, b, final) in enumerate(ends)]
    stand_ins = sum(
        not final and not episode.terminations[-1]
        for episode, (_, _, final) in zip(episodes, ends, strict=True)
    )
    if stand_ins:
        more.append(
            "truncated episodes without an observation after their last action, for which the one"
            f" before stands in: {stand_ins}; a last row with neither action nor reward gives it"
        )
    return Imported(
        episodes,
        columns.observation_space(),
        actions.space,
        (*_choices_of(columns), *actions.notes, *notes, *more),
        columns=columns,
        rows=rows,
    )


def _choices_of(columns: Columns) -> list[str]:
    shown = ", ".join(f"{column.name} ({len(column.values)})" for column in columns.categories)
    return [f"taken as choices, with the number of their values: {shown}"] if shown else []


@dataclass(frozen=True)
class _Rows:
    """The rows of the file in the order of episodes and time, and where each episode starts."""

    order: npt.NDArray[np.int64]  # [N]
    starts: npt.NDArray[np.int64]  # [E+1], places in `order`

    @property
    def firsts(self) -> npt.NDArray[np.int64]:
        """The first row of each episode."""
        return self.order[self.starts[:-1]]

    @property
    def lasts(self) -> npt.NDArray[np.int64]:
        """The last row of each episode."""
        return self.order[self.starts[1:] - 1]

    def last_steps(self, finals: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """The row of the last action of each episode."""
        return self.order[self.starts[1:] - 1 - finals[self.lasts]]


def _order(table: Table, roles: Roles, rows: int) -> tuple[npt.NDArray[np.int64], list[int]]:
    """The rows in the order of episodes and time, and where each episode starts, then N."""
    if roles.bandit:
        order = np.arange(rows)
        if roles.time:
            order = np.argsort(
                _times(roles.time, one_column(table, "--time", roles.time)), kind="stable"
            )
        return order, list(range(rows + 1))
    groups = _groups(roles.episode or "", one_column(table, "--episode", roles.episode or ""))
    if not roles.time:
        order = np.argsort(groups, kind="stable")
    else:
        times = _times(roles.time, one_column(table, "--time", roles.time))
        order = np.lexsort((times, groups))
        same = (np.diff(groups[order]) == 0) & (np.diff(times[order]) == 0)
        if same.any():
            first = int(np.flatnonzero(same)[0])
            raise CorruptDataError(
                f"The column '{roles.time}' has one value in rows {order[first]} and"
                f" {order[first + 1]} of one episode.",
                "Give a column that orders the rows of an episode.",
            )
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1)).tolist()
    return order, [*starts, rows]


def _groups(name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """A number for each episode, by first appearance."""
    seen: dict[Any, int] = {}
    groups = np.empty(len(values), dtype=np.int64)
    for row, value in enumerate(values.tolist()):
        if is_missing(value):
            raise CorruptDataError(
                f"The column '{name}' has no value in row {row}.", "Name the episode of every row."
            )
        require_scalar(name, row, value)
        groups[row] = seen.setdefault(value, len(seen))
    return groups


def _times(name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Ranks of the times: dates, numbers, or texts that sort as they are, such as 2026-01-31."""
    for row, value in enumerate(values.tolist()):
        if is_missing(value):
            raise CorruptDataError(
                f"The column '{name}' has no value in row {row}.", "Give the time of every row."
            )
    if values.dtype.kind not in "biufM":
        try:
            values = values.astype(np.float64)
        except (TypeError, ValueError):
            values = values.astype(str)
    return np.unique(values, return_inverse=True)[1]


def _finals(empty: npt.NDArray[np.bool_], name: str, rows: _Rows) -> npt.NDArray[np.bool_]:
    """Rows that hold the state after an episode's last action: neither action nor reward."""
    last = np.zeros(len(empty), dtype=bool)
    last[rows.lasts] = True
    inside = np.flatnonzero(empty & ~last)
    if inside.size:
        raise CorruptDataError(
            f"The column '{name}' has no value in row {inside[0]}, and the episode goes on.",
            "Only the last row of an episode may have neither action nor reward.",
        )
    alone = np.flatnonzero(empty[rows.firsts])
    if alone.size:
        raise CorruptDataError(
            f"The episode of row {rows.firsts[alone[0]]} has no step: its only row has neither"
            " action nor reward.",
            "Leave it out.",
        )
    return empty


def _missing(column: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    if column.dtype.kind == "f":
        return np.isnan(column)
    if column.dtype.kind in "biu":
        return np.zeros(len(column), dtype=bool)
    return np.array([is_missing(cell) for cell in column.tolist()], dtype=bool)


def _log_prob(
    table: Table, roles: Roles, taken: npt.NDArray[np.bool_], actions: Actions
) -> tuple[npt.NDArray[np.float64] | None, list[str]]:
    name = roles.propensity or roles.log_prob
    if not name:
        return None, []
    option = "--propensity" if roles.propensity else "--log-prob"
    numbers = numeric(name, one_column(table, option, name), taken)
    most = np.inf if not isinstance(actions.space, spaces.Discrete) else 1.0
    if roles.propensity:
        wrong = taken & ~((numbers > 0) & (numbers <= most + 1e-6))
        what = "a probability above 0" + (" and at most 1" if most == 1 else "")
    else:
        wrong = taken & ~(numbers <= np.log(most) + 1e-6)
        what = "the log of a probability, at most 0"
    rows = np.flatnonzero(wrong)
    if rows.size:
        raise CorruptDataError(
            f"The column '{name}' is {numbers[rows[0]]:g} in row {rows[0]}, where {what} is"
            f" expected ({rows.size} such).",
            "Log the probability of the action that was taken.",
        )
    logged = (
        np.log(numbers, where=taken, out=np.zeros(len(numbers))) if roles.propensity else numbers
    )
    low, high = np.exp(logged[taken].min()), np.exp(logged[taken].max())
    return logged, [f"'{name}' runs from {low:.3g} to {high:.3g} as a probability or density"]


def _ends_column(table: Table, ends: str | None) -> str | None:
    """The column that says how episodes end; None where one word says it of all."""
    if ends in (None, "terminated", "truncated"):
        return None
    name = str(ends).removeprefix("column:")
    if name not in table and name.strip().lower() in ("terminated", "truncated"):
        raise ConfigError(
            f"--ends: the table has no column '{name}'.",
            f"For all episodes alike it is --ends {name.strip().lower()}.",
        )
    return matching(table, "--ends", [name])[0]


def _ends(
    table: Table, roles: Roles, rows: _Rows, finals: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.bool_], list[str]]:
    """Whether each row is terminated and truncated, [2, N], and what was assumed."""
    flags = np.zeros((2, len(finals)), dtype=bool)
    steps = rows.last_steps(finals)
    name = _ends_column(table, roles.ends)
    if name is None:
        flags[0 if roles.bandit or roles.ends == "terminated" else 1, steps] = True
        return flags, []
    last = np.zeros(len(finals), dtype=bool)
    last[steps] = True
    for row, cell in enumerate(table[name].tolist()):
        if finals[row]:
            continue
        word = "" if is_missing(cell) else str(cell).strip().lower()
        if word not in WORDS:
            raise CorruptDataError(
                f"The column '{name}' holds {cell!r} in row {row}, which says no end.",
                "Use terminated, truncated, both, 1 (terminated), or 0 or nothing (none).",
            )
        flags[:, row] = WORDS[word]
        if any(WORDS[word]) and not last[row]:
            raise CorruptDataError(
                f"The column '{name}' holds {cell!r} in row {row}, and the episode goes on.",
                "Give the rows after an end another episode.",
            )
    open_ends = steps[~flags[:, steps].any(axis=0)]
    flags[1, open_ends] = True
    note = f"episodes without an end in '{name}', which count as truncated: {len(open_ends)}"
    return flags, [note] if len(open_ends) else []


@dataclass(frozen=True)
class _Cut:
    """The columns of all rows, in order."""

    obs: Any
    action: npt.NDArray[Any]
    reward: npt.NDArray[np.float64]
    flags: npt.NDArray[np.bool_]  # [2, N]: terminated, truncated
    log_prob: npt.NDArray[np.float64] | None
    masks: npt.NDArray[np.bool_] | None

    def episode(self, number: int, first: int, stop: int, has_final: bool) -> Episode:
        """The rows first .. stop-1 as an episode, whose last may be a state only."""
        last = stop - 1 if has_final else stop
        infos: dict[str, Any] = {}
        if self.log_prob is not None:
            infos["behavior_log_prob"] = np.concatenate([[np.nan], self.log_prob[first:last]])
        if self.masks is not None:
            infos["action_mask"] = self.masks[first:last]
        return Episode(
            id=number,
            observations=_with_last(self.obs, first, stop, has_final),
            actions=self.action[first:last],
            rewards=self.reward[first:last],
            terminations=self.flags[0, first:last],
            truncations=self.flags[1, first:last],
            infos=infos,
        )


def _with_last(obs: Any, first: int, stop: int, has_final: bool) -> Any:
    if isinstance(obs, Mapping):
        return {key: _with_last(part, first, stop, has_final) for key, part in obs.items()}
    rows = obs[first:stop]
    return rows if has_final else np.concatenate([rows, rows[-1:]])


def _taken(obs: Any, order: npt.NDArray[np.int64]) -> Any:
    if isinstance(obs, Mapping):
        return {key: part[order] for key, part in obs.items()}
    return obs[order]
