"""What the importance weights say of themselves: how many episodes they leave, and what they lack.

    ESS = (sum_i w_i)^2 / sum_i w_i^2        (Kish 1965)
    E_mu[w_{0:t}] = 1 for every t            a mean below it tells that something is not in the log
    E_mu[rho_t | s_t] = 1 for every t        where this holds, single actions are in the log

Where the first fails and the second does too, mu never takes some of the candidate's actions: the
support is lost. Where the second holds, it takes each of them, and too few episodes take all of
them: the weight that is missing is in episodes that a larger log would hold.

All of it is of logarithms: a weight of 500 steps is not a float64.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from offrl.ope.trajectories import Floats, Trajectories

FEW = 5.0  # effective episodes below which no importance estimate is given
SCARCE = 50.0  # or a twentieth of the episodes: told, and the estimate is given
KEYS = (
    *("ess", "ess_per_step", "mean_weight_per_step"),
    *("largest_weight_share", "largest_log_weight", "lost_support_from_step"),
    *("thin_from_step", "mean_ratio"),
)
LOST = 3.0  # standard errors that a mean weight stays below 1
ROUNDING = 1e-3  # of a mean weight, which float32 log-probabilities may cost in 1,000 steps


@dataclass(frozen=True)
class Weights:
    """Diagnostics of n episodes' cumulative weights."""

    n: int
    ess: float  # of the weights of whole episodes
    ess_per_step: tuple[float, ...]
    mean_per_step: tuple[float, ...]  # 1 in expectation, where mu supports pi
    largest_share: float  # of the sum of the weights of whole episodes, that the largest has
    largest_log: float  # natural log of the largest weight of a whole episode
    lost_from: int | None  # the first step whose mean weight is below 1, as single ratios are too
    thin_from: int | None = None  # the same where single ratios are 1 on average
    mean_ratio: float = 1.0  # of single steps, up to that step

    @property
    def scarce(self) -> bool:
        """Whether so few effective episodes are left that intervals are too short."""
        return self.ess < max(SCARCE, 0.05 * self.n)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON."""
        found = (
            *(self.ess, list(self.ess_per_step), list(self.mean_per_step)),
            *(self.largest_share, self.largest_log, self.lost_from),
            *(self.thin_from, self.mean_ratio),
        )
        return dict(zip(KEYS, found, strict=True))


def scaled(log_weight: Floats) -> tuple[Floats, Floats]:
    """exp(log_weight - its largest along the first axis), and that largest; 0 where all are 0."""
    top = log_weight.max(axis=0, initial=-np.inf)
    safe = np.where(np.isfinite(top), top, 0.0)
    return np.exp(log_weight - safe), safe


def effective(log_weight: Floats) -> Floats:
    """(sum w)^2 / sum w^2 along the first axis; 0 where every weight is 0."""
    weight, _ = scaled(np.asarray(log_weight, np.float64))
    squares = np.square(weight).sum(0)
    return np.square(weight.sum(0)) / np.where(squares > 0, squares, 1.0)


def effective_sample_size(weight: Floats) -> float:
    """(sum w)^2 / sum w^2 of weights [n], each 0 or more."""
    with np.errstate(divide="ignore"):
        return float(effective(np.log(np.asarray(weight, np.float64))))


def diagnose(data: Trajectories) -> Weights:
    """The diagnostics of the weights of `data`."""
    steps = int(data.lengths.max())  # not the one that stands for a future
    log_weight = data.log_weight[:, :steps]
    with np.errstate(over="ignore"):
        weight = np.exp(np.minimum(log_weight, 600.0))
    mean, n = weight.mean(0), data.n
    error = weight.std(0, ddof=1) / np.sqrt(n) if n > 1 else np.full(steps, np.inf)
    below = np.flatnonzero(mean + LOST * error < 1 - ROUNDING)
    last, _ = scaled(data.last_log_weight)
    first = int(below[0]) if below.size else None
    gone, ratio = _missing(data, steps if first is None else first + 1)
    return Weights(
        n=n,
        ess=float(effective(data.last_log_weight)),
        ess_per_step=tuple(effective(log_weight).tolist()),
        mean_per_step=tuple(mean.tolist()),
        largest_share=float(last.max() / last.sum()) if last.sum() > 0 else 0.0,
        largest_log=float(data.last_log_weight.max()),
        lost_from=first if gone else None,
        thin_from=None if gone else first,
        mean_ratio=ratio,
    )


def _missing(data: Trajectories, steps: int) -> tuple[bool, float]:
    """Whether single ratios of the first steps are clearly below 1 on average, and their mean."""
    going = np.arange(steps) < data.lengths[:, None]
    with np.errstate(over="ignore"):
        away = np.exp(np.minimum(data.log_ratio[:, :steps], 600.0)) - 1
    sums = np.where(going, away, 0.0).sum(1)  # an episode's steps depend on one another
    error = sums.std(ddof=1) / np.sqrt(data.n) if data.n > 1 else np.inf
    return bool(sums.mean() + LOST * error < -ROUNDING), 1 + float(sums.sum() / going.sum())
