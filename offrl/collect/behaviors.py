"""Behaviours: who acts while data is recorded, with the exact log-probability of what they did.

    random                  uniform over the action space             log 1/volume, log 1/n
    NAME or FILE.py:NAME    a deterministic action                    none (NaN); log 1 if discrete
      ,noise=S              + normal noise, truncated to the bounds   the renormalised density
      ,epsilon=E            or a uniform action with probability E    the mixture's, both parts
    sb3:FILE.zip, run:DIR   a trained agent's mode, as above
    weights:NAME            the same
      ,stochastic           a draw of the agent's own distribution    its own (see `distributions`)

The log-probability is that of the *executed* action (as the environment receives it, in its dtype)
under the whole behaviour, so a uniform action of an epsilon mixture is scored by the mixture.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium import spaces

from offrl.collect.controllers import CONTROLLERS, Controller
from offrl.collect.densities import (
    FewCoordinates,
    UniformActions,
    truncated_mass,
    truncated_normal_log_density,
    truncated_normal_sample,
)
from offrl.collect.usercode import load_function, takes_rng
from offrl.data.recipe import BehaviorSpec
from offrl.errors import ConfigError, OffrlError, suggest

AGENTS = ("sb3:", "run:", "weights:")
_BLOCK = 64  # uniform actions drawn at once: a draw of one costs almost as much as one of 64


@runtime_checkable
class Behavior(Protocol):
    """Whoever chooses actions: `reset` before each episode, `act` once a step."""

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode whose draws all come from `rng`."""
        ...

    def act(self, obs: Any, rng: np.random.Generator) -> tuple[Any, float]:
        """Return an action for a raw observation and its log-probability (NaN: no density)."""
        ...


class RandomBehavior:
    """Uniform actions."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        self._uniform = UniformActions(space)
        self._log_prob = self._uniform.log_density
        self._left: list[Any] = []

    def reset(self, rng: np.random.Generator) -> None:
        """Forget actions that were drawn for the last episode."""
        self._left = []

    def act(self, obs: Any, rng: np.random.Generator) -> tuple[Any, float]:
        """Return a uniform action and its constant log-probability."""
        if not self._left:
            self._left = self._uniform.block(_BLOCK, rng)
        return self._left.pop(), self._log_prob


class DiscreteController:
    """A deterministic choice, replaced by a uniform one with probability epsilon."""

    def __init__(self, choose: Controller, space: spaces.Discrete, epsilon: float = 0.0) -> None:
        self._choose, self._epsilon = choose, epsilon
        self._n, self._start = int(space.n), int(space.start)

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode; nothing is remembered between steps."""

    def act(self, obs: Any, rng: np.random.Generator) -> tuple[int, float]:
        """Return a choice and log((1 - epsilon) [it is the controller's] + epsilon / n)."""
        chosen = _choice(self._choose(obs), self._start, self._n)
        action = chosen
        if self._epsilon and rng.random() < self._epsilon:
            action = self._start + int(rng.integers(self._n))
        own = 1.0 - self._epsilon if action == chosen else 0.0
        return action, math.log(own + self._epsilon / self._n)


