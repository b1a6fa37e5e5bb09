"""The estimators of J(pi) = E_pi[sum_t discount^t r_t] from n episodes of another policy mu.

    rho_t = pi(a_t|s_t) / mu(a_t|s_t)        w_{0:t} = prod_{k<=t} rho_k, w_{0:-1} = 1

Each is prepared for the episodes and then a function of `counts` [B, n], how often each of B
samples holds each episode: it returns B values. Counts of one give the estimate, resampled ones its
bootstrap, with every normaliser computed anew. Sources: Precup, Sutton & Singh 2000 (OIS, PDIS,
WIS, WPDIS); Jiang & Li 2016, 1511.03722 (DR); Thomas & Brunskill 2016, 1604.00923 (WDR).
"""

from collections.abc import Callable

import numpy as np

from offrl.ope.trajectories import Floats, Trajectories
from offrl.ope.weights import scaled

Prepared = Callable[[Floats], Floats]  # counts [B, n] -> [B]
Estimator = Callable[[Trajectories], Prepared]
Terms = Callable[[Trajectories], Floats]  # [n], whose mean is the estimate


def ois_terms(data: Trajectories) -> Floats:
    """w_{0:T-1} times the discounted return, [n]."""
    return times_weight(data.last_log_weight, data.returns)


def pdis_terms(data: Trajectories) -> Floats:
    """sum_t discount^t w_{0:t} r_t, [n]."""
    return times_weight(data.log_weight, data.reward) @ data.discounts


def dm_terms(data: Trajectories) -> Floats:
    """V of the first observation, [n]: the direct method."""
    return data.values()[1][:, 0]


def dr_terms(data: Trajectories) -> Floats:
    """V_t = V(s_t) + rho_t (r_t + discount V_{t+1} - Q(s_t, a_t)), backwards; V_0 is returned, [n].

    The same as sum_t discount^t (w_{0:t} (r_t - Q_t) + w_{0:t-1} V(s_t)).
    """
    q, v = data.values()
    value = np.zeros(data.n)
    for t in reversed(range(data.reward.shape[1])):
        rest = data.reward[:, t] + data.discount * value - q[:, t]
        value = v[:, t] + times_weight(data.log_ratio[:, t], rest)
    return value


def wis(data: Trajectories) -> Prepared:
    """sum_i w_i G_i / sum_i w_i."""
    weight, _ = scaled(data.last_log_weight)
    weighed = weight * data.returns
    return lambda counts: _ratio(counts @ weighed, counts @ weight)


def wpdis(data: Trajectories) -> Prepared:
    """sum_t discount^t sum_i w_{0:t} r_t / sum_i w_{0:t}."""
    weight, _ = scaled(data.log_weight)
    weighed = weight * data.reward
    return lambda counts: _ratio(counts @ weighed, counts @ weight) @ data.discounts


def wdr(data: Trajectories) -> Prepared:
    """DR with w_{0:t} and w_{0:t-1} each divided by their sum over the episodes."""
    q, v = data.values()
    now, _ = scaled(data.log_weight)
    before, _ = scaled(data.log_weight_before)
    errors, values = now * (data.reward - q), before * v

    def estimate(counts: Floats) -> Floats:
        steps = _ratio(counts @ errors, counts @ now) + _ratio(counts @ values, counts @ before)
        return steps @ data.discounts

    return estimate


def mean_of(terms: Terms) -> Estimator:
    """The estimator that is a plain mean of one term an episode."""

    def prepare(data: Trajectories) -> Prepared:
        found = terms(data)
        return lambda counts: counts @ found / counts.sum(1)

    return prepare


def times_weight(log_weight: Floats, values: Floats) -> Floats:
    """exp(log_weight) * values, 0 where either is; infinite where float64 has no such number."""
    with np.errstate(over="ignore", invalid="ignore"):
        product = np.exp(log_weight) * values
    return np.where((values == 0) | np.isneginf(log_weight), 0.0, product)


def _ratio(above: Floats, below: Floats) -> Floats:
    """above / below, NaN where no episode of the sample has any weight."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below > 0, above / below, np.nan)
