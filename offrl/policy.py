"""A trained policy: raw observations in, raw actions out, whatever the spaces."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from offrl.data.spec import Spec
from offrl.distributions import Categorical, Deterministic, Greedy
from offrl.errors import ConfigError


class Policy:
    """A policy network with the spaces that its inputs and outputs belong to."""

    def __init__(self, spec: Spec, network: nn.Module, device: str | torch.device = "cpu") -> None:
        self.spec = spec
        self.network = network.to(device).eval().requires_grad_(False)
        self.device = torch.device(device)

    def predict(self, obs: Any) -> Any:
        """The most likely action of one observation or a batch, in the action space's own form.

        obs: as the observation space gives it, or with a leading batch axis on every part; of a
        policy learned from a table, its columns by name, or a frame of them.
        A batch returns an array [B, ...]; one observation returns what `env.step` takes.
        Raises ConfigError where obs fits neither.
        """
        flat, single = self._flatten(obs)
        return self._unflatten(self._distribution(flat).mode(), single)

    def sample(self, obs: Any, rng: np.random.Generator | int | None = None) -> tuple[Any, Any]:
        """An action of the policy's own distribution and its log-probability; `rng` may be a seed.

        The log-probability is that of the executed action in environment units: a density, or
        the tail mass where a continuous action was clipped to a bound.
        """
        flat, single = self._flatten(obs)
        rng = np.random.default_rng(rng)
        distribution = self._stochastic(flat)
        action = _drawn(distribution, rng)
        log_prob = distribution.log_prob(action).double().cpu().numpy()
        return self._unflatten(action, single), float(log_prob[0]) if single else log_prob

    def log_prob(self, obs: Any, action: Any) -> Any:
        """Log-probability of `action` given `obs`, as `sample` scores it: a float, or [B]."""
        flat, single = self._flatten(obs)
        actions = self.spec.encode_actions(np.asarray(action)[None] if single else action)
        actions = np.asarray(actions)
        if actions.shape[:1] != flat.shape[:1]:
            raise ConfigError(
                f"{len(flat)} observations and actions of the shape {actions.shape} do not pair.",
                "Give one action for each observation.",
            )
        tensor = torch.as_tensor(self.spec.flatten_actions(actions))
        log_prob = self._stochastic(flat).log_prob(tensor).double().cpu().numpy()
        return float(log_prob[0]) if single else log_prob

    def act(self, flat_obs: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """Flat actions for flat observations [B, obs_dim]: the mode, or a sample given `rng`."""
        if rng is None:
            return self._distribution(flat_obs).mode().cpu().numpy()
        return _drawn(self._stochastic(flat_obs), rng).cpu().numpy()

    def _distribution(self, flat_obs: np.ndarray) -> Any:
        with torch.no_grad():
            return self.network(torch.as_tensor(flat_obs, device=self.device))

    def _stochastic(self, flat_obs: np.ndarray) -> Any:
        distribution = self._distribution(flat_obs)
        if isinstance(distribution, Deterministic):
            raise ConfigError(
                "A deterministic policy has no density to sample from or score.",
                "Train with a stochastic head (for bc: --head gaussian), or use predict().",
            )
        if not isinstance(distribution, tuple):  # of a network of one's own
            return distribution
        # In float64 a score is exact to the rounding of the action, at and near a bound too.
        return type(distribution)(*(tensor.cpu().double() for tensor in distribution))

    def _flatten(self, obs: Any) -> tuple[np.ndarray, bool]:
        obs = self.spec.encode_obs(obs)
        single = self.spec.obs_count(obs) is None
        flat = self.spec.flatten_obs_one(obs)[None] if single else self.spec.flatten_obs(obs)
        return flat, single

    def _unflatten(self, action: Tensor, single: bool) -> Any:
        rows = action.cpu().numpy()
        return self.spec.env_action(rows[0]) if single else self.spec.env_actions(rows)


def _drawn(distribution: Any, rng: np.random.Generator) -> Tensor:
    """A draw, continuous actions in float32 as they are executed."""
    if isinstance(distribution, Categorical | Greedy):
        return distribution.sample(torch.as_tensor(rng.random(len(distribution.log_probs))))
    noise = rng.standard_normal(tuple(distribution.mean.shape))
    return distribution.sample(torch.as_tensor(noise)).float()


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Let torch use n threads: the last bits of a matrix product depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
