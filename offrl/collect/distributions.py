"""What a policy's network says of one observation: a distribution over actions.

    Clipped    a normal, clipped to the bounds when acting      density inside, tail mass at a bound
    Squashed   the tanh of a normal, stretched to the bounds    density inside, at a bound the mass
                                                                of all that is rounded to it
    Choices    probabilities of discrete actions                their logarithm
    Point      one action                                       none

Actions are those that the environment receives, in its shape and type, and log-probabilities are of
those, in its units.
"""

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from scipy import special

from offrl.errors import ConfigError

Floats = npt.NDArray[np.float64]

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


class Distribution(Protocol):
    """The distribution of the action for one observation."""

    def mode(self) -> Any:
        """Return the action of a policy that does not explore."""
        ...

    def sample(self, rng: np.random.Generator) -> Any:
        """Return an action drawn from the distribution."""
        ...

    def log_prob(self, action: Any) -> float:
        """Return the log-probability of an action that was executed."""
        ...

    def at_bound(self, action: Any) -> bool:
        """Return whether an action has a coordinate to which the distribution gives a mass."""
        ...


class Bounds:
    """A Box of actions: flat vectors to actions and back, and the mass that rounding adds."""

    def __init__(self, space: spaces.Box) -> None:
        self.space = space
        self.low = space.low.reshape(-1).astype(np.float64)
        self.high = space.high.reshape(-1).astype(np.float64)

    def action(self, flat: Floats) -> npt.NDArray[Any]:
        """Return flat coordinates [A] as an action, clipped to the bounds."""
        inside = np.minimum(np.maximum(flat, self.low), self.high)
        if self.space.dtype.kind != "f":
            inside = np.rint(inside)
        return inside.astype(self.space.dtype).reshape(self.space.shape)

    def flat(self, action: Any) -> Floats:
        """Return an action as flat coordinates [A]."""
        return np.asarray(action, np.float64).reshape(-1)

    def at_bound(self, action: Any) -> bool:
        """Return whether a coordinate lies on a bound."""
        x = self.flat(action)
        return bool(((x <= self.low) | (x >= self.high)).any())

    def stretched(self) -> "Stretch":
        """Return the tanh map onto the bounds; ConfigError where one is infinite."""
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all()):
            raise ConfigError(
                "A squashed policy needs bounded actions, and these have no bounds.",
                "Wrap the environment with gymnasium.wrappers.RescaleAction.",
            )
        return Stretch(self)


