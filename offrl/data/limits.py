"""What learning must not meet: values that are not finite, actions outside their bounds."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from offrl.data.episodes import Episode
from offrl.data.spec import Spec
from offrl.data.transitions import Transitions
from offrl.errors import CorruptDataError

BOUND_TOLERANCE = 1e-6  # relative to the bound: float32 rounding is not a violation
_ROWS = 2**16


def all_finite(episode: Episode, spec: Spec) -> bool:
    """Return whether every observation, action and reward of an episode is a finite number."""
    columns = (spec.flatten_obs(episode.observations), episode.actions, episode.rewards)
    return all(bool(np.isfinite(column).all()) for column in columns)


def require_finite(built: Transitions, name: str) -> None:
    """Raise CorruptDataError naming episode, step, field and count of what is not finite."""
    # An episode has one more observation than steps, so its rows start one later per episode.
    columns = (
        ("reward", built.reward, built.starts),
        ("action", built.action, built.starts),
        ("observation", built.observations, built.starts + np.arange(len(built.starts))),
    )
    for field, column, starts in columns:
        first, count = _not_finite(column)
        if first is None:
            continue
        episode = int(np.searchsorted(starts, first[0], side="right") - 1)
        label = _part_at(built.spec, first[1]) if field == "observation" else field
        raise CorruptDataError(
            f"{name}: {label} is {column[first]} at episode {episode}"
            f" step {first[0] - starts[episode]} (values of {field} that are not finite: {count}).",
            "Correct the log, or leave such episodes out (--allow-nonfinite drop-episode).",
        )


def _not_finite(column: npt.NDArray[Any]) -> tuple[tuple[int, ...] | None, int]:
    """The first place of a value that is not finite, and how many there are."""
    first: tuple[int, ...] | None = None
    count = 0
    for start in range(0, len(column), _ROWS):  # in pieces: the column may be larger than memory
        finite = np.isfinite(column[start : start + _ROWS])
        if finite.all():
            continue
        where = np.argwhere(~finite)
        count += len(where)
        if first is None:
            first = (start + int(where[0][0]), *(int(i) for i in where[0][1:]))
    return first, count


def _part_at(spec: Spec, column: int) -> str:
    part = next(part for part in spec.obs_parts if part.start <= column < part.stop)
    return f"observation '{part.path}'" if part.path else "observation"


def within_bounds(built: Transitions, name: str, *, clip: bool) -> Transitions:
    """Return the columns with every Box action inside its bounds; rounding errors are moved there.

    Raises CorruptDataError naming the first action outside, unless `clip` asks to move those too.
    """
    if built.spec.discrete:
        return built
    low, high = built.spec.action_low, built.spec.action_high
    if bool(((built.action >= low) & (built.action <= high)).all()):
        return built
    outside = out_of_bounds(built.action, low, high).any(axis=1)
    if outside.any() and not clip:
        row = int(np.flatnonzero(outside)[0])
        episode = int(built.episode[row])
        raise CorruptDataError(
            f"{name}: action {built.action[row]} is outside its bounds at episode {episode}"
            f" step {row - built.starts[episode]} (actions outside: {outside.sum()}).",
            "Correct the action space of the dataset, or move such actions to the bounds"
            " (--clip-actions).",
        )
    return replace(built, action=np.clip(built.action, low, high))


def out_of_bounds(
    actions: npt.NDArray[Any], low: npt.NDArray[Any], high: npt.NDArray[Any]
) -> npt.NDArray[np.bool_]:
    """Return which numbers of flat actions [N, action_dim] lie outside, beyond rounding."""
    slack_low = np.where(np.isfinite(low), BOUND_TOLERANCE * np.maximum(1, np.abs(low)), 0)
    slack_high = np.where(np.isfinite(high), BOUND_TOLERANCE * np.maximum(1, np.abs(high)), 0)
    return (actions < low - slack_low) | (actions > high + slack_high)
