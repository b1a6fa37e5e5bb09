"""The data that every measurement reads: 17 observations and 6 actions, as HalfCheetah has."""

from typing import NamedTuple

import numpy as np

OBS_DIM, ACTION_DIM, BATCH = 17, 6, 256
EPISODES, LENGTH = 20, 1000


class Logs(NamedTuple):
    """Columns in the order of `Dataset.from_arrays`; observations hold T+1 rows an episode."""

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


def logs(*, discrete: bool = False) -> Logs:
    """Columns of EPISODES x LENGTH transitions of noise; speed does not depend on the values.

    Discrete, an action is one of ACTION_DIM choices.
    """
    rng = np.random.default_rng(0)
    n = EPISODES * LENGTH
    last = np.arange(1, n + 1) % LENGTH == 0
    return Logs(
        obs=rng.standard_normal((n + EPISODES, OBS_DIM)).astype(np.float32),
        action=rng.integers(ACTION_DIM, size=n)
        if discrete
        else rng.uniform(-1, 1, (n, ACTION_DIM)).astype(np.float32),
        reward=rng.standard_normal(n),
        terminated=np.zeros(n, dtype=bool),
        truncated=last,
    )
