"""Distributions over raw actions, as plain functions of tensors that compile and vmap.

Each has `mode`, `sample(noise)` and, where it has one, `log_prob(action)` of the executed action.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

LOG_2PI = math.log(2 * math.pi)


def log_normal_cdf(x: Tensor) -> Tensor:
    """log of the standard normal's distribution function, exact far out in the lower tail.

    torch's own has no rule for vmap. Further out than erfc reaches, five terms of the asymptotic
    series (Abramowitz & Stegun 26.2.12) are exact in the type of x.
    """
    edge = -12.0 if x.dtype == torch.float32 else -30.0
    near, far = x.clamp(min=edge), x.clamp(max=edge)
    y = far.square().reciprocal()
    series = 1 - y * (1 - 3 * y * (1 - 5 * y * (1 - 7 * y)))
    tail = -0.5 * far.square() - (-far).log() - 0.5 * LOG_2PI + series.log()
    return torch.where(x < edge, tail, (0.5 * torch.erfc(-near / math.sqrt(2))).log())


class Gaussian(NamedTuple):
    """N(mean, std) per action dimension in environment units, clipped to the bounds when acting."""

    mean: Tensor  # [B, A]
    std: Tensor  # [A] or [B, A]
    low: Tensor  # [A]
    high: Tensor  # [A]

    def mode(self) -> Tensor:
        """The most likely action, [B, A]."""
        return torch.clamp(self.mean, self.low, self.high)

    def sample(self, noise: Tensor) -> Tensor:
        """Actions from standard normal `noise` [B, A], as they are executed: clipped."""
        return torch.clamp(self.mean + self.std * noise, self.low, self.high)

    def log_density(self, action: Tensor) -> Tensor:
        """Log density before clipping, [B]: the regression target of BC and AWR.

        Finite at the bounds, where a squashed density explodes.
        """
        z = (action - self.mean) / self.std
        return (-0.5 * z.square() - self.std.log() - 0.5 * LOG_2PI).sum(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability of an executed action, [B]: density inside, tail mass at a bound."""
        z = (action - self.mean) / self.std
        inside = -0.5 * z.square() - self.std.log() - 0.5 * LOG_2PI
        below = log_normal_cdf((self.low - self.mean) / self.std)
        above = log_normal_cdf((self.mean - self.high) / self.std)
        censored = torch.where(action <= self.low, below, inside)
        return torch.where(action >= self.high, above, censored).sum(-1)

    def entropy(self) -> Tensor:
        """Differential entropy before clipping, averaged over the batch, in nats."""
        return (0.5 * (1 + LOG_2PI) + self.std.log()).sum(-1).mean()


class Categorical(NamedTuple):
    """Probabilities of the actions 0 .. n-1."""

    log_probs: Tensor  # [B, n]

    def mode(self) -> Tensor:
        """The most likely action, [B]."""
        return self.log_probs.argmax(-1)

    def sample(self, noise: Tensor) -> Tensor:
        """Actions [B] from uniform `noise` [B] in [0, 1): the inverse distribution function."""
        below = self.log_probs.exp().cumsum(-1) <= noise.unsqueeze(-1)
        return below.sum(-1).clamp(max=self.log_probs.shape[-1] - 1)

    def log_prob(self, action: Tensor) -> Tensor:
        """[B] log-probability of each action."""
        return self.log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def log_density(self, action: Tensor) -> Tensor:
        """The same as `log_prob`: nothing is clipped."""
        return self.log_prob(action)

    def entropy(self) -> Tensor:
        """Mean entropy in nats."""
        return -(self.log_probs.exp() * self.log_probs).sum(-1).mean()


