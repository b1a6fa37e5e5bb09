"""Policies of one linear layer that act as those of Stable-Baselines3 do."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    DiagGaussianDistribution,
    SquashedDiagGaussianDistribution,
)


class BasePolicy(nn.Module):
    squash_output = False

    def __init__(self, seen: Any, acts: Any, lr_schedule: Any, **options: Any) -> None:
        super().__init__()
        self.acts, self.options = acts, options
        n = int(acts.n) if isinstance(acts, spaces.Discrete) else int(np.prod(acts.shape))
        self.action_net = nn.Linear(seen.shape[0], n)
        self.log_std = nn.Parameter(torch.zeros(n))

    def set_training_mode(self, mode: bool) -> None:
        super().train(mode)

    def obs_to_tensor(self, obs: Any) -> tuple[Tensor, bool]:
        return torch.as_tensor(np.asarray(obs), dtype=torch.float32)[None], False

    def _predict(self, obs: Tensor, deterministic: bool = False) -> Tensor:
        raise NotImplementedError  # as the real base class does: subclasses bring their own

    def predict(self, obs: Any, deterministic: bool = False) -> tuple[Any, None]:
        with torch.no_grad():
            action = self._predict(self.obs_to_tensor(obs)[0], deterministic)[0].numpy()
        if isinstance(self.acts, spaces.Box):
            low, high = self.acts.low, self.acts.high
            if self.squash_output:
                action = low + 0.5 * (action + 1.0) * (high - low)
            action = np.clip(action, low, high)
        return action, None


class ActorCriticPolicy(BasePolicy):
    def get_distribution(self, obs: Tensor) -> Any:
        if isinstance(self.acts, spaces.Discrete):
            return CategoricalDistribution().proba_distribution(self.action_net(obs))
        return DiagGaussianDistribution().proba_distribution(self.action_net(obs), self.log_std)

    def _predict(self, obs: Tensor, deterministic: bool = False) -> Tensor:
        inner = self.get_distribution(obs).distribution
        return inner.mode if deterministic else inner.sample()


class Actor(nn.Module):
    def __init__(self, policy: BasePolicy) -> None:
        super().__init__()
        self.mu, self.log_std = policy.action_net, policy.log_std
        self.action_dist = SquashedDiagGaussianDistribution()

    def get_action_dist_params(self, obs: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
        return self.mu(obs), self.log_std, {}

    def forward(self, obs: Tensor) -> Tensor:
        return torch.tanh(self.mu(obs))


class SACPolicy(BasePolicy):
    squash_output = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.actor = Actor(self)

    def _predict(self, obs: Tensor, deterministic: bool = False) -> Tensor:
        return self.actor(obs)
