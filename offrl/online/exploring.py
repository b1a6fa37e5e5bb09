"""What a policy does while it learns: its own distribution, made wider where it has none."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from offrl.distributions import Categorical, Deterministic, Gaussian, Greedy


class Uniform(NamedTuple):
    """Continuous actions, each as likely as any other within the bounds."""

    low: Tensor  # [A]
    high: Tensor  # [A]
    rows: int

    def sample(self, noise: Tensor) -> Tensor:
        """Actions [K, A] from standard normal `noise` [K, A]."""
        return self.low + (self.high - self.low) * torch.special.ndtr(noise)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log density [K]."""
        return -(self.high - self.low).log().sum().expand(self.rows)


def exploring(distribution: Any, noise: float, epsilon: float) -> Any:
    """The distribution that acts: with `sample(noise)` and `log_prob(action)`.

    A deterministic action gets Gaussian noise of `noise` half ranges, clipped to the bounds, so a
    bound has the mass of its tail; a greedy one is random with probability `epsilon`. Policies
    that are distributions act as they are.
    """
    if isinstance(distribution, Deterministic):
        action, low, high = distribution
        return Gaussian(action, (high - low) / 2 * noise, low, high)
    if isinstance(distribution, Greedy):
        n = distribution.value.shape[-1]
        chosen = torch.nn.functional.one_hot(distribution.mode(), n).to(distribution.value)
        return Categorical(((1 - epsilon) * chosen + epsilon / n).log())
    return distribution


def in_double(distribution: Any) -> Any:
    """The distribution in float64, in which a score is exact to the rounding of the action."""
    if not isinstance(distribution, tuple):  # of a network of one's own
        return distribution
    fields = (f.cpu().double() if isinstance(f, Tensor) else f for f in distribution)
    return type(distribution)(*fields)


def anything(distribution: Any) -> Any:
    """The uniform distribution over the actions that `distribution` is over."""
    if isinstance(distribution, Categorical | Greedy):
        values = distribution.log_probs
        return Categorical(torch.full_like(values, 1 / values.shape[-1]).log())
    return Uniform(distribution.low, distribution.high, len(distribution.mode()))
