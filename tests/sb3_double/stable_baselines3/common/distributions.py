"""Distributions under the names that Stable-Baselines3 gives them."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Normal


class DiagGaussianDistribution:
    def proba_distribution(self, mean: Tensor, log_std: Tensor) -> "DiagGaussianDistribution":
        self.distribution = Normal(mean, torch.ones_like(mean) * log_std.exp())
        return self


class SquashedDiagGaussianDistribution(DiagGaussianDistribution):
    pass


class CategoricalDistribution:
    def proba_distribution(self, logits: Tensor) -> Any:
        self.distribution = Categorical(logits=logits)
        return self