class Stretch:
    """The map of the whole line onto the inside of the bounds: low + width sigmoid(2 u)."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.low, self.width = bounds.low, bounds.high - bounds.low
        low, high = (b.reshape(-1) for b in (bounds.space.low, bounds.space.high))
        # Beyond these, in u, an action is rounded to the bound in the type of the space.
        self.first = self.inverse(_halfway(low, high))
        self.last = self.inverse(_halfway(high, low))

    def forward(self, u: Floats) -> npt.NDArray[Any]:
        """Return the action of u [A]."""
        return self.bounds.action(self.low + self.width * special.expit(2.0 * u))

    def inverse(self, x: Floats) -> Floats:
        """Return u [A] of coordinates strictly inside the bounds."""
        return 0.5 * np.log((x - self.low) / (self.bounds.high - x))

    def log_slope(self, x: Floats) -> Floats:
        """Return log dx/du [A] at coordinates strictly inside the bounds."""
        return np.log(2.0 * (x - self.low) * (self.bounds.high - x) / self.width)


class Clipped:
    """A normal per coordinate, clipped to the bounds when acting."""

    def __init__(self, mean: npt.ArrayLike, std: npt.ArrayLike, bounds: Bounds) -> None:
        self._mean, self._bounds = np.asarray(mean, np.float64), bounds
        self._std = np.asarray(std, np.float64)

    def mode(self) -> Any:
        """Return the clipped mean."""
        return self._bounds.action(self._mean)

    def sample(self, rng: np.random.Generator) -> Any:
        """Return a draw, clipped."""
        return self.draw(rng.standard_normal(self._mean.shape))

    def draw(self, noise: Floats) -> Any:
        """Return the draw that standard normal `noise` [A] makes."""
        return self._bounds.action(self._mean + self._std * noise)

    def log_prob(self, action: Any) -> float:
        """Return the censored log-density in environment units."""
        bounds = self._bounds
        x = bounds.flat(action)
        each = _normal(x, self._mean, self._std)
        below, above = x <= bounds.low, x >= bounds.high
        if below.any():
            each = np.where(below, special.log_ndtr((bounds.low - self._mean) / self._std), each)
        if above.any():
            each = np.where(above, special.log_ndtr((self._mean - bounds.high) / self._std), each)
        return float(each.sum())

    def at_bound(self, action: Any) -> bool:
        """Return whether a coordinate was clipped."""
        return self._bounds.at_bound(action)


class Squashed:
    """The tanh of a normal per coordinate, stretched to the bounds."""

    def __init__(self, mean: npt.ArrayLike, std: npt.ArrayLike, stretch: Stretch) -> None:
        self._mean, self._stretch = np.asarray(mean, np.float64), stretch
        self._std = np.asarray(std, np.float64)

    def mode(self) -> Any:
        """Return the action of the normal's mean, which is not the mean of the actions."""
        return self._stretch.forward(self._mean)

    def sample(self, rng: np.random.Generator) -> Any:
        """Return a draw."""
        return self.draw(rng.standard_normal(self._mean.shape))

    def draw(self, noise: Floats) -> Any:
        """Return the draw that standard normal `noise` [A] makes."""
        return self._stretch.forward(self._mean + self._std * noise)

    def log_prob(self, action: Any) -> float:
        """Return the log-density in environment units, a log-mass where rounded to a bound."""
        stretch = self._stretch
        x = stretch.bounds.flat(action)
        below, above = x <= stretch.bounds.low, x >= stretch.bounds.high
        edge = below | above
        if edge.any():
            x = np.where(edge, stretch.low + 0.5 * stretch.width, x)
        each = _normal(stretch.inverse(x), self._mean, self._std) - stretch.log_slope(x)
        if edge.any():
            first = special.log_ndtr((stretch.first - self._mean) / self._std)
            last = special.log_ndtr((self._mean - stretch.last) / self._std)
            each = np.where(below, first, np.where(above, last, each))
        return float(each.sum())

    def at_bound(self, action: Any) -> bool:
        """Return whether a coordinate was rounded to a bound."""
        return self._stretch.bounds.at_bound(action)


class Choices:
    """A softmax over discrete actions."""

    def __init__(self, logits: npt.ArrayLike, start: int) -> None:
        scores = np.asarray(logits, np.float64)
        scores = scores - scores.max()
        self._log_probs, self._start = scores - math.log(float(np.exp(scores).sum())), start

    def mode(self) -> int:
        """Return the most likely action."""
        return self._start + int(self._log_probs.argmax())

    def sample(self, rng: np.random.Generator) -> int:
        """Return a draw by the inverse of the distribution function."""
        below = np.exp(self._log_probs).cumsum() <= rng.random()
        return self._start + min(int(below.sum()), len(below) - 1)

    def log_prob(self, action: Any) -> float:
        """Return the log-probability."""
        return float(self._log_probs[int(action) - self._start])

    def at_bound(self, action: Any) -> bool:
        """Return False: choices have no bounds."""
        return False


class Point:
    """One action, without a density."""

    def __init__(self, action: Any) -> None:
        self._action = action

    def mode(self) -> Any:
        """Return the action."""
        return self._action

    def sample(self, rng: np.random.Generator) -> Any:
        """Return the action."""
        return self._action

    def log_prob(self, action: Any) -> float:
        """Return NaN: there is no density."""
        return math.nan

    def at_bound(self, action: Any) -> bool:
        """Return False: nothing is asked of a point."""
        return False


def _normal(x: Floats, mean: Floats, std: Floats) -> Floats:
    z = (x - mean) / std
    return -0.5 * z * z - np.log(std) - _HALF_LOG_TWO_PI


def _halfway(bound: npt.NDArray[Any], towards: npt.NDArray[Any]) -> Floats:
    """Return where rounding to the type of a bound begins to give the bound itself."""
    beside = np.nextafter(bound, towards).astype(np.float64)
    middle = 0.5 * (bound.astype(np.float64) + beside)
    return np.where(middle == bound, beside, middle)
