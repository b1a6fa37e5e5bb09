"""A function of yours as a policy: of a batch of observations, what it would do.

    discrete actions     probabilities [B, n], or choices [B]
    continuous ones      actions [B, A], or the pair (mean, std) of a Gaussian clipped to the bounds

It is given the flat observations, float32 [B, obs_dim]; where the data came from a table, a
dictionary of its observation columns.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from offrl.data.columns import CATEGORIES, NUMBERS
from offrl.data.spec import Spec
from offrl.distributions import Categorical, Deterministic, Gaussian
from offrl.errors import ConfigError


class _Asked(torch.autograd.Function):
    """Asks a function of the user, of several critics' observations at once."""

    @staticmethod
    def forward(obs: Tensor, policy: "FunctionPolicy") -> Tensor:
        return policy.ask(obs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        obs, policy = args[0].movedim(in_dims[0], 0), args[1]
        found: Any = _Asked.apply(obs.flatten(0, 1), policy)
        return found.unflatten(0, obs.shape[:2]), 0


class FunctionPolicy(nn.Module):
    """A function of a batch of observations as a policy network without parameters."""

    def __init__(self, function: Callable[..., Any], spec: Spec, name: str) -> None:
        super().__init__()
        self._function, self._spec, self._name = function, spec, name
        self.gaussian = False  # the last answer was a mean with a deviation

    def forward(self, obs: Tensor) -> Any:
        """The distribution that the function's answer describes."""
        found = self._asked(obs)
        if self._spec.discrete:
            return Categorical(found)
        low, high = (torch.as_tensor(b) for b in (self._spec.action_low, self._spec.action_high))
        mean, std = found.chunk(2, -1)
        if not self.gaussian:
            return Deterministic(torch.clamp(mean, low, high), low, high)
        return Gaussian(mean, std, low, high)

    def _asked(self, obs: Tensor) -> Tensor:
        found: Any = _Asked.apply(obs, self)
        return found

    def ask(self, obs: Tensor) -> Tensor:
        """log-probabilities [B, n] of discrete actions, else mean and deviation [B, 2 A]."""
        flat = obs.detach().cpu().numpy()
        found = self._function(named_columns(self._spec, flat))
        read = self._discrete if self._spec.discrete else self._box
        return torch.as_tensor(read(found, len(flat)), dtype=torch.float32)

    def _discrete(self, found: Any, rows: int) -> np.ndarray:
        given, n = np.asarray(found), self._spec.action_dim
        if given.shape == (rows,):
            encoded = self._spec.flatten_actions(np.asarray(self._spec.encode_actions(given)))
            given = np.eye(n)[encoded.astype(np.int64)]
        try:
            given = given.astype(np.float64)
        except (TypeError, ValueError):
            raise self._wrong(given) from None
        if given.shape != (rows, n):
            raise self._wrong(given)
        if not (given >= 0).all() or np.abs(given.sum(1) - 1).max() > 1e-4:
            row = int(np.argmax(np.abs(given.sum(1) - 1) + (given < 0).any(1)))
            raise ConfigError(
                f"{self._name} returned {given[row].tolist()}, which is no distribution.",
                "Return probabilities that add up to 1.",
            )
        with np.errstate(divide="ignore"):
            return np.log(given)

    def _box(self, found: Any, rows: int) -> np.ndarray:
        self.gaussian = isinstance(found, tuple) and len(found) == 2
        mean, std = found if self.gaussian else (found, 1.0)
        mean, shape = np.asarray(mean, np.float64), (rows, self._spec.action_dim)
        if mean.shape != shape:
            raise self._wrong(mean)
        std = np.broadcast_to(np.asarray(std, np.float64), shape)
        if not (std > 0).all():
            raise self._wrong(std)
        return np.concatenate([mean, std], axis=1)

    def _wrong(self, given: Any) -> ConfigError:
        n = self._spec.action_dim
        wanted = (
            f"probabilities [B, {n}] or choices [B]"
            if self._spec.discrete
            else f"actions [B, {n}], or a mean and a standard deviation above 0"
        )
        return ConfigError(
            f"{self._name} returned {given.dtype} of the shape {given.shape}.", f"Return {wanted}."
        )


def named_columns(spec: Spec, flat: np.ndarray) -> Any:
    """Flat observations [B, obs_dim] as a function of the user takes them."""
    columns = spec.columns
    if columns is None:
        return flat
    numbers, at = flat[:, : len(columns.numbers)], len(columns.numbers)
    choices = []
    for column in columns.categories:
        choices.append(flat[:, at : at + len(column.values)].argmax(1))
        at += len(column.values)
    if not choices:
        return columns.decode_obs(numbers)
    stacked = np.stack(choices, axis=1)
    return columns.decode_obs({NUMBERS: numbers, CATEGORIES: stacked} if numbers.size else stacked)
