"""The episode that a Writer is in the middle of: one row at a time, checked as it comes."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from offrl.data.episodes import Episode
from offrl.data.spec import Spec
from offrl.errors import ConfigError


class OpenEpisode:
    """Rows of an episode that has begun and not ended."""

    def __init__(self, spec: Spec, number: int, obs: Any, seed: int | None, infos: Any) -> None:
        self._spec, self._number, self._seed = spec, number, seed
        self._observations: list[Any] = []
        self._actions: list[Any] = []
        self._rewards: list[float] = []
        self._terminated: list[bool] = []
        self._truncated: list[bool] = []
        self._log_probs, self._behaviors = [math.nan], [-1]
        self._infos: list[Any] = [infos]
        self._observations.append(self._row(obs, spec.observation_space, "observation"))

    @property
    def steps(self) -> int:
        """The number of steps so far."""
        return len(self._rewards)

    def step(
        self,
        action: Any,
        reward: float,
        next_obs: Any,
        terminated: bool,
        truncated: bool,
        log_prob: float | None,
        behavior: int | None,
        infos: Any,
    ) -> None:
        """Append a step; raises ConfigError naming the field that does not fit, adding nothing."""
        checked = self._row(action, self._spec.action_space, "action")
        number = self._number_of(reward, "reward")
        row = self._row(next_obs, self._spec.observation_space, "next_obs")
        log_prob = math.nan if log_prob is None else self._number_of(log_prob, "log_prob")
        if log_prob in (math.inf, -math.inf):
            raise self._off("log_prob", f"is {log_prob}", "An executed action has a finite one.")
        flags = [self._flag(terminated, "terminated"), self._flag(truncated, "truncated")]
        self._actions.append(checked)
        self._rewards.append(number)
        self._observations.append(row)
        self._terminated.append(flags[0])
        self._truncated.append(flags[1])
        self._log_probs.append(log_prob)
        self._behaviors.append(-1 if behavior is None else int(behavior))
        self._infos.append(infos)

    def finish(self, *, cut: bool) -> Episode:
        """Return the episode; with `cut` one without an end gets a truncation at its last step."""
        if cut and not (self._terminated[-1] or self._truncated[-1]):
            self._truncated[-1] = True
        infos = _columns(self._infos, "infos", self._number)
        infos |= {
            "behavior_log_prob": np.array(self._log_probs),
            "behavior": np.array(self._behaviors, np.int64),
        }
        return Episode(
            self._number,
            stacked(self._observations, self._spec.observation_space),
            stacked(self._actions, self._spec.action_space),
            np.array(self._rewards, np.float64),
            np.array(self._terminated, np.bool_),
            np.array(self._truncated, np.bool_),
            infos,
            self._seed,
        )

    def _row(self, value: Any, space: spaces.Space[Any], field: str) -> Any:
        """Return a value of the space with arrays as leaves, copied: loops reuse buffers."""
        if isinstance(space, spaces.Dict | spaces.Tuple):
            return self._nested(value, space, field)
        if isinstance(space, spaces.Text):
            if not isinstance(value, str):
                raise self._off(field, f"is {type(value).__name__}", "Give text.")
            return value
        # A plain number or list has no type of its own; an array keeps the one it has.
        typed = hasattr(value, "dtype")
        array = np.array(value) if typed else self._converted(value, space, field)
        if array.shape != (space.shape or ()):
            raise self._off(
                field, f"has shape {array.shape}", f"The space has {space.shape or ()}."
            )
        kind = space.dtype or np.dtype(np.float64)
        choice = array.dtype.kind == "b" and isinstance(space, spaces.Discrete)
        if choice or not np.can_cast(array.dtype, kind, "same_kind"):
            raise self._off(field, f"is {array.dtype}", f"The space has {kind}; convert it.")
        if isinstance(space, spaces.Discrete):
            inside = space.start <= array < space.start + space.n
            if not inside:
                raise self._off(field, f"is {array}", f"The space is {space}.")
        return array

    def _converted(self, value: Any, space: spaces.Space[Any], field: str) -> np.ndarray:
        try:
            array = np.array(value)
        except ValueError as error:
            raise self._off(field, f"is ragged ({error})", "Give one array.") from error
        if isinstance(space, spaces.Discrete) or array.dtype.kind not in "if":
            return array  # a bool or a float is not a choice, and an object is not a number
        if array.dtype.kind == "f" and (space.dtype is None or space.dtype.kind != "f"):
            return array
        return array.astype(space.dtype)

    def _nested(self, value: Any, space: spaces.Space[Any], field: str) -> Any:
        if isinstance(space, spaces.Dict):
            if not isinstance(value, Mapping) or set(value) != set(space.spaces):
                found = list(value) if isinstance(value, Mapping) else type(value).__name__
                raise self._off(field, f"has the parts {found}", f"Needs {list(space.spaces)}.")
            return {k: self._row(value[k], s, f"{field}/{k}") for k, s in space.spaces.items()}
        if not isinstance(space, spaces.Tuple):
            raise TypeError(f"{space} has no parts")
        if not isinstance(value, tuple | list) or len(value) != len(space.spaces):
            raise self._off(field, "is not such a tuple", f"It needs {len(space.spaces)} parts.")
        pairs = zip(value, space.spaces, strict=True)
        return tuple(self._row(v, s, f"{field}/{i}") for i, (v, s) in enumerate(pairs))

    def _number_of(self, value: Any, field: str) -> float:
        array = np.asarray(value)
        if array.shape not in ((), (1,)) or array.dtype.kind not in "iufb":
            raise self._off(field, f"is {value!r}", "Give one number.")
        return float(array.reshape(()))

    def _flag(self, value: Any, field: str) -> bool:
        if not isinstance(value, bool | np.bool_):
            raise self._off(field, f"is {value!r}", "Give True or False.")
        return bool(value)

    def _off(self, field: str, what: str, remedy: str) -> ConfigError:
        return ConfigError(f"Episode {self._number}, step {self.steps}: {field} {what}.", remedy)


def stacked(rows: list[Any], space: spaces.Space[Any]) -> Any:
    """Return rows of a space as its columns, nested as the space is; ValueError where ragged."""
    if isinstance(space, spaces.Dict):
        return {k: stacked([row[k] for row in rows], s) for k, s in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(stacked([r[i] for r in rows], s) for i, s in enumerate(space.spaces))
    return np.array(rows, object) if isinstance(space, spaces.Text) else np.stack(rows)


def _columns(rows: list[Any], path: str, number: int) -> dict[str, Any]:
    """Return infos as columns of T+1 rows; where the reset gave none, its row is NaN, 0 or ""."""
    given = [row or {} for row in rows]
    steps = given[1:]
    keys = list(steps[0])
    for t, row in enumerate(steps):
        if not isinstance(row, Mapping) or set(row) != set(keys):
            raise ConfigError(
                f"Episode {number}, step {t}: {path} has other keys than step 0.",
                f"Give {keys} at every step.",
            )
    columns: dict[str, Any] = {}
    for key in keys:
        values = [row[key] for row in steps]
        if isinstance(values[0], Mapping):
            columns[key] = _columns([given[0].get(key), *values], f"{path}/{key}", number)
            continue
        try:
            column = np.stack([np.asarray(value) for value in values])
        except ValueError as error:
            raise ConfigError(
                f"Episode {number}: {path}/{key} changes its shape.", "Give one shape."
            ) from error
        first = np.asarray(given[0][key]) if key in given[0] else _blank(column)
        columns[key] = np.concatenate([first[None], column])
    return columns


def _blank(column: np.ndarray) -> np.ndarray:
    if column.dtype.kind == "f":
        return np.full(column.shape[1:], np.nan, column.dtype)
    return np.zeros(column.shape[1:], column.dtype)
