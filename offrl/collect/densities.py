"""Log-densities of the actions that behaviours execute, exact and stable in the tails.

A normal that is truncated to the bounds of an action space has, inside them, the density

    p(x) = phi((x - mean) / std) / std / (Phi(high') - Phi(low')),   b' = (b - mean) / std

The mass in the denominator is taken in logarithms, mirrored so that both ends lie in the lower
tail, where `log_ndtr` keeps its precision; narrow intervals, where the difference of two nearly
equal numbers would lose it, use the midpoint expansion of the integral instead.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from scipy import special

from offrl.errors import ConfigError

Floats = npt.NDArray[np.float64]

_HALF_LOG_TWO_PI = 0.5 * float(np.log(2.0 * np.pi))
_NARROW = 1e-3
_FAR = 30.0  # standard deviations


def log_normal_mass(low: npt.ArrayLike, high: npt.ArrayLike) -> Floats:
    """Return log(Phi(high) - Phi(low)) for low < high, elementwise; infinite ends are allowed."""
    a = np.asarray(low, np.float64)
    b = np.asarray(high, np.float64)
    upper = a > 0
    a, b = np.where(upper, -b, a), np.where(upper, -a, b)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        log_b = special.log_ndtr(b)
        wide = log_b + np.log(-np.expm1(special.log_ndtr(a) - log_b))
        width, middle = b - a, 0.5 * (a + b)
        is_narrow = (1.0 + np.abs(middle)) * width < _NARROW
        if not is_narrow.any():
            return wide
        correction = np.log1p((middle**2 - 1.0) * width**2 / 24.0)
        narrow = np.log(width) - 0.5 * middle**2 - _HALF_LOG_TWO_PI + correction
        return np.where(is_narrow, narrow, wide)


def truncated_normal_log_density(
    x: npt.ArrayLike,
    mean: npt.ArrayLike,
    std: float,
    low: npt.ArrayLike,
    high: npt.ArrayLike,
    mass: Floats | None = None,
) -> Floats:
    """Return the log-density at x of a normal truncated to [low, high]; -inf outside.

    `mass` is what `truncated_mass` returns for the same mean, where the caller has it already.
    """
    x, mean = np.asarray(x, np.float64), np.asarray(mean, np.float64)
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    z = (x - mean) / std
    if mass is None:
        mass = truncated_mass(mean, std, low, high)
    inside = (x >= low) & (x <= high)
    return np.where(inside, -0.5 * z**2 - _HALF_LOG_TWO_PI - np.log(std) - mass, -np.inf)


def truncated_mass(
    mean: npt.ArrayLike, std: float, low: npt.ArrayLike, high: npt.ArrayLike
) -> Floats:
    """Return the logarithm of the mass that a normal has in [low, high]."""
    mean = np.asarray(mean, np.float64)
    return log_normal_mass(
        (np.asarray(low, np.float64) - mean) / std, (np.asarray(high, np.float64) - mean) / std
    )


def truncated_normal_sample(
    mean: npt.ArrayLike,
    std: float,
    low: npt.ArrayLike,
    high: npt.ArrayLike,
    rng: np.random.Generator,
    mass: Floats | None = None,
) -> Floats:
    """Draw from a normal truncated to [low, high] by inverting its distribution function."""
    mean = np.asarray(mean, np.float64)
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    a, b = (low - mean) / std, (high - mean) / std
    if mass is None:
        mass = log_normal_mass(a, b)
    upper = a > 0
    lower_end = np.where(upper, -b, a)
    # 1 - U lies in (0, 1], so its logarithm is finite.
    log_uniform = np.log(1.0 - rng.random(mean.shape))
    log_p = np.logaddexp(special.log_ndtr(lower_end), log_uniform + mass)
    z = special.ndtri_exp(np.minimum(log_p, 0.0))
    return np.clip(mean + std * np.where(upper, -z, z), low, high)


class FewCoordinates:
    """The truncated normal of a few coordinates, in plain numbers: a fraction of the time.

    Every number is the one that the functions above give, to the last bit, because the same
    elementary functions are applied in the same order; what is unusual is left to them.
    """

    MOST = 7  # numpy adds more than that in another order

    def __init__(self, std: float, low: Floats, high: Floats) -> None:
        self._std, self._log_std = std, float(np.log(std))
        self._low, self._high = low.tolist(), high.tolist()

    def masses(self, mean: list[float]) -> list[tuple[float, float]] | None:
        """Return per coordinate the logarithms of the mass below the nearer end and between both.

        None where a bound is so far or the bounds so close that care is needed.
        """
        found: list[tuple[float, float]] = []
        for m, low, high in zip(mean, self._low, self._high, strict=True):
            a, b = (low - m) / self._std, (high - m) / self._std
            if a > 0:
                a, b = -b, -a
            if not (a > -_FAR and b < _FAR and (1.0 + abs(0.5 * (a + b))) * (b - a) >= _NARROW):
                return None
            log_a, log_b = float(special.log_ndtr(a)), float(special.log_ndtr(b))
            found.append((log_a, log_b + float(np.log(-np.expm1(log_a - log_b)))))
        return found

    def draw(
        self, mean: list[float], masses: list[tuple[float, float]], rng: np.random.Generator
    ) -> list[float]:
        """Return a draw."""
        values: list[float] = []
        uniform = rng.random(len(mean)).tolist()
        for i, (log_a, mass) in enumerate(masses):
            log_u = float(np.log(1.0 - uniform[i]))
            z = float(special.ndtri_exp(min(float(np.logaddexp(log_a, log_u + mass)), 0.0)))
            mirrored = (self._low[i] - mean[i]) / self._std > 0
            value = mean[i] + self._std * (-z if mirrored else z)
            values.append(min(max(value, self._low[i]), self._high[i]))
        return values

    def log_density(
        self, action: list[float], mean: list[float], masses: list[tuple[float, float]]
    ) -> float:
        """Return the log-density of an action inside the bounds."""
        total = 0.0
        for x, m, (_, mass) in zip(action, mean, masses, strict=True):
            z = (x - m) / self._std
            total += -0.5 * (z * z) - _HALF_LOG_TWO_PI - self._log_std - mass
        return total


class UniformActions:
    """The uniform distribution over a bounded Box or a Discrete action space."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        """Raise ConfigError for a space without a uniform distribution."""
        self.space = space
        if isinstance(space, spaces.Discrete):
            self.log_density = -float(np.log(float(space.n)))
            self._n, self._start = int(space.n), int(space.start)
            return
        if not isinstance(space, spaces.Box):
            raise ConfigError(
                f"Random actions are drawn from a Box or a Discrete action space, not {space}.",
                "Wrap the environment so that its action is one of the two.",
            )
        self._low, self._high = space.low.astype(np.float64), space.high.astype(np.float64)
        if not (np.isfinite(self._low).all() and np.isfinite(self._high).all()):
            raise ConfigError(
                "Random actions need bounds, and this action space has none.",
                "Wrap the environment with gymnasium.wrappers.RescaleAction or ClipAction.",
            )
        self._integral = np.issubdtype(space.dtype, np.integer)
        self._width = self._high - self._low + (1.0 if self._integral else 0.0)
        if not (self._width > 0).all():
            raise ConfigError(
                "An action dimension has equal bounds, so its uniform density does not exist.",
                "Wrap the environment so that this dimension is left out.",
            )
        self.log_density = -float(np.log(self._width).sum())

    def block(self, rows: int, rng: np.random.Generator) -> list[Any]:
        """Return `rows` actions, each as the environment takes it."""
        if isinstance(self.space, spaces.Discrete):
            return (self._start + rng.integers(self._n, size=rows)).tolist()
        unit = rng.random((rows, *self._low.shape))
        values = self._low + self._width * unit
        if self._integral:
            values = np.minimum(np.floor(values), self._high)
        return list(values.astype(self.space.dtype))
