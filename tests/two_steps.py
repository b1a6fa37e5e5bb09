"""H2, the two-step MDP of the oracles: one state, r_0 = a, r_1 = 2a, mu uniform, pi(1) = 0.8."""

import itertools

import numpy as np

from offrl.ope.trajectories import Floats, Trajectories, padded

DISCOUNT, MU, PI = 0.9, 0.5, np.array([0.2, 0.8])
J_PI, J_MU = 2.24, 1.4
EXACT_Q = np.array([[1.44, 2.44], [0.0, 2.0]])  # [step, action], of pi
WRONG_Q = np.array([[1.0, 1.0], [5.0, -2.0]])
FOUR = np.array(list(itertools.product((0, 1), repeat=2)))  # the equally likely episodes


def episodes(
    actions: np.ndarray, q: np.ndarray | None = None, *, right: bool = True
) -> Trajectories:
    """Episodes of the given actions [n, 2]; with `right` false every ratio is taken for 1."""
    n = len(actions)
    ratio = PI[actions] / MU if right else np.ones(actions.shape)
    chosen = None if q is None else q[np.arange(2), actions].reshape(-1)
    value = None if q is None else np.tile(q @ PI, n)
    return padded(
        discount=DISCOUNT,
        starts=np.arange(0, 2 * n + 1, 2),
        reward=(actions * np.array([1.0, 2.0])).reshape(-1),
        log_ratio=np.log(ratio).reshape(-1),
        terminated=np.ones(n, bool),
        q=chosen,
        v=value,
    )


def drawn(n: int, rng: np.random.Generator) -> Trajectories:
    """n episodes of mu, with the exact Q."""
    return episodes(rng.integers(2, size=(n, 2)), EXACT_Q)


def once(n: int) -> Floats:
    """Counts of the sample that holds every episode once."""
    return np.ones((1, n))
