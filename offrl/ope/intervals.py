"""Intervals over episodes: the bootstrap of a whole estimator, and bounds that hold for any n.

Student's t is `offrl.evaluation.statistics.interval`. It needs a plain mean of one term an episode;
ratios such as WIS have none, and get the bootstrap alone. Empirical Bernstein (Maurer & Pontil
2009, 0907.3740, theorem 4) and Hoeffding hold for every distribution within a range that was known
*before* the data; the sample's own range makes them wrong.

Importance weights have no useful range, so for the bounds they are clipped at W (Thomas,
Theocharous & Ghavamzadeh 2015). With returns X in [g, G] and E[w] = 1,

    J = g + E[w (X - g)] >= g + E[min(w, W) (X - g)]
    J = G - E[w (G - X)] <= G - E[min(w, W) (G - X)]

so a lower limit comes from the first mean and an upper one from the second, both of terms within
[0, W (G - g)].
"""

import math
from collections.abc import Callable

import numpy as np

from offrl.errors import ConfigError
from offrl.ope.estimators import Estimator
from offrl.ope.trajectories import Floats, Trajectories

Bounds = tuple[float, float]
BLOCK = 2_000_000  # counts held at once


def bernstein(sample: Floats, width: float, delta: float) -> float:
    """How far a mean of `sample` [n] may be above its expectation, with probability 1 - delta.

    sqrt(2 s^2 ln(2/delta) / n) + 7 width ln(2/delta) / (3 (n - 1)), of values that lie in an
    interval of `width` known beforehand; s^2 with n - 1 below the line. Infinite for n < 2.
    """
    n = len(sample)
    if n < 2:
        return math.inf
    log = math.log(2 / delta)
    return math.sqrt(2 * float(sample.var(ddof=1)) * log / n) + 7 * width * log / (3 * (n - 1))


def hoeffding(n: int, width: float, delta: float) -> float:
    """The same by Hoeffding's inequality, which does not look at the spread."""
    return width * math.sqrt(math.log(1 / delta) / (2 * n))


def resampled(n: int, replicates: int, rng: np.random.Generator) -> Floats:
    """How often each of n episodes is drawn in each of `replicates` samples of n, [B, n]."""
    drawn = rng.integers(n, size=(replicates, n))
    drawn += np.arange(replicates)[:, None] * n
    found = np.bincount(drawn.reshape(-1), minlength=replicates * n)
    return found.reshape(replicates, n).astype(np.float64)


def bootstrap(n: int, replicates: int, seed: int, estimate: Callable[[Floats], Floats]) -> Floats:
    """`estimate(counts)` of `replicates` resamples of n episodes: the same ones for equal seeds.

    `estimate` returns [B, ...]; NaN marks a sample in which no episode has any weight.
    """
    rng, parts, left = np.random.default_rng(seed), [], replicates
    while left:
        size = min(left, max(1, BLOCK // n))
        parts.append(estimate(resampled(n, size, rng)))
        left -= size
    return np.concatenate(parts)


def percentile(replicates: Floats, level: float) -> Bounds | None:
    """The central `level` of bootstrap replicates [B]; None where a twentieth of them is NaN."""
    finite = replicates[np.isfinite(replicates)]
    if len(finite) < 0.95 * len(replicates):
        return None
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def return_range(rewards: Bounds, discount: float, horizon: int | None) -> Bounds:
    """The smallest and largest discounted return of rewards in a range; an episode may end early.

    Raises ConfigError where the discount is 1 and nothing says how long an episode can be.
    """
    low, high = rewards
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ConfigError(
            f"The range of rewards is {low:g} to {high:g}.", "Give the smallest, then the largest."
        )
    if horizon is not None:
        steps = horizon if discount == 1 else (1 - discount**horizon) / (1 - discount)
    elif discount < 1:
        steps = 1 / (1 - discount)
    else:
        raise ConfigError(
            "At a discount of 1 the range of rewards bounds no return.",
            "Give the horizon too, the most steps that an episode can have.",
        )
    return min(low, low * steps), max(high, high * steps)


def clipped_bounds(
    value: Floats, log_weight: Floats, span: Bounds, limit: float, level: float
) -> dict[str, Bounds]:
    """Both bounds of E[w X]: X [n] within `span`, weights [n] clipped at `limit`, as drawn above.

    Each limit has half of 1 - level to be wrong. `span` and `limit` must not come from the data.
    """
    with np.errstate(over="ignore"):
        weight = np.minimum(np.exp(log_weight), limit)
    low, high = span
    width, delta = limit * (high - low), (1 - level) / 2
    above, below = weight * (value - low), weight * (high - value)
    found = {}
    for name, half in (
        ("bernstein", lambda sample: bernstein(sample, width, delta)),
        ("hoeffding", lambda sample: hoeffding(len(sample), width, delta)),
    ):
        lower = low + float(above.mean()) - half(above)
        upper = high - float(below.mean()) + half(below)
        found[name] = (max(lower, low), min(upper, high))
    return found


def replicates_of(
    data: Trajectories, estimators: dict[str, Estimator], replicates: int, seed: int
) -> dict[str, Floats]:
    """Bootstrap replicates [B] of each estimator, of the same resamples of the episodes."""
    names = list(estimators)
    prepared = [estimators[name](data) for name in names]
    found = bootstrap(
        data.n,
        replicates,
        seed,
        lambda counts: np.stack([estimate(counts) for estimate in prepared], axis=1),
    )
    return {name: found[:, column] for column, name in enumerate(names)}
