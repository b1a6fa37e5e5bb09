"""Networks and policy heads: raw observations in, distributions over raw actions out.

Normalisation statistics are buffers of the network that uses them, so a policy acts on raw
observations anywhere and a checkpoint cannot lose them.
"""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from offrl.distributions import Categorical, Deterministic, Gaussian, Greedy, Squashed
from offrl.errors import ConfigError


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


Members = int | Tensor | None  # of an ensemble: the first so many, those of these numbers, or all


def _of(parameter: Tensor, members: int | Tensor) -> Tensor:
    if isinstance(members, int):
        return parameter[:members]
    return parameter.index_select(0, members)


class EnsembleLinear(nn.Module):
    """Affine maps of M networks at once: [M, B, n_in] -> [M, B, n_out]."""

    def __init__(self, members: int, n_in: int, n_out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(n_in)  # torch's own initialisation of a linear layer
        self.weight = nn.Parameter(torch.empty(members, n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, n_out).uniform_(-bound, bound))

    def forward(self, x: Tensor, members: int | Tensor) -> Tensor:
        # Compiled, the sum is part of the pass that follows; `baddbmm` would copy the bias first.
        weight = _of(self.weight, members)
        if weight.shape[-1] == 1:  # batched products are six times slower for a single column
            return (x * weight.mT).sum(-1, keepdim=True) + _of(self.bias, members)
        return torch.bmm(x, weight) + _of(self.bias, members)


class EnsembleHidden(EnsembleLinear):
    """Hidden layers of M networks, whose products alone run in `compute_dtype`."""

    compute_dtype: torch.dtype | None = None

    def forward(self, x: Tensor, members: int | Tensor) -> Tensor:
        if self.compute_dtype is None:
            return super().forward(x, members)
        low = self.compute_dtype
        weight, bias = _of(self.weight, members).to(low), _of(self.bias, members).to(low)
        return torch.bmm(x.to(low), weight) + bias


class EnsembleNorm(nn.Module):
    """Layer normalisation of M networks at once, [M, B, width], each with its own scale."""

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, 1, width))
        self.bias = nn.Parameter(torch.zeros(members, 1, width))

    def forward(self, x: Tensor, members: int | Tensor) -> Tensor:
        plain = functional.layer_norm(x, x.shape[-1:])
        return plain * _of(self.weight, members) + _of(self.bias, members)


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
        self.norm = nn.ModuleList(EnsembleNorm(members, b) for b in widths[1:] if layer_norm)
        self.head = EnsembleLinear(members, widths[-1], n_out)
        self.members = members

    def forward(self, x: Tensor, members: Members = None) -> Tensor:
        """Outputs of some `members`, of all by default."""
        members = self.members if members is None else members
        n = members if isinstance(members, int) else len(members)
        x = x.expand(n, *x.shape)
        for i, layer in enumerate(self.hidden):
            x = layer(x, members)
            if self.norm:
                x = self.norm[i](x.to(self.head.weight.dtype), members)
            x = torch.relu(x)
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


class Head(nn.Module):
    """A policy network that a checkpoint can describe, so that it loads without other code."""

    description: dict[str, Any]


class BoundedPolicy(Head):
    """A policy over actions within bounds, and the network that its distribution is made of."""

    action_low: Tensor
    action_high: Tensor
    outputs: ClassVar[int] = 1  # of the network for a dimension of the action

    def __init__(self, obs_dim: int, action_dim: int, hidden_size: int, hidden_layers: int) -> None:
        super().__init__()
        self.normalize = Normalize(obs_dim)
        self.net = MLP(obs_dim, self.outputs * action_dim, hidden_size, hidden_layers)
        self.register_buffer("action_low", -torch.ones(action_dim))
        self.register_buffer("action_high", torch.ones(action_dim))


class Stretched(nn.Module):
    """Observations in units of their spread, outputs in units of the returns of the data."""

    return_mean: Tensor
    return_std: Tensor

    def __init__(self, obs_dim: int) -> None:
        super().__init__()
        self.normalize = Normalize(obs_dim)
        self.register_buffer("return_mean", torch.zeros(()))
        self.register_buffer("return_std", torch.ones(()))

    def stretch(self, x: Tensor) -> Tensor:
        """return_mean + return_std x."""
        return self.return_mean + self.return_std * x


