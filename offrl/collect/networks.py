"""Small networks in numpy, one observation at a time.

At batch 1 a call of torch costs more than the arithmetic. Every output is a dot product of its own
(`vecdot`), so that its bits do not depend on how many threads a matrix product would be split over.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float32]


def _elu(x: Floats) -> Floats:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _gelu(x: Floats) -> Floats:
    return (0.5 * x * (1.0 + special.erf(x * np.float32(2**-0.5)))).astype(np.float32)


ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, np.float32(0)),
    "ELU": _elu,
    "LeakyReLU": lambda x: np.maximum(x, np.float32(0.01) * x),
    "GELU": _gelu,
    "SiLU": lambda x: x * special.expit(x),
    "Identity": lambda x: x,
}


@dataclass(frozen=True)
class Layer:
    """An affine map and what follows it."""

    weight: Floats  # [n_out, n_in]
    bias: Floats | None  # [n_out]
    activation: Callable[[Floats], Floats]

    def __call__(self, x: Floats) -> Floats:
        """Return the outputs [n_out] for inputs [n_in]."""
        y = np.vecdot(self.weight, x)
        return self.activation(y if self.bias is None else y + self.bias)


def layer(weight: Any, bias: Any, activation: str = "Identity") -> Layer:
    """Return a layer of arrays of any float type; `activation` is one of ACTIVATIONS."""
    kept = None if bias is None else np.ascontiguousarray(bias, np.float32)
    return Layer(np.ascontiguousarray(weight, np.float32), kept, ACTIVATIONS[activation])


@dataclass(frozen=True)
class Network:
    """Layers one after another; without any, the inputs themselves."""

    layers: tuple[Layer, ...]

    def __call__(self, x: Floats) -> Floats:
        """Return the outputs of the last layer for inputs [n_in]."""
        for each in self.layers:
            x = each(x)
        return x