class BoxController:
    """A deterministic action with truncated normal noise, mixed with uniform ones.

    Without noise the behaviour has an atom at the controller's action and so no density: its
    log-probabilities are NaN, also where epsilon is positive.
    """

    def __init__(
        self, choose: Controller, space: spaces.Box, noise: float = 0.0, epsilon: float = 0.0
    ) -> None:
        self._choose, self._noise, self._epsilon, self._space = choose, noise, epsilon, space
        self._low, self._high = space.low.astype(np.float64), space.high.astype(np.float64)
        self._uniform = UniformActions(space) if epsilon else None
        if noise and not np.issubdtype(space.dtype, np.floating):
            raise ConfigError(f"noise needs real actions, not {space.dtype}.", "Use epsilon.")
        few = noise and space.low.size <= FewCoordinates.MOST and space.low.ndim == 1
        self._few = FewCoordinates(noise, self._low, self._high) if few else None

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode; nothing is remembered between steps."""

    def act(self, obs: Any, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        """Return an action [*shape] and its log-density in environment action units."""
        action = mean = _inside(self._choose(obs), self._space)
        if self._few is not None and (masses := self._few.masses(mean.tolist())) is not None:
            if self._uniform is not None and rng.random() < self._epsilon:
                action = self._uniform.block(1, rng)[0]
            else:
                drawn = self._few.draw(mean.tolist(), masses, rng)
                action = np.array(drawn, self._space.dtype)
            own = self._few.log_density(action.tolist(), mean.tolist(), masses)
            return action, self._mixed(own)
        mass = self._mass(mean) if self._noise else None
        if self._uniform is not None and rng.random() < self._epsilon:
            action = self._uniform.block(1, rng)[0]
        elif self._noise:
            drawn = truncated_normal_sample(mean, self._noise, self._low, self._high, rng, mass)
            action = drawn.astype(self._space.dtype)
        return action, self.log_prob(action, mean, mass)

    def log_prob(self, action: Any, mean: Any, mass: Any = None) -> float:
        """Return the log-density of `action` where the controller proposes `mean`.

        `mass` is the logarithm of what the untruncated normal has within the bounds, where known.
        """
        if not self._noise:
            return math.nan
        own = truncated_normal_log_density(
            action, mean, self._noise, self._low, self._high, mass
        )  # fmt: skip
        return self._mixed(float(own.sum()))

    def _mixed(self, own: float) -> float:
        """Return the log-density of the mixture where `own` is that of the noise alone."""
        if self._uniform is None:
            return own
        if self._epsilon == 1.0:
            return self._uniform.log_density
        uniform = math.log(self._epsilon) + self._uniform.log_density
        return float(np.logaddexp(math.log1p(-self._epsilon) + own, uniform))

    def _mass(self, mean: Any) -> Any:
        return truncated_mass(mean, self._noise, self._low, self._high)


class StochasticFunction:
    """A function of (obs, rng) that returns (action, log_prob) by itself."""

    def __init__(self, draw: Callable[[Any, np.random.Generator], Any]) -> None:
        self._draw = draw

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode; what the function remembers is its own."""

    def act(self, obs: Any, rng: np.random.Generator) -> tuple[Any, float]:
        """Return what the function returns; ConfigError where it is not such a pair."""
        drawn = self._draw(obs, rng)
        if not (isinstance(drawn, tuple) and len(drawn) == 2):
            raise ConfigError(
                f"A policy of (obs, rng) returned {type(drawn).__name__}, not (action, log_prob).",
                "Return both, with float('nan') where the log-probability is not known.",
            )
        action, log_prob = drawn
        value = float(log_prob)
        if value == math.inf or value == -math.inf:
            raise ConfigError(
                f"A policy of (obs, rng) returned the log-probability {value} for its own action.",
                "Return the natural log of its density or probability, or float('nan').",
            )
        return action, value