class GaussianPolicy(BoundedPolicy):
    """Tanh-mean Gaussian with a learned, state-independent log-std in [-5, 0] of the half range.

    The mean stays inside the bounds and the density is that of the unclipped Gaussian, so actions
    that sit exactly on a bound have a finite log-probability (algorithms such as IQL do the same).
    """

    def __init__(self, obs_dim: int, action_dim: int, hidden_size: int, hidden_layers: int) -> None:
        super().__init__(obs_dim, action_dim, hidden_size, hidden_layers)
        self.log_std = nn.Parameter(torch.full((action_dim,), -0.5))

    def forward(self, obs: Tensor) -> Gaussian:
        half = (self.action_high - self.action_low) / 2
        mean = self.action_low + half * (1 + torch.tanh(self.net(self.normalize(obs))))
        return Gaussian(
            mean, half * self.log_std.clamp(-5, 0).exp(), self.action_low, self.action_high
        )


class DeterministicPolicy(BoundedPolicy):
    """A tanh network stretched to the bounds."""

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


class SquashedPolicy(BoundedPolicy):
    """Tanh-squashed Gaussian with a log-std in [-20, 2] that depends on the state."""

    outputs = 2

    def forward(self, obs: Tensor) -> Squashed:
        mean, log_std = self.net(self.normalize(obs)).chunk(2, -1)
        return Squashed(mean, log_std.clamp(-20, 2), self.action_low, self.action_high)


class GreedyPolicy(Stretched, Head):
    """Q(s, .) over discrete actions, stretched to the returns of the data; the best one acts."""

    def __init__(self, obs_dim: int, action_dim: int, hidden_size: int, hidden_layers: int) -> None:
        super().__init__(obs_dim)
        self.net = MLP(obs_dim, action_dim, hidden_size, hidden_layers)

    def forward(self, obs: Tensor) -> Greedy:
        return Greedy(self.stretch(self.net(self.normalize(obs))))


class Critic(Stretched):
    """Q(s, a) of M members, [M, B]: actions are taken in units of their half range."""

    action_low: Tensor
    action_high: Tensor

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden_size: int,
        hidden_layers: int,
        members: int = 2,
        layer_norm: bool = False,
    ) -> None:
        super().__init__(obs_dim)
        width = obs_dim + action_dim
        self.net = Ensemble(members, width, 1, hidden_size, hidden_layers, layer_norm)
        self.register_buffer("action_low", -torch.ones(action_dim))
        self.register_buffer("action_high", torch.ones(action_dim))

    def forward(self, obs: Tensor, action: Tensor, members: Members = None) -> Tensor:
        """Values of some `members`, of all by default."""
        half = (self.action_high - self.action_low) / 2
        scaled = (action - self.action_low) / half - 1
        out = self.net(torch.cat([self.normalize(obs), scaled], -1), members).squeeze(-1)
        return self.stretch(out)


class DiscreteCritic(Stretched):
    """Q(s, .) of M members over n actions, [M, B, n]."""

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden_size: int,
        hidden_layers: int,
        members: int = 2,
        layer_norm: bool = False,
    ) -> None:
        super().__init__(obs_dim)
        self.net = Ensemble(members, obs_dim, action_dim, hidden_size, hidden_layers, layer_norm)

    def forward(self, obs: Tensor, members: Members = None) -> Tensor:
        """Values of some `members`, of all by default."""
        out = self.net(self.normalize(obs), members)
        return self.stretch(out)


class Scalar(nn.Module):
    """One trained number, such as the log of a temperature."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self) -> Tensor:
        return self.value


class Value(Stretched):
    """V(s), [B]: a network whose output is stretched to the returns of the training data."""

    def __init__(self, obs_dim: int, hidden_size: int, hidden_layers: int) -> None:
        super().__init__(obs_dim)
        self.net = MLP(obs_dim, 1, hidden_size, hidden_layers)

    def forward(self, obs: Tensor) -> Tensor:
        return self.stretch(self.net(self.normalize(obs)).squeeze(-1))


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