class Squashed(NamedTuple):
    """tanh of N(mean, std), stretched to the bounds: the policy of SAC (1812.05905, appendix C)."""

    mean: Tensor  # [B, A], before the tanh
    log_std: Tensor  # [B, A]
    low: Tensor  # [A]
    high: Tensor  # [A]

    def mode(self) -> Tensor:
        """tanh(mean), [B, A]: not the mean of the squashed distribution."""
        return self._stretch(torch.tanh(self.mean))

    def sample(self, noise: Tensor) -> Tensor:
        """Actions [..., A] from standard normal `noise` [..., A]."""
        return self._stretch(torch.tanh(self.mean + self.log_std.exp() * noise))

    def scored_sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions from `noise` and their log densities [...], differentiable in both."""
        u = self.mean + self.log_std.exp() * noise
        return self._stretch(torch.tanh(u)), self._log_density(u, noise)

    def log_density(self, action: Tensor) -> Tensor:
        """Log density in environment units, [B]; an action at a bound counts just inside it."""
        half = (self.high - self.low) / 2
        inside = ((action - self.low) / half - 1).clamp(-1 + 1e-5, 1 - 1e-5)
        u = torch.atanh(inside)
        return self._log_density(u, (u - self.mean) / self.log_std.exp())

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability of an executed action, [B].

        Density inside; at a bound the mass of all that is rounded to it in the action's type.
        """
        at_low, at_high = action <= self.low, action >= self.high
        middle = (self.low + self.high) / 2
        x = torch.where(at_low | at_high, middle, action.to(self.mean.dtype))
        u, std = self._inverse(x), self.log_std.exp()
        first, last = (self._inverse(x) for x in self._rounded(action.dtype))
        inside = self._log_densities(u, (u - self.mean) / std)
        below = torch.special.log_ndtr((first - self.mean) / std)
        above = torch.special.log_ndtr((self.mean - last) / std)
        return torch.where(at_low, below, torch.where(at_high, above, inside)).sum(-1)

    @property
    def log_half(self) -> Tensor:
        """Sum of log half ranges, 0-d: a log density plus this is one over [-1, 1]."""
        return ((self.high - self.low) / 2).log().sum()

    def _log_density(self, u: Tensor, z: Tensor) -> Tensor:
        return self._log_densities(u, z).sum(-1)

    def _log_densities(self, u: Tensor, z: Tensor) -> Tensor:
        normal = -0.5 * z.square() - self.log_std - 0.5 * LOG_2PI
        # log(1 - tanh(u)^2) without cancellation: exact far out, where 1 - tanh^2 rounds to 0
        squash = 2 * (math.log(2) - u - functional.softplus(-2 * u))
        return normal - squash - ((self.high - self.low) / 2).log()

    def _inverse(self, x: Tensor) -> Tensor:
        return 0.5 * ((x - self.low).log() - (self.high - x).log())

    def _rounded(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Where rounding to a number of type `dtype` begins to give the low and the high bound."""
        low, high = self.low.to(dtype), self.high.to(dtype)
        return _halfway(low, high, self.low.dtype), _halfway(high, low, self.low.dtype)

    def _stretch(self, squashed: Tensor) -> Tensor:
        half = (self.high - self.low) / 2
        return torch.clamp(self.low + half * (1 + squashed), self.low, self.high)


def _halfway(bound: Tensor, towards: Tensor, dtype: torch.dtype) -> Tensor:
    beside = torch.nextafter(bound, towards).to(dtype)
    middle = (bound.to(dtype) + beside) / 2
    return torch.where(middle == bound, beside, middle)  # of one type there is no half


class Greedy(NamedTuple):
    """The action of the largest value, always."""

    value: Tensor  # [B, n], Q(s, .)

    def mode(self) -> Tensor:
        """The action, [B]; of equal values the first."""
        return self.value.argmax(-1)

    @property
    def log_probs(self) -> Tensor:
        """[B, n]: 0 at the action, -infinity elsewhere."""
        actions = torch.arange(self.value.shape[-1], device=self.value.device)
        # Not one_hot, which torch cannot vectorise over critics that are fitted together.
        chosen = actions == self.mode().unsqueeze(-1)
        return chosen.to(self.value.dtype).log()

    def sample(self, noise: Tensor) -> Tensor:
        """The mode, whatever the noise."""
        return self.mode()

    def log_prob(self, action: Tensor) -> Tensor:
        """[B]: 0 for the action that is taken, -infinity for others."""
        return self.log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)


class Deterministic(NamedTuple):
    """One action an observation; it has no density."""

    action: Tensor  # [B, A]
    low: Tensor  # [A]
    high: Tensor  # [A]

    def mode(self) -> Tensor:
        """The action itself."""
        return self.action

    @property
    def half(self) -> Tensor:
        """Half the range of the bounds, [A]."""
        return (self.high - self.low) / 2
