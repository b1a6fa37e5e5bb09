"""Estimators for decisions that nothing follows: one step an episode, w = pi(a|s) / mu(a|s).

    IPS           mean w r                                    Horvitz & Thompson 1952
    SNIPS         sum w r / sum w                             Swaminathan & Joachims 2015
    clipped IPS   mean min(w, c) r                            biased towards 0; c as in Ionides 2008
    DM            mean E_pi Q(s, .)
    DR            mean E_pi Q(s, .) + w (r - Q(s, a))         Dudik, Langford & Li 2011, 1103.4601
    switch-DR     DR where w <= c, DM where it is above       Wang, Agarwal & Dudik 2017, 1612.01205

c is sqrt(n) unless it is given: a rate at which the bias vanishes, chosen without the data.
"""

import numpy as np

from offrl.ope.estimators import Terms, times_weight
from offrl.ope.trajectories import Floats, Trajectories


def threshold(n: int) -> float:
    """The weight at which n decisions are clipped or switched, sqrt(n)."""
    return float(np.sqrt(n))


def clipped_ips_terms(limit: float) -> Terms:
    """min(w, limit) r, [n]."""

    def terms(data: Trajectories) -> Floats:
        return times_weight(np.minimum(data.last_log_weight, np.log(limit)), data.returns)

    return terms


def switch_dr_terms(limit: float) -> Terms:
    """E_pi Q + w (r - Q) where w <= limit, E_pi Q elsewhere, [n]."""

    def terms(data: Trajectories) -> Floats:
        q, v = data.values()
        few = data.last_log_weight <= np.log(limit)
        log_weight = np.where(few, data.last_log_weight, -np.inf)
        return v[:, 0] + times_weight(log_weight, data.reward[:, 0] - q[:, 0])

    return terms
