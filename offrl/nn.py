"""Networks and policy heads: raw observations in, distributions over raw actions out.

Normalisation statistics are buffers of the network that uses them, so a policy acts on raw
observations anywhere and a checkpoint cannot lose them.
"""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from offrl.errors import ConfigError

LOG_2PI = math.log(2 * math.pi)


class Hidden(nn.Linear):
    """A hidden layer, whose product alone runs in `compute_dtype` (heads and losses do not)."""

    compute_dtype: torch.dtype | None = None

    def forward(self, input: Tensor) -> Tensor:
        if self.compute_dtype is None:
            return functional.linear(input, self.weight, self.bias)
        low = self.compute_dtype
        return functional.linear(input.to(low), self.weight.to(low), self.bias.to(low))


class MLP(nn.Module):
    """ReLU layers and a linear head: [..., n_in] -> [..., n_out]."""

    def __init__(self, n_in: int, n_out: int, hidden_size: int, hidden_layers: int) -> None:
        super().__init__()
        widths = [n_in] + [hidden_size] * hidden_layers
        self.hidden = nn.ModuleList(Hidden(a, b) for a, b in pairwise(widths))
        self.head = nn.Linear(widths[-1], n_out)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = torch.relu(layer(x))
        return self.head(x.to(self.head.weight.dtype))