class Checked:
    """Somebody's own behaviour, with every action checked against the space."""

    def __init__(self, behavior: Behavior, space: spaces.Space[Any]) -> None:
        self._behavior, self._space = behavior, space

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode."""
        self._behavior.reset(rng)

    def act(self, obs: Any, rng: np.random.Generator) -> tuple[Any, float]:
        """Return the behaviour's action in the space's dtype, and its log-probability."""
        action, log_prob = self._behavior.act(obs, rng)
        if isinstance(self._space, spaces.Discrete):
            return _choice(action, int(self._space.start), int(self._space.n)), log_prob
        if isinstance(self._space, spaces.Box):
            return _inside(action, self._space), log_prob
        return action, log_prob


def build(
    spec: BehaviorSpec,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    *,
    trust: bool = False,
) -> Behavior:
    """Return the behaviour that a recipe or `--policy` names, for an environment's spaces.

    With `trust` the pickled parts of an agent may be executed, where they are needed.
    Raises ConfigError where the name, an option or the spaces do not fit, NotFoundError for a
    file or function that is not there.
    """
    name = spec.policy
    if name == "random":
        if spec.noise or spec.epsilon:
            raise ConfigError(
                f"'{spec}' adds noise or epsilon to actions that are uniform already.",
                "Leave the option out, or name a controller.",
            )
        _deterministic(spec)
        return RandomBehavior(action_space)
    if name.startswith(AGENTS):
        from offrl.collect.agents import agent_behavior  # it puts noise around agents with `around`

        return agent_behavior(spec, observation_space, action_space, trust=trust)
    if ".py:" in name:
        function = load_function(name)
        if takes_rng(function, name):
            return Checked(_stochastic(function, spec), action_space)
        return around(function, spec, action_space)
    if name not in CONTROLLERS:
        known = ("random", *CONTROLLERS)
        raise ConfigError(
            f"There is no policy '{name}'.{suggest(name, known)}",
            f"Known are {', '.join(known)}, agents as sb3:FILE.zip, run:DIR or weights:NAME, and a "
            "function of yours as FILE.py:FUNCTION.",
        )
    CONTROLLERS[name].check(name, observation_space, action_space)
    return around(CONTROLLERS[name].act, spec, action_space)


def from_callable(policy: Any, action_space: spaces.Space[Any]) -> tuple[str, Behavior]:
    """Return a name and a behaviour for a Behavior object or a Python function."""
    name = str(getattr(policy, "__qualname__", type(policy).__qualname__))
    if isinstance(policy, Behavior):
        return name, Checked(policy, action_space)
    if not callable(policy):
        raise ConfigError(
            f"A {type(policy).__name__} is not a policy.",
            "Give a name, a function of obs, or an object with reset(rng) and act(obs, rng).",
        )
    if takes_rng(policy, name):
        return name, Checked(StochasticFunction(policy), action_space)
    return name, around(policy, BehaviorSpec(name), action_space)


def around(choose: Controller, spec: BehaviorSpec, space: spaces.Space[Any]) -> Behavior:
    """Return a deterministic policy with the noise and epsilon of a spec around it."""
    _deterministic(spec)
    if isinstance(space, spaces.Discrete):
        if spec.noise:
            raise ConfigError(
                f"'{spec}' adds noise to discrete actions.",
                "Noise is for continuous actions; use epsilon here.",
            )
        return DiscreteController(choose, space, spec.epsilon)
    if isinstance(space, spaces.Box):
        return BoxController(choose, space, spec.noise, spec.epsilon)
    raise ConfigError(
        f"Actions of {space} cannot be recorded.", "Wrap the environment to Box or Discrete."
    )


def _stochastic(function: Callable[..., Any], spec: BehaviorSpec) -> Behavior:
    if spec.noise or spec.epsilon or spec.stochastic:
        raise ConfigError(
            f"'{spec}' adds options to a function that draws its own actions.",
            "Draw them inside the function and return the log-probability.",
        )
    return StochasticFunction(function)


def _deterministic(spec: BehaviorSpec) -> None:
    if spec.stochastic:
        raise ConfigError(
            f"'{spec.policy}' has no distribution of its own to be stochastic with.",
            "Use noise=S or epsilon=E, or leave 'stochastic' out.",
        )


class PolicyAnswerError(OffrlError):
    """What a policy returned is not an action of the space; the recorder names the place."""


def _choice(value: Any, start: int, n: int) -> int:
    number = np.asarray(value)
    if number.shape != () or not np.issubdtype(number.dtype, np.integer):
        raise PolicyAnswerError(f"it returned {value!r}, not one whole number")
    if not start <= int(number) < start + n:
        raise PolicyAnswerError(f"it returned {int(number)}, outside {start}..{start + n - 1}")
    return int(number)


def _inside(value: Any, space: spaces.Box) -> np.ndarray:
    action = np.asarray(value, dtype=space.dtype)
    if action.shape != space.shape:
        raise PolicyAnswerError(f"it returned shape {action.shape}, the space has {space.shape}")
    if not ((action >= space.low) & (action <= space.high)).all():
        raise PolicyAnswerError(f"it returned {action.tolist()}, outside the bounds")
    return action
