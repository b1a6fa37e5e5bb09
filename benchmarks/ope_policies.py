"""Policies of a spread of quality around the one that made a log, all but one with densities.

Of offrl's recipes the behavior is known, a controller with a share of uniform actions, and most
candidates move that share; of foreign logs it is imitated, and the imitation is moved. Three more
have learned from the other half of the log: an imitation, AWR, and a deterministic policy.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import offrl
from offrl.algorithm import AlgorithmConfig, configure, statistics
from offrl.batch import Table
from offrl.data.dataset import Dataset
from offrl.data.spec import Spec
from offrl.distributions import Categorical, Gaussian, Squashed
from offrl.nn import Head, fit_statistics, policy_head

FAR = 1e-12
# Shares of uniform actions around that of the log: of a recipe's own controller, and of imitations.
SHARES = {
    "offrl/cartpole/medium-v0": (0.1, 0.3, 0.4, 0.45, 0.55, 0.7, 1.0),
    "offrl/cartpole/random-v0": (0.2, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0),
    "offrl/pendulum/medium-v0": (0.1, 0.3, 0.4, 0.45, 0.55, 0.7, 1.0),
}


class Uniform(NamedTuple):
    """Uniform actions within bounds, of one number."""

    mean: Tensor  # [B, 1]
    low: Tensor  # [1]
    high: Tensor  # [1]

    def mode(self) -> Tensor:
        """The middle, [B, 1]."""
        return self.mean

    def sample(self, noise: Tensor) -> Tensor:
        """Actions from standard normal `noise`."""
        return self.low + (self.high - self.low) * torch.special.ndtr(noise)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log density, [B]."""
        return -(self.high - self.low).log().expand_as(action).sum(-1)


class Truncated(NamedTuple):
    """N(mean, std) renormalised to bounds, as recorded controllers with noise act."""

    mean: Tensor  # [B, 1]
    std: Tensor  # [1]
    low: Tensor  # [1]
    high: Tensor  # [1]

    def mode(self) -> Tensor:
        """The most likely action, [B, 1]."""
        return self.mean

    def sample(self, noise: Tensor) -> Tensor:
        """Actions from standard normal `noise`, by the inverse distribution function."""
        first, last = (
            torch.special.ndtr((b - self.mean).double() / self.std) for b in (self.low, self.high)
        )
        inside = first + (last - first) * torch.special.ndtr(noise.double())
        return self.mean + self.std * torch.special.ndtri(inside.clamp(FAR, 1 - FAR))

    def log_prob(self, action: Tensor) -> Tensor:
        """Log density, [B]."""
        first, last = (
            torch.special.ndtr((b - self.mean) / self.std) for b in (self.low, self.high)
        )
        z = (action - self.mean) / self.std
        normal = -0.5 * z.square() - self.std.log() - 0.5 * float(np.log(2 * np.pi))
        return (normal - (last - first).log()).sum(-1)


class Mixed:
    """Two distributions of an action of one number, the second with a share."""

    def __init__(self, first: Any, second: Any, share: float) -> None:
        self.first, self.second, self.share = (_wide(first), _wide(second), share)
        self.mean = self.first.mode()

    def mode(self) -> Tensor:
        """The mode of the first, [B, 1]."""
        return self.mean.float()

    def sample(self, noise: Tensor) -> Tensor:
        """Actions from standard normal `noise` [..., 1], which says whose they are too."""
        u, share = torch.special.ndtr(noise.double()), self.share
        parts = (
            self.first.sample(_normal((u - share) / (1 - share))),
            self.second.sample(_normal(u / share)),
        )
        return torch.where(u < share, parts[1], parts[0]).float()

    def log_prob(self, action: Tensor) -> Tensor:
        """Log density, [B]; at a bound the mass of a part that has one there."""
        scores = (self.first.log_prob(action), self.second.log_prob(action))
        return torch.logaddexp(
            scores[0] + float(np.log1p(-self.share)), scores[1] + float(np.log(self.share))
        )


def _wide(pi: Any) -> Any:
    return type(pi)(*(part.double() for part in pi)) if isinstance(pi, tuple) else pi


def _normal(u: Tensor) -> Tensor:
    return torch.special.ndtri(u.clamp(FAR, 1 - FAR))


class Blind(Head):
    """Uniform actions."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self._spec = spec

    def forward(self, obs: Tensor) -> Any:
        """Of every observation the same."""
        n = self._spec.action_dim
        if self._spec.discrete:
            return Categorical(torch.full((*obs.shape[:-1], n), -float(np.log(n))))
        low, high = (torch.as_tensor(b) for b in (self._spec.action_low, self._spec.action_high))
        return Uniform(((low + high) / 2).expand(*obs.shape[:-1], n), low, high)


class Controller(Head):
    """`cartpole-balance`, or `pendulum-swing-up` with noise, of a batch."""

    def __init__(self, spec: Spec, noise: float = 0.3) -> None:
        super().__init__()
        self._spec, self._noise = spec, noise

    def forward(self, obs: Tensor) -> Any:
        """The controller's action, and all around it as the recipes draw it."""
        if self._spec.discrete:
            right = (obs @ torch.tensor([0.1, 0.2, 1.0, 0.5]) > 0).to(obs)
            return Categorical(torch.stack([1 - right, right], -1).log())
        cosine, sine, velocity = obs.unbind(-1)
        hold = -14 * torch.atan2(sine, cosine) - 4 * velocity
        energy = 0.5 * velocity.square() + 15 * (cosine - 1)
        swing = torch.copysign(torch.ones_like(velocity), velocity) * -energy
        mean = torch.where(cosine > 0.85, hold, swing).clamp(-2, 2)[..., None]
        low, high = (torch.as_tensor(b) for b in (self._spec.action_low, self._spec.action_high))
        return Truncated(mean, torch.tensor([self._noise]), low, high)


