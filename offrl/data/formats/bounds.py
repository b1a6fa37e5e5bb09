"""The spaces of foreign actions and observations: given, or assumed and said so."""

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from offrl.data.arrays import space_of_actions, space_of_observations
from offrl.errors import ConfigError

Bounds = tuple[float, float]


def action_space_of(
    action: npt.NDArray[Any],
    given: spaces.Space[Any] | None,
    bounds: Bounds | None,
    *,
    unit: bool,
) -> tuple[spaces.Space[Any], list[str]]:
    """Return the space of the actions and what was assumed of it.

    `given` wins, then `bounds`; where the convention of a format is [-1, 1] (`unit`) and no action
    lies outside, that is taken; else floats are unbounded and whole numbers the choices seen.
    """
    if given is not None:
        _require_fit("actions", action, given)
        return given, []
    if action.dtype.kind != "f":
        if bounds is not None:
            raise ConfigError(
                "Whole-number actions are choices and have no bounds.", "Leave --action-bounds out."
            )
        space = space_of_actions(action)
        return space, [f"the actions are taken as {space}, the choices that occur; --env names all"]
    if bounds is not None:
        return spaces.Box(*bounds, action.shape[1:], action.dtype.type), []
    if unit and action.size and float(np.abs(action).max()) <= 1:
        space = spaces.Box(-1, 1, action.shape[1:], action.dtype.type)
        return space, ["the actions are taken to be in [-1, 1]; --action-bounds says otherwise"]
    return space_of_actions(action), [
        "nothing says how large an action may be; --action-bounds LOW,HIGH does"
    ]


def observation_space_of(
    obs: npt.NDArray[Any], given: spaces.Space[Any] | None
) -> spaces.Space[Any]:
    """Return the space of the observations: the given one, else the widest of their type.

    Raises ConfigError where the given one is of another shape.
    """
    if given is None:
        return space_of_observations(obs)
    _require_fit("observations", obs, given)
    return given


def _require_fit(what: str, values: npt.NDArray[Any], space: spaces.Space[Any]) -> None:
    """Raise ConfigError where rows of a file cannot be of an environment's space."""
    whole = values.dtype.kind in "biu"
    if isinstance(space, spaces.Box) and values.shape[1:] != space.shape:
        shape = list(values.shape[1:]) or "single numbers"
        why = f"{what} are {shape} in the file and {list(space.shape)} in the environment"
    elif isinstance(space, spaces.Discrete) and not (whole and values.ndim == 1):
        why = f"{what} are amounts in the file and {space.n} choices in the environment"
    else:
        return
    raise ConfigError(
        f"The {why}.", "Name the environment that the log comes from: --env ENV, or none."
    )
