"""What an agent sees: a raw observation, normalised by statistics that lie beside the agent."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from offrl.collect.networks import Floats
from offrl.collect.vecnormalize import Statistics, read_statistics
from offrl.data.spec import Spec
from offrl.errors import ConfigError, CorruptDataError, UnsafeDataError

Normalizer = Statistics | Callable[[Any], Any]


def statistics_of(path: Path, spec: Spec, trust: bool) -> Normalizer | None:
    """Return the statistics of a file, None where it leaves observations alone.

    Raises what `read_statistics` does; with `trust` the file is unpickled instead, by
    Stable-Baselines3. Raises ConfigError for statistics of another number of observations.
    """
    try:
        found = read_statistics(path)
    except (ConfigError, UnsafeDataError, CorruptDataError):
        if not trust:
            raise
        from offrl.collect.trusted import trusted_statistics

        return trusted_statistics(path)
    if found is not None and len(found.mean) != spec.obs_dim:
        raise ConfigError(
            f"{path} normalises {len(found.mean)} observation numbers and the environment gives "
            f"{spec.obs_dim}.",
            "Move it away if it belongs to another agent.",
        )
    return found


def sight(statistics: Normalizer | None) -> Callable[[Any], Any]:
    """Return what makes the observation that Stable-Baselines3's `predict` takes of a raw one."""
    if statistics is None:
        return lambda obs: obs
    if isinstance(statistics, Statistics):
        return lambda obs: statistics(np.asarray(obs).reshape(-1)).reshape(np.shape(obs))
    return statistics


def eyes(spec: Spec, statistics: Normalizer | None) -> Callable[[Any], Floats]:
    """Return what makes a network's input of a raw observation."""
    space = spec.observation_space
    if statistics is not None and not isinstance(statistics, Statistics):
        plain = eyes(spec, None)
        return lambda obs: plain(statistics(obs))
    if isinstance(space, spaces.Box):
        # In the space's own type: MuJoCo's float64 is normalised before it is rounded.
        if statistics is None:
            return lambda obs: np.asarray(obs, np.float32).reshape(-1)
        return lambda obs: statistics(np.asarray(obs).reshape(-1))
    if statistics is None:
        return spec.flatten_obs_one
    return lambda obs: statistics(spec.flatten_obs_one(obs))
