"""MAGIC: a mixture of WDR cut at several steps, from the direct method to WDR itself.

    g_j = WDR up to step j, and discount^(j+1) sum_i w_{0:j} V(s_{j+1}) after it      j = -1 .. T-1
    x   = argmin x' (Omega + b b') x  over the simplex        estimate x' g
    Omega_jk = n cov of the episodes' contributions to g_j and g_k
    b_j = distance of g_j from a 90 % interval of g_{T-1}

Source: Thomas & Brunskill 2016, 1604.00923, section 5. The interval is Student's, from Omega.
"""

from collections.abc import Callable

import numpy as np

from offrl.ope.estimators import Prepared
from offrl.ope.trajectories import Floats, Trajectories
from offrl.ope.weights import scaled

LEVEL = 0.9
RIDGE = 1e-6
MOST = 25  # cuts; of longer episodes evenly spaced ones, which the authors allow


def omega(contributions: Floats, counts: Floats) -> Floats:
    """n cov over the episodes, [J, J], of contributions [m, J] that add up to the J estimates.

    `counts` [m] says how many of the n episodes each row stands for.
    """
    cuts, times = contributions.shape[1], counts.astype(np.int64)
    found = np.cov(contributions, rowvar=False, fweights=times)
    return int(times.sum()) * found.reshape(cuts, cuts)


def weights_of(matrix: Floats) -> Floats:
    """x on the simplex that minimises x' M x, M [J, J] symmetric and positive semi-definite.

    Of all y >= 0, the one that minimises y' M y + (sum y - 1)^2 is a multiple of it. A millionth of
    M's size on its diagonal makes it the only one: with fewer episodes than cuts there are many.
    """
    from scipy.optimize import nnls

    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    size = float(values[-1])
    cuts = len(matrix)
    if not size > 0:
        return np.full(cuts, 1 / cuts)
    root = vectors.T * np.sqrt(np.clip(values / size, 0, None) + RIDGE)[:, None]
    found, _ = nnls(np.vstack([root, np.ones(cuts)]), np.append(np.zeros(cuts), 1.0))
    return found / found.sum()


def cuts_of(steps: int) -> list[int]:
    """The cuts j of episodes of `steps` steps: -1, steps - 1, and up to MOST in all."""
    return np.unique(np.linspace(-1, steps - 1, min(MOST, steps + 1)).round().astype(int)).tolist()


def contributions(data: Trajectories, cuts: list[int]) -> Callable[[Floats], Floats]:
    """counts [n] -> [n, J], what one copy of each episode adds to each g_j of such a sample."""
    q, v = data.values()
    now, _ = scaled(data.log_weight)
    before, _ = scaled(data.log_weight_before)
    errors, values = now * (data.reward - q) * data.discounts, before * v * data.discounts
    columns, none = np.array(cuts) + 1, np.zeros((data.n, 1))

    def parts(counts: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            tail = values / (counts @ before)
            steps = errors / (counts @ now) + tail
        so_far = np.concatenate([none, np.cumsum(steps, axis=1)], axis=1)
        return (so_far + np.concatenate([tail, none], axis=1))[:, columns]

    return parts


def magic(data: Trajectories) -> Prepared:
    """The estimate of each sample of episodes, `counts` [B, n] -> [B]."""
    cuts = cuts_of(data.reward.shape[1])
    parts = contributions(data, cuts)

    def estimate(counts: Floats) -> Floats:
        return np.array([_mixed(parts(times), times) for times in counts])

    return estimate


def _mixed(parts: Floats, counts: Floats) -> float:
    from scipy import special

    held = counts > 0
    parts, counts = parts[held], counts[held]
    if not np.isfinite(parts).all():
        return float("nan")
    found, n = counts @ parts, int(counts.sum())
    if n < 2:
        return float(found[-1])
    spread = omega(parts, counts)
    quantile = float(special.stdtrit(n - 1, (1 + LEVEL) / 2))
    half = quantile * float(np.sqrt(max(float(spread[-1, -1]), 0.0)))
    away = found - found[-1]
    bias = np.sign(away) * np.clip(np.abs(away) - half, 0, None)
    return float(weights_of(spread + np.outer(bias, bias)) @ found)
