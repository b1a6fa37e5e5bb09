"""Trained agents as behaviours, acting by their mode or by chance.

They are named `sb3:FILE.zip`, `run:DIR` or `weights:NAME`.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from offrl.collect.behaviors import Behavior, PolicyAnswerError, around
from offrl.collect.densities import UniformActions
from offrl.collect.distributions import Distribution
from offrl.data.recipe import BehaviorSpec
from offrl.errors import ConfigError

_LOG = logging.getLogger("offrl")


@dataclass(frozen=True)
class Agent:
    """A policy network: a distribution over actions for each raw observation."""

    at: Callable[[Any], Distribution]
    stochastic: bool  # whether the distribution is one to sample from and to score with
    notes: tuple[str, ...] = ()  # what a person should know
    sampling_notes: tuple[str, ...] = ()  # and who samples it

    def mode(self, obs: Any) -> Any:
        """Return the action of an agent that does not explore."""
        return self.at(obs).mode()

    def log_prob(self, obs: Any, action: Any) -> float:
        """Return the log-probability of an executed action, NaN where there is no density."""
        return self.at(obs).log_prob(action)


class Sampling:
    """An agent that samples its own distribution, or a uniform action with probability epsilon.

    A uniform action lies on a bound with probability zero, so where an agent that clips was
    clipped, only its own share of the mixture counts.
    """

    def __init__(self, agent: Agent, space: spaces.Space[Any], epsilon: float = 0.0) -> None:
        self._agent, self._epsilon = agent, epsilon
        self._uniform = UniformActions(space) if epsilon else None

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode; nothing is remembered between steps."""

    def act(self, obs: Any, rng: np.random.Generator) -> tuple[Any, float]:
        """Return an action and its log-probability under the whole behaviour."""
        distribution = self._agent.at(obs)
        if self._uniform is not None and rng.random() < self._epsilon:
            action = self._uniform.block(1, rng)[0]
        else:
            action = distribution.sample(rng)
        log_prob = self._log_prob(distribution, action)
        if not math.isfinite(log_prob):
            raise PolicyAnswerError(f"the log-probability of its own action is {log_prob}")
        return action, log_prob

    def log_prob(self, obs: Any, action: Any) -> float:
        """Return the log-probability of an executed action under the whole behaviour."""
        return self._log_prob(self._agent.at(obs), action)

    def _log_prob(self, distribution: Distribution, action: Any) -> float:
        if self._uniform is None:
            return distribution.log_prob(action)
        uniform = self._uniform.log_density
        if self._epsilon == 1.0:
            return uniform
        own = math.log1p(-self._epsilon) + distribution.log_prob(action)
        if distribution.at_bound(action):
            return own
        return float(np.logaddexp(own, math.log(self._epsilon) + uniform))


def agent_behavior(
    spec: BehaviorSpec,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    *,
    trust: bool = False,
) -> Behavior:
    """Return the behaviour of an agent with the options of a spec.

    Raises NotFoundError, ConfigError where the agent or an option does not fit, CorruptDataError
    and UnsafeDataError for files that are damaged or hold more than an agent's data.
    """
    agent = load_agent(spec.policy, observation_space, action_space, trust=trust)
    for note in (*agent.notes, *(agent.sampling_notes if spec.stochastic else ())):
        _LOG.warning("%s %s", spec.policy, note)
    if not spec.stochastic:
        return around(agent.mode, spec, action_space)
    if not agent.stochastic:
        raise ConfigError(
            f"'{spec.policy}' is deterministic and has no distribution of its own to sample.",
            "Leave 'stochastic' out, and add noise=S or epsilon=E.",
        )
    if isinstance(action_space, spaces.Box) and action_space.dtype.kind != "f":
        raise ConfigError(
            f"'{spec}' samples from a density, which is none where actions are rounded to"
            f" {action_space.dtype}.",
            "Leave 'stochastic' out, and add epsilon=E.",
        )
    if spec.noise:
        raise ConfigError(
            f"'{spec}' adds noise to an agent that samples its own actions.",
            "Give stochastic or noise, not both.",
        )
    return Sampling(agent, action_space, spec.epsilon)


def load_agent(
    policy: str,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    *,
    trust: bool = False,
) -> Agent:
    """Return the agent that a policy's name stands for, for an environment's spaces.

    With `trust` the pickled parts of a zip may be executed, where they are needed.
    """
    kind, _, reference = policy.partition(":")
    if kind == "sb3":
        from offrl.collect.sb3 import read_agent  # brings torch, which other policies do without

        return read_agent(Path(reference), observation_space, action_space, trust=trust)
    if kind == "weights":
        from offrl.collect.weights import weights_agent  # the same

        return weights_agent(reference, observation_space, action_space)
    from offrl.collect.runs import run_agent  # the same

    return run_agent(reference, observation_space, action_space)


def agent_source(policy: str) -> dict[str, Any]:
    """Return what identifies an agent: the SHA-256 of its files, kept with the data it made."""
    kind, _, reference = policy.partition(":")
    if kind == "sb3":
        from offrl.collect.sb3 import digests

        return digests(Path(reference))
    if kind == "weights":
        from offrl.collect.weights import weights_digests

        return weights_digests(reference)
    from offrl.collect.runs import run_digests

    return run_digests(reference)