class Mixture(Head):
    """One policy, and another with a share of the actions."""

    def __init__(self, first: nn.Module, second: nn.Module, share: float) -> None:
        super().__init__()
        self.first, self.second, self._share = first, second, share

    def forward(self, obs: Tensor) -> Any:
        """The mixture of what both would do."""
        if self._share in {0.0, 1.0}:
            return (self.second if self._share else self.first)(obs)
        one, other = self.first(obs), self.second(obs)
        if not isinstance(one, Categorical):
            return Mixed(one, other, self._share)
        mixed = (1 - self._share) * one.log_probs.exp() + self._share * other.log_probs.exp()
        return Categorical(mixed.log())


class Sharper(Head):
    """A policy with its log-probabilities times `sharpness`, or its deviation over it."""

    def __init__(self, policy: nn.Module, sharpness: float) -> None:
        super().__init__()
        self.policy, self._sharpness = policy, sharpness

    def forward(self, obs: Tensor) -> Any:
        """The same, surer."""
        pi = self.policy(obs)
        if isinstance(pi, Categorical):
            return Categorical(torch.log_softmax(self._sharpness * pi.log_probs, -1))
        if isinstance(pi, Squashed):
            return pi._replace(log_std=pi.log_std - float(np.log(self._sharpness)))
        if isinstance(pi, Gaussian):
            return pi._replace(std=pi.std / self._sharpness)
        raise TypeError(f"{type(pi).__name__} has no sharpness.")


def imitation(data: Dataset, table: Table, steps: int) -> nn.Module:
    """The policy of the log by maximum likelihood; a continuous one is squashed, as SAC's is."""
    head, rng = "categorical" if data.spec.discrete else "squashed", np.random.default_rng(0)
    torch.manual_seed(0)
    policy = policy_head(head, data.spec.obs_dim, data.spec.action_dim, 64, 2)
    fit_statistics([policy], statistics(table, configure(AlgorithmConfig, {})))
    optimiser = torch.optim.Adam(policy.parameters(), lr=1e-3)
    for _ in range(steps):
        rows = torch.as_tensor(rng.integers(len(table.action), size=256))
        obs = table.observations[table.obs_row[rows]]
        loss = -policy(obs).log_density(table.action[rows]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return policy.eval().requires_grad_(False)


def candidates(
    ref: str, data: Dataset, folder: Path, discount: float
) -> tuple[dict[str, nn.Module], np.ndarray]:
    """Ten policies by name, and the episodes that none of them learned from."""
    learned, held = _learned(data, folder, discount)
    kept = np.setdiff1d(np.arange(data.n_episodes), held)
    table, blind = Table.of(data.transitions, episodes=kept), Blind(data.spec)
    clone = imitation(data, table, 1500)
    found = dict[str, nn.Module]()
    for name, share in _shares(ref):
        first = Controller(data.spec) if ref in SHARES else clone
        found[name] = Mixture(first, blind, share)
    found["imitation"] = clone
    if ref not in SHARES:
        found["imitation, 100 steps"] = imitation(data, table, 100)
        found["imitation, sharper"] = Sharper(clone, 2.0)
        found["half awr"] = Mixture(clone, learned["awr"], 0.5)
    return found | learned, held


def _shares(ref: str) -> Iterator[tuple[str, float]]:
    for share in SHARES.get(ref, (0.1, 0.3, 0.6, 1.0)):
        yield f"{share:.0%} uniform", share


def _learned(
    data: Dataset, folder: Path, discount: float
) -> tuple[dict[str, nn.Module], np.ndarray]:
    """AWR and a deterministic policy, learned from half of the log."""
    shared: dict[str, Any] = {
        "holdout": 0.5, "hidden_size": 64, "compile": "off", "discount": discount
    }  # fmt: skip
    awr: dict[str, Any] = {"value_steps": 1000, "policy_steps": 1000, "steps": 2000}
    plans = {"awr": awr, "dqn" if data.spec.discrete else "td3-bc": {"steps": 2000}}
    found, held = dict[str, nn.Module](), list[Any]()
    for algo, settings in plans.items():
        out = folder / algo
        resume = (out / "run.toml").exists()
        run = offrl.fit(algo, data, out=out, resume=resume, **shared, **settings)
        found[algo] = run.policy().network
        held.append(tuple(run.run.held_out))
    if len(set(held)) != 1:
        raise ValueError("The runs did not hold out the same episodes.")
    return found, np.array(held[0], dtype=np.int64)
