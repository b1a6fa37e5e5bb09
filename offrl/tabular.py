"""Exact answers on finite MDPs, for teaching and for testing what is learned from logs.

    V = r^pi + discount P^pi V        Q(s, a) = r(s, a) + discount sum_s' P(s'|s, a) V(s')
    A = Q - V                         d^pi(s) = (1 - discount) sum_t discount^t Pr(s_t = s)
    J(pi) = sum_s start(s) V^pi(s)

Policies are arrays [S, A] of probabilities. Linear systems are solved, nothing is simulated: an
answer is as exact as float64. This file needs numpy alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from offrl.errors import ConfigError

_CLOSE = 1e-9  # rounding that probabilities may carry


@dataclass(frozen=True, eq=False)
class MDP:
    """A finite Markov decision process of S states and A actions.

    Arriving in s' by (s, a) ends the episode with probability `termination[s, a, s']`, and always
    where s' is `terminal`; nothing is earned after that, and what a terminal state's own rows hold
    does not matter. Raises ConfigError naming the first entry that cannot be.
    """

    transition: np.ndarray  # [S, A, S], P(s'|s, a)
    reward: np.ndarray  # [S, A]
    discount: float  # from 0 to below 1
    start: np.ndarray  # [S], probabilities of the first state
    terminal: Sequence[int] = ()
    termination: np.ndarray | None = None  # [S, A, S], probabilities

    def __post_init__(self) -> None:
        for name in ("transition", "reward", "start", "termination"):
            if getattr(self, name) is not None:
                numbers = np.asarray(getattr(self, name), np.float64)
                object.__setattr__(self, name, numbers)
                if not np.isfinite(numbers).all():
                    raise ConfigError(f"The {name} of the MDP holds numbers that are not finite.")
        shape = self.transition.shape
        if len(shape) != 3 or shape[0] != shape[2] or 0 in shape:
            raise ConfigError(f"The transition must be [S, A, S], not {list(shape)}.")
        for name, expected in (("reward", shape[:2]), ("start", shape[:1]), ("termination", shape)):
            array = getattr(self, name)
            if array is not None and array.shape != expected:
                raise ConfigError(
                    f"The {name} of the MDP must be {list(expected)}, not {list(array.shape)}."
                )
        if not 0 <= self.discount < 1:
            raise ConfigError(f"The discount must be from 0 to below 1, not {self.discount}.")
        states = set(range(shape[0]))
        if strange := sorted(set(self.terminal) - states):
            raise ConfigError(f"There is no state {strange[0]} to be terminal.")
        acting = sorted(states - set(self.terminal))
        if self.termination is not None and not _within_one(self.termination):
            raise ConfigError("The termination of the MDP must be probabilities, from 0 to 1.")
        _check_rows(self.transition[acting], "The transition", acting)
        _check_rows(self.start, "The start", None)
        if self.start[list(self.terminal)].any():
            raise ConfigError("An episode cannot start in a terminal state.")

    @property
    def states(self) -> int:
        """S."""
        return self.transition.shape[0]

    @property
    def actions(self) -> int:
        """A."""
        return self.transition.shape[1]

    @cached_property
    def continuing(self) -> np.ndarray:
        """[S, A, S], the probability of arriving in s' with a future: rows may sum to below one."""
        kept = self.transition * (1 if self.termination is None else 1 - self.termination)
        kept[:, :, list(self.terminal)] = 0
        kept[list(self.terminal)] = 0
        return kept

    @cached_property
    def earned(self) -> np.ndarray:
        """[S, A], the reward, 0 in terminal states."""
        earned = self.reward.copy()
        earned[list(self.terminal)] = 0
        return earned


class Values(NamedTuple):
    """What a policy is worth: V [S], Q [S, A] and A = Q - V [S, A]."""

    v: np.ndarray
    q: np.ndarray
    advantage: np.ndarray


def values(mdp: MDP, policy: np.ndarray) -> Values:
    """V, Q and A of a policy, from one linear system: (I - discount P^pi) V = r^pi."""
    pi = _policy(mdp, policy)
    reward = (pi * mdp.earned).sum(1)
    v = np.linalg.solve(np.eye(mdp.states) - mdp.discount * _chain(mdp, pi), reward)
    q = backup(mdp, v)
    return Values(v, q, q - v[:, None])


def backup(mdp: MDP, v: np.ndarray) -> np.ndarray:
    """r(s, a) + discount sum_s' P(s'|s, a) v(s'), [S, A]: one step ahead of any v [S]."""
    return mdp.earned + mdp.discount * mdp.continuing @ v


def optimal(mdp: MDP) -> Values:
    """V*, Q* and A* by policy iteration, which is exact after finitely many policies."""
    best = mdp.earned.argmax(1)
    while True:
        found = values(mdp, np.eye(mdp.actions)[best])
        if (found.q.max(1) <= found.v + 1e-12 * (1 + np.abs(found.v))).all():
            return found
        best = found.q.argmax(1)


def soft_optimal(mdp: MDP, temperature: float) -> Values:
    """V, Q and Q - V of the policy that maximises return plus `temperature` times its entropy.

        V(s) = temperature log sum_a exp(Q(s, a) / temperature)      pi = exp((Q - V) / temperature)

    iterated to its fixed point, a contraction (Haarnoja et al. 2018, 1801.01290, section 4.1).
    """
    _check_temperature(temperature)
    ended = np.isin(np.arange(mdp.states), list(mdp.terminal))
    v = np.zeros(mdp.states)
    while True:
        q = backup(mdp, v)
        top = q.max(1)
        bonus = temperature * np.log(np.exp((q - top[:, None]) / temperature).sum(1))
        new = np.where(ended, 0, top + bonus)
        if np.abs(new - v).max() <= 1e-14 * (1 + np.abs(new).max()) * max(1, mdp.states):
            return Values(new, q, q - new[:, None])
        v = new


def performance(mdp: MDP, policy: np.ndarray) -> float:
    """J, the expected discounted return from the start."""
    return float(mdp.start @ values(mdp, policy).v)


def occupancy(mdp: MDP, policy: np.ndarray) -> np.ndarray:
    """d^pi(s) = (1 - discount) sum_t discount^t Pr(s_t = s and the episode goes on), [S].

    Sums to one where nothing terminates; what is missing is the share of having ended.
    """
    chain = _chain(mdp, _policy(mdp, policy))
    start = (1 - mdp.discount) * mdp.start
    return np.linalg.solve(np.eye(mdp.states) - mdp.discount * chain.T, start)


def expected(mdp: MDP, states_of: np.ndarray, actions_of: np.ndarray, x: np.ndarray) -> float:
    """1/(1 - discount) E[x(s, a)] over states of one policy and actions of another, x [S, A]."""
    weight = occupancy(mdp, states_of)[:, None] * _policy(mdp, actions_of)
    return float((weight * x).sum() / (1 - mdp.discount))


def performance_difference(mdp: MDP, pi: np.ndarray, mu: np.ndarray) -> float:
    """1/(1 - discount) E_{s ~ d^pi, a ~ pi}[A^mu], which is J(pi) - J(mu).

    States of pi, advantages of mu (Kakade & Langford 2002, lemma 6.1).
    """
    return expected(mdp, pi, pi, values(mdp, mu).advantage)


def mirrored_difference(mdp: MDP, pi: np.ndarray, mu: np.ndarray) -> float:
    """-1/(1 - discount) E_{s ~ d^mu, a ~ mu}[A^pi], which is J(pi) - J(mu) too.

    States of mu, advantages of pi: the lemma with the roles exchanged.
    """
    return -expected(mdp, mu, mu, values(mdp, pi).advantage)


def surrogate(mdp: MDP, pi: np.ndarray, mu: np.ndarray) -> float:
    """1/(1 - discount) E_{s ~ d^mu, a ~ pi}[A^mu]: what AWR and PPO maximise in place of the lemma.

    Off by a term of second order in the change of policy.
    """
    return expected(mdp, mu, pi, values(mdp, mu).advantage)


def lower_bound(mdp: MDP, pi: np.ndarray, mu: np.ndarray) -> float:
    """surrogate - 4 e discount / (1 - discount)^2 t^2, never above J(pi) - J(mu).

    e = max |A^mu| and t = max_s TV(pi, mu) (Schulman et al. 2015, 1502.05477, theorem 1).
    """
    largest = np.abs(values(mdp, mu).advantage).max()
    distance = 0.5 * np.abs(_policy(mdp, pi) - _policy(mdp, mu)).sum(1).max()
    penalty = 4 * largest * mdp.discount / (1 - mdp.discount) ** 2 * distance**2
    return surrogate(mdp, pi, mu) - float(penalty)


def reverse_kl_optimum(
    mu: np.ndarray, advantage: np.ndarray, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """The policy that maximises E_pi[A] - temperature KL(pi || mu) in each state, and its value.

        pi(a|s) = mu(a|s) exp(A(s, a) / temperature) / Z(s)       value = temperature log Z(s)

    AWR's closed form (Peng et al. 2019, 1910.00177, eq. 9); all arrays [..., A], the value [...].
    """
    mu, advantage = _tilted(mu, advantage, temperature)
    top = np.where(mu > 0, advantage, -np.inf).max(-1, keepdims=True)
    weight = mu * np.exp(np.minimum(advantage - top, 0) / temperature)
    total = weight.sum(-1, keepdims=True)
    return weight / total, (top + temperature * np.log(total))[..., 0]


def forward_kl_optimum(
    mu: np.ndarray, advantage: np.ndarray, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """The policy that maximises E_pi[A] - temperature KL(mu || pi) in each state, and nu.

        pi(a|s) = temperature mu(a|s) / (nu(s) - A(s, a))

    where nu(s) > max_a A(s, a) is the multiplier that makes it sum to one; found by bisection. All
    arrays [..., A], nu [...]. Where mu has no mass, pi has none.
    """
    mu, advantage = _tilted(mu, advantage, temperature)
    held = np.where(mu > 0, advantage, -np.inf)
    high = held.max(-1, keepdims=True) + temperature  # here the sum is at most 1
    low = (held + temperature * mu).max(-1, keepdims=True)  # one term is 1: the sum is at least 1

    def tilt(nu: np.ndarray) -> np.ndarray:
        gap = np.where(mu > 0, nu - advantage, 1)
        return temperature * mu / gap

    for _ in range(200):
        middle = (low + high) / 2
        above = tilt(middle).sum(-1, keepdims=True) > 1
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return tilt(high), high[..., 0]


def _policy(mdp: MDP, policy: np.ndarray) -> np.ndarray:
    pi = np.asarray(policy, np.float64)
    if pi.shape != (mdp.states, mdp.actions):
        raise ConfigError(
            f"A policy of this MDP must be {[mdp.states, mdp.actions]}, not {list(pi.shape)}."
        )
    _check_rows(pi, "The policy", list(range(mdp.states)))
    return pi


def _chain(mdp: MDP, pi: np.ndarray) -> np.ndarray:
    return np.einsum("sa,sat->st", pi, mdp.continuing)


def _tilted(
    mu: np.ndarray, advantage: np.ndarray, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    _check_temperature(temperature)
    mu, advantage = np.asarray(mu, np.float64), np.asarray(advantage, np.float64)
    if mu.shape != advantage.shape or mu.ndim < 1:
        raise ConfigError(
            f"mu and the advantage must be of one shape [..., A], not {list(mu.shape)} and "
            f"{list(advantage.shape)}."
        )
    _check_rows(mu, "mu", None)
    return mu, advantage


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < np.inf:
        raise ConfigError(f"The temperature must be above 0 and finite, not {temperature}.")


def _within_one(array: np.ndarray) -> bool:
    return bool(((array >= 0) & (array <= 1)).all())


def _check_rows(rows: np.ndarray, name: str, states: list[int] | None) -> None:
    totals = rows.sum(-1)
    wrong = (np.abs(totals - 1) > _CLOSE) | (rows < -_CLOSE).any(-1) | ~np.isfinite(totals)
    if not wrong.any():
        return
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    numbers = ", ".join(f"{p:g}" for p in rows[at].tolist())
    where = ""
    if states is not None:
        where = f" of state {states[at[0]]}" + (f", action {at[1]}" if len(at) > 1 else "")
    raise ConfigError(f"{name}{where} is no distribution: {numbers}.", "It must sum to one.")
