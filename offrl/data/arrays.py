"""Episodes out of plain arrays: where they end, what their spaces are."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from offrl.data.episodes import Episode, as_arrays, leaves
from offrl.errors import ConfigError


def episodes_of_arrays(
    obs: Any,
    action: Any,
    reward: Any,
    terminated: Any,
    truncated: Any,
    next_obs: Any,
    behavior_log_prob: Any,
) -> Iterator[Episode]:
    """Yield the episodes of N steps; one ends where `terminated` or `truncated` is true.

    Raises ConfigError naming the argument that does not fit the others.
    """
    rewards = _numbers("reward", reward)
    n = len(rewards)
    if n == 0:
        raise ConfigError("reward is empty: there are no steps.", "Give at least one step.")
    actions = np.asarray(action)
    if actions.ndim == 0 or len(actions) != n:
        raise _rows("action", len(actions) if actions.ndim else 0, n)
    ends, cuts = _flags("terminated", terminated, n), _flags("truncated", truncated, n)
    log_prob = None
    if behavior_log_prob is not None:
        log_prob = _numbers("behavior_log_prob", behavior_log_prob)
        if len(log_prob) != n:
            raise _rows("behavior_log_prob", len(log_prob), n)
    if not (ends[-1] or cuts[-1]):
        warnings.warn(
            "The last episode has no end; it counts as truncated at the last step.", stacklevel=3
        )
        cuts = cuts.copy()
        cuts[-1] = True
    stops = np.flatnonzero(ends | cuts) + 1
    starts = np.concatenate([[0], stops[:-1]])
    observations, following = as_arrays(obs), None if next_obs is None else as_arrays(next_obs)
    _check_observations(observations, following, n, len(stops), starts, stops)
    for number, (a, b) in enumerate(zip(starts, stops, strict=True)):
        infos = {}
        if log_prob is not None:
            infos["behavior_log_prob"] = np.concatenate([[np.nan], log_prob[a:b]])
        yield Episode(
            id=number,
            observations=_rows_of(observations, following, int(a), int(b), number),
            actions=actions[a:b],
            rewards=rewards[a:b],
            terminations=ends[a:b],
            truncations=cuts[a:b],
            infos=infos,
        )


def _rows_of(observations: Any, following: Any, a: int, b: int, number: int) -> Any:
    """The T+1 observations of the steps a .. b-1 of the episode `number`."""
    if isinstance(observations, Mapping):
        return {
            key: _rows_of(child, None if following is None else following[key], a, b, number)
            for key, child in observations.items()
        }
    if isinstance(observations, tuple):
        return tuple(
            _rows_of(child, None if following is None else following[i], a, b, number)
            for i, child in enumerate(observations)
        )
    if following is None:
        return observations[a + number : b + number + 1]
    return np.concatenate([observations[a:b], following[b - 1 : b]])


def _check_observations(
    observations: Any,
    following: Any,
    n: int,
    episodes: int,
    starts: npt.NDArray[Any],
    stops: npt.NDArray[Any],
) -> None:
    after = None if following is None else dict(leaves(following))
    for path, leaf in leaves(observations):
        name = f"obs '{path}'" if path else "obs"
        rows = len(leaf) if leaf.ndim else 0
        if after is None:
            if rows == n:
                raise ConfigError(
                    f"{name} has {rows} rows for {n} steps, so the observation after the last step"
                    " of each episode is missing.",
                    "Give next_obs as well, or T+1 observations for each episode.",
                )
            if rows != n + episodes:
                raise ConfigError(
                    f"{name} has {rows} rows, where {n + episodes} are expected:"
                    f" {n} steps and one more for each of {episodes} episodes.",
                    "An episode ends where terminated or truncated is true.",
                )
            continue
        if rows != n:
            raise _rows(name, rows, n)
        next_leaf = after.get(path)
        if next_leaf is None or next_leaf.shape != leaf.shape:
            found = "is missing" if next_leaf is None else f"has the shape {next_leaf.shape}"
            raise ConfigError(
                f"next_{name} {found}, where {leaf.shape} is expected.", "Give it as obs is given."
            )
        _check_chain(name, leaf, next_leaf, stops)


def _check_chain(
    name: str, leaf: npt.NDArray[Any], after: npt.NDArray[Any], stops: npt.NDArray[Any]
) -> None:
    inside = np.ones(len(leaf), dtype=bool)
    inside[stops - 1] = False
    rows = np.flatnonzero(inside)
    one, two = after[rows], leaf[rows + 1]
    same = one == two
    if leaf.dtype.kind == "f":
        same |= np.isnan(one) & np.isnan(two)
    broken = np.flatnonzero(~same.reshape(len(rows), -1).all(axis=1)) if len(rows) else rows
    if broken.size:
        row = int(rows[broken[0]])
        raise ConfigError(
            f"next_{name} of step {row} is not the obs of step {row + 1}, though no episode ends"
            f" there ({broken.size} such steps).",
            "Mark the ends of the episodes in truncated, or put the steps in order.",
        )


def _numbers(name: str, value: Any) -> npt.NDArray[np.float64]:
    array = np.asarray(value)
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise ConfigError(
            f"{name} is {array.dtype} of the shape {array.shape}, where N numbers are expected.",
            "Give one number per step.",
        )
    return array.astype(np.float64)


def _flags(name: str, value: Any, n: int) -> npt.NDArray[np.bool_]:
    array = np.asarray(value)
    if array.ndim != 1 or len(array) != n:
        raise _rows(name, len(array) if array.ndim else 0, n)
    if array.dtype.kind not in "biuf" or not np.all((array == 0) | (array == 1)):
        raise ConfigError(
            f"{name} holds something other than true and false.", "Give N booleans (or 0 and 1)."
        )
    return array.astype(bool)


def _rows(name: str, found: int, expected: int) -> ConfigError:
    return ConfigError(
        f"{name} has {found} rows, where reward has {expected}.", "Give one row per step."
    )


def as_episode(given: Any, number: int) -> Episode:
    """Return an `Episode` (or Minari's `EpisodeData`) as an Episode of this number."""
    if isinstance(given, Episode):
        return given if given.id == number else replace(given, id=number)
    try:
        return Episode(
            id=number,
            observations=given.observations,
            actions=given.actions,
            rewards=given.rewards,
            terminations=given.terminations,
            truncations=given.truncations,
            infos=dict(getattr(given, "infos", None) or {}),
            seed=getattr(given, "seed", None),
        )
    except AttributeError as error:
        raise ConfigError(
            f"Item {number} is not an episode ({error}).", "Give offrl.Episode objects."
        ) from error


def space_of_observations(obs: Any) -> spaces.Space[Any]:
    """Return the widest space that observations of these types can come from."""
    if isinstance(obs, Mapping):
        return spaces.Dict([(str(key), space_of_observations(child)) for key, child in obs.items()])
    if isinstance(obs, tuple):
        return spaces.Tuple([space_of_observations(child) for child in obs])
    array = np.asarray(obs)
    shape = array.shape[1:]
    if array.dtype.kind == "f":
        return spaces.Box(-np.inf, np.inf, shape, array.dtype.type)
    if array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)
        return spaces.Box(limits.min, limits.max, shape, array.dtype.type)
    if array.dtype.kind == "b":
        return spaces.Box(0, 1, shape, np.int8)
    raise ConfigError(
        f"obs is {array.dtype}, which is not numbers.", "Give observation_space, or numbers."
    )


def space_of_actions(action: Any) -> spaces.Space[Any]:
    """Return Discrete(largest + 1) for whole numbers, a Box without bounds for floats.

    The type alone decides. Raises ConfigError for any other action.
    """
    array = np.asarray(action)
    if array.dtype.kind == "f" and array.ndim >= 1:
        return spaces.Box(-np.inf, np.inf, array.shape[1:], array.dtype.type)
    if array.dtype.kind in "iu" and array.ndim == 1 and array.size and array.min() >= 0:
        return spaces.Discrete(int(array.max()) + 1)
    raise ConfigError(
        f"The action space of {array.dtype} actions of the shape {array.shape} is not clear.",
        "Give action_space, float actions [N, ...], or whole-number actions [N] from 0.",
    )
