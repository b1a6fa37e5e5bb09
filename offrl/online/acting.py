"""One world acted in with numpy: at batch 1 a call of torch costs more than the arithmetic.

What `exploring` and the policy heads say of a batch in tensors, said of one observation, in float64
after the network, and with the same noise.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor, nn

from offrl.collect.distributions import Bounds, Clipped, Squashed
from offrl.collect.networks import Floats, Layer, Network, layer
from offrl.data.spec import Spec
from offrl.learner import State
from offrl.nn import DeterministicPolicy, GaussianPolicy, Hidden, SquashedPolicy

Drawn = tuple[npt.NDArray[np.float32], float]  # an action [A] and its log-probability
Tensors = Mapping[str, Tensor]


def alone(network: nn.Module, spec: Spec, state: State, noise: float) -> "Alone | None":
    """What acts for `network` in one world; None where only torch can.

    `noise` is the exploration of a deterministic policy, as `exploring` has it.
    """
    heads = (DeterministicPolicy, GaussianPolicy, SquashedPolicy)
    if type(network) not in heads or spec.action_space.dtype != np.float32:
        return None
    if type(network) is DeterministicPolicy and noise == 0:
        return None  # it has no density
    buffers: Tensors = state["buffers"]["policy"]
    rounded = any(m.compute_dtype is not None for m in network.modules() if isinstance(m, Hidden))
    if rounded or any(b.device.type != "cpu" or b.dtype != torch.float32 for b in buffers.values()):
        return None
    return Alone(network, buffers, noise)


class Alone:
    """The policy in one world: parameters, an observation and noise to an action."""

    def __init__(self, network: nn.Module, buffers: Tensors, noise: float) -> None:
        arrays = {name: buffer.numpy() for name, buffer in buffers.items()}
        self._mean, self._std = arrays["normalize.obs_mean"], arrays["normalize.obs_std"]
        self._hidden = sum(isinstance(module, Hidden) for module in network.modules())
        low, high = arrays["action_low"], arrays["action_high"]
        self._bounds = Bounds(spaces.Box(low, high, dtype=np.float32))
        self._low = self._bounds.low
        self._half = (self._bounds.high - self._low) / 2
        self._noise = self._half * noise
        self._at = self._distributions()[type(network)]
        self._stretch = self._bounds.stretched()

    def __call__(self, params: Tensors, obs: Floats, noise: npt.NDArray[Any]) -> Drawn:
        """The action of flat `obs` [obs_dim] and standard normal `noise` [A]."""
        scaled = ((obs - self._mean) / self._std).astype(np.float32, copy=False)
        out = self._network(params)(scaled).astype(np.float64)
        distribution = self._at(out, params)
        action = distribution.draw(noise)
        return action, distribution.log_prob(action)

    def _distributions(self) -> dict[type, Callable[[Any, Tensors], Clipped | Squashed]]:
        return {
            DeterministicPolicy: lambda out, params: self._clipped(out, self._noise),
            GaussianPolicy: lambda out, params: self._clipped(out, self._spread(params)),
            SquashedPolicy: lambda out, params: self._squashed(out),
        }

    def _clipped(self, out: npt.NDArray[np.float64], std: Any) -> Clipped:
        return Clipped(self._low + self._half * (1 + np.tanh(out)), std, self._bounds)

    def _spread(self, params: Tensors) -> Any:
        return self._half * np.exp(params["log_std"].numpy().astype(np.float64).clip(-5, 0))

    def _squashed(self, out: npt.NDArray[np.float64]) -> Squashed:
        mean, log_std = np.split(out, 2)
        return Squashed(mean, np.exp(log_std.clip(-20, 2)), self._stretch)

    def _network(self, params: Tensors) -> Network:
        def of(name: str, activation: str = "Identity") -> Layer:
            weight, bias = params[f"net.{name}.weight"], params[f"net.{name}.bias"]
            return layer(weight.numpy(), bias.numpy(), activation)

        hidden = (of(f"hidden.{i}", "ReLU") for i in range(self._hidden))
        return Network((*hidden, of("head")))