class EnsembleLinear(nn.Module):
    """Affine maps of M networks at once: [M, B, n_in] -> [M, B, n_out]."""

    def __init__(self, members: int, n_in: int, n_out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(n_in)  # torch's own initialisation of a linear layer
        self.weight = nn.Parameter(torch.empty(members, n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, n_out).uniform_(-bound, bound))

    def forward(self, x: Tensor, members: int) -> Tensor:
        # Compiled, the sum is part of the pass that follows; `baddbmm` would copy the bias first.
        return torch.bmm(x, self.weight[:members]) + self.bias[:members]


class EnsembleHidden(EnsembleLinear):
    """Hidden layers of M networks, whose products alone run in `compute_dtype`."""

    compute_dtype: torch.dtype | None = None

    def forward(self, x: Tensor, members: int) -> Tensor:
        if self.compute_dtype is None:
            return super().forward(x, members)
        low = self.compute_dtype
        weight, bias = self.weight[:members].to(low), self.bias[:members].to(low)
        return torch.bmm(x.to(low), weight) + bias


class Ensemble(nn.Module):
    """M equal MLPs of independent parameters: [B, n_in] -> [M, B, n_out].

    `layer_norm` puts a normalisation before each ReLU (RLPD, Ball et al. 2023, 2302.02948).
    """

    def __init__(
        self,
        members: int,
        n_in: int,
        n_out: int,
        hidden_size: int,
        hidden_layers: int,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        widths = [n_in] + [hidden_size] * hidden_layers
        self.hidden = nn.ModuleList(EnsembleHidden(members, a, b) for a, b in pairwise(widths))
        self.norm = nn.ModuleList(nn.LayerNorm(b) for b in widths[1:] if layer_norm)
        self.head = EnsembleLinear(members, widths[-1], n_out)
        self.members = members

    def forward(self, x: Tensor, members: int | None = None) -> Tensor:
        """Outputs of the first `members` networks, of all by default."""
        members = self.members if members is None else members
        x = x.expand(members, *x.shape)
        for i, layer in enumerate(self.hidden):
            x = layer(x, members)
            x = torch.relu(self.norm[i](x.to(self.head.weight.dtype)) if self.norm else x)
        return self.head(x.to(self.head.weight.dtype), members)


def set_precision(modules: Iterable[nn.Module], precision: str) -> None:
    """Run hidden layers in bfloat16 for "bf16", in the parameters' own type for "fp32"."""
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, Hidden | EnsembleHidden):
                layer.compute_dtype = torch.bfloat16 if precision == "bf16" else None


def fit_statistics(modules: Iterable[nn.Module], statistics: dict[str, Tensor]) -> None:
    """Copy each statistic into every buffer of its name."""
    for module in modules:
        for name, buffer in module.named_buffers():
            leaf = name.rsplit(".", 1)[-1]
            if leaf in statistics:
                buffer.copy_(statistics[leaf])


class Normalize(nn.Module):
    """(obs - mean) / std with the statistics of the training data."""

    obs_mean: Tensor
    obs_std: Tensor

    def __init__(self, obs_dim: int) -> None:
        super().__init__()
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_std", torch.ones(obs_dim))

    def forward(self, obs: Tensor) -> Tensor:
        return (obs - self.obs_mean) / self.obs_std


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
        chosen = functional.one_hot(self.mode(), self.value.shape[-1])
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


class Head(nn.Module):
    """A policy network that a checkpoint can describe, so that it loads without other code."""

    description: dict[str, Any]


class GaussianPolicy(Head):
    """Tanh-mean Gaussian with a learned, state-independent log-std in [-5, 0] of the half range.

    The mean stays inside the bounds and the density is that of the unclipped Gaussian, so actions
    that sit exactly on a bound have a finite log-probability (algorithms such as IQL do the same).
    """

    action_low: Tensor
    action_high: Tensor

    def __init__(self, obs_dim: int, action_dim: int, hidden_size: int, hidden_layers: int) -> None:
        super().__init__()
        self.normalize = Normalize(obs_dim)
        self.net = MLP(obs_dim, action_dim, hidden_size, hidden_layers)
        self.log_std = nn.Parameter(torch.full((action_dim,), -0.5))
        self.register_buffer("action_low", -torch.ones(action_dim))
        self.register_buffer("action_high", torch.ones(action_dim))

    def forward(self, obs: Tensor) -> Gaussian:
        half = (self.action_high - self.action_low) / 2
        mean = self.action_low + half * (1 + torch.tanh(self.net(self.normalize(obs))))
        return Gaussian(
            mean, half * self.log_std.clamp(-5, 0).exp(), self.action_low, self.action_high
        )


class DeterministicPolicy(Head):
    """A tanh network stretched to the bounds."""

    action_low: Tensor
    action_high: Tensor

    def __init__(self, obs_dim: int, action_dim: int, hidden_size: int, hidden_layers: int) -> None:
        super().__init__()
        self.normalize = Normalize(obs_dim)
        self.net = MLP(obs_dim, action_dim, hidden_size, hidden_layers)
        self.register_buffer("action_low", -torch.ones(action_dim))
        self.register_buffer("action_high", torch.ones(action_dim))

    def forward(self, obs: Tensor) -> Deterministic:
        low, high = self.action_low, self.action_high
        action = low + (high - low) / 2 * (1 + torch.tanh(self.net(self.normalize(obs))))
        return Deterministic(torch.clamp(action, low, high), low, high)


class CategoricalPolicy(Head):
    """Softmax over the actions."""

    def __init__(self, obs_dim: int, action_dim: int, hidden_size: int, hidden_layers: int) -> None:
        super().__init__()
        self.normalize = Normalize(obs_dim)
        self.net = MLP(obs_dim, action_dim, hidden_size, hidden_layers)

    def forward(self, obs: Tensor) -> Categorical:
        return Categorical(torch.log_softmax(self.net(self.normalize(obs)), -1))


class SquashedPolicy(Head):
    """Tanh-squashed Gaussian with a log-std in [-20, 2] that depends on the state."""

    action_low: Tensor
    action_high: Tensor

    def __init__(self, obs_dim: int, action_dim: int, hidden_size: int, hidden_layers: int) -> None:
        super().__init__()
        self.normalize = Normalize(obs_dim)
        self.net = MLP(obs_dim, 2 * action_dim, hidden_size, hidden_layers)
        self.register_buffer("action_low", -torch.ones(action_dim))
        self.register_buffer("action_high", torch.ones(action_dim))

    def forward(self, obs: Tensor) -> Squashed:
        mean, log_std = self.net(self.normalize(obs)).chunk(2, -1)
        return Squashed(mean, log_std.clamp(-20, 2), self.action_low, self.action_high)


class GreedyPolicy(Head):
    """Q(s, .) over discrete actions, stretched to the returns of the data; the best one acts."""

    return_mean: Tensor
    return_std: Tensor

    def __init__(self, obs_dim: int, action_dim: int, hidden_size: int, hidden_layers: int) -> None:
        super().__init__()
        self.normalize = Normalize(obs_dim)
        self.net = MLP(obs_dim, action_dim, hidden_size, hidden_layers)
        self.register_buffer("return_mean", torch.zeros(()))
        self.register_buffer("return_std", torch.ones(()))

    def forward(self, obs: Tensor) -> Greedy:
        return Greedy(self.return_mean + self.return_std * self.net(self.normalize(obs)))


class Critic(nn.Module):
    """Q(s, a) of M members, [M, B]: actions are taken in units of their half range."""

    action_low: Tensor
    action_high: Tensor
    return_mean: Tensor
    return_std: Tensor

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden_size: int,
        hidden_layers: int,
        members: int = 2,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.normalize = Normalize(obs_dim)
        width = obs_dim + action_dim
        self.net = Ensemble(members, width, 1, hidden_size, hidden_layers, layer_norm)
        self.register_buffer("action_low", -torch.ones(action_dim))
        self.register_buffer("action_high", torch.ones(action_dim))
        self.register_buffer("return_mean", torch.zeros(()))
        self.register_buffer("return_std", torch.ones(()))

    def forward(self, obs: Tensor, action: Tensor, members: int | None = None) -> Tensor:
        """Values of the first `members`, of all by default."""
        half = (self.action_high - self.action_low) / 2
        scaled = (action - self.action_low) / half - 1
        out = self.net(torch.cat([self.normalize(obs), scaled], -1), members).squeeze(-1)
        return self.return_mean + self.return_std * out


class DiscreteCritic(nn.Module):
    """Q(s, .) of M members over n actions, [M, B, n]."""

    return_mean: Tensor
    return_std: Tensor

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden_size: int,
        hidden_layers: int,
        members: int = 2,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.normalize = Normalize(obs_dim)
        self.net = Ensemble(members, obs_dim, action_dim, hidden_size, hidden_layers, layer_norm)
        self.register_buffer("return_mean", torch.zeros(()))
        self.register_buffer("return_std", torch.ones(()))

    def forward(self, obs: Tensor, members: int | None = None) -> Tensor:
        """Values of the first `members`, of all by default."""
        out = self.net(self.normalize(obs), members)
        return self.return_mean + self.return_std * out


class Scalar(nn.Module):
    """One trained number, such as the log of a temperature."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self) -> Tensor:
        return self.value


class Value(nn.Module):
    """V(s), [B]: a network whose output is stretched to the returns of the training data."""

    return_mean: Tensor
    return_std: Tensor

    def __init__(self, obs_dim: int, hidden_size: int, hidden_layers: int) -> None:
        super().__init__()
        self.normalize = Normalize(obs_dim)
        self.net = MLP(obs_dim, 1, hidden_size, hidden_layers)
        self.register_buffer("return_mean", torch.zeros(()))
        self.register_buffer("return_std", torch.ones(()))

    def forward(self, obs: Tensor) -> Tensor:
        return self.return_mean + self.return_std * self.net(self.normalize(obs)).squeeze(-1)


HEADS: dict[str, type[Head]] = {
    "gaussian": GaussianPolicy,
    "deterministic": DeterministicPolicy,
    "categorical": CategoricalPolicy,
    "squashed": SquashedPolicy,
    "greedy": GreedyPolicy,
}


def policy_head(
    head: str, obs_dim: int, action_dim: int, hidden_size: int, hidden_layers: int
) -> Head:
    """A policy network by the name of its head."""
    if head not in HEADS:
        raise ConfigError(f"There is no policy head '{head}'.", f"Use one of {', '.join(HEADS)}.")
    sizes: dict[str, Any] = {
        "obs_dim": obs_dim,
        "action_dim": action_dim,
        "hidden_size": hidden_size,
        "hidden_layers": hidden_layers,
    }
    module = HEADS[head](**sizes)
    module.description = {"head": head, **sizes}
    return module
