"""Means and intervals of a few numbers."""

from collections.abc import Sequence

import numpy as np

from offrl.errors import ConfigError


def interval(
    values: Sequence[float] | np.ndarray, level: float = 0.95
) -> tuple[float, float] | None:
    """Return the two-sided Student-t interval of the mean of `values` [n].

    mean ± t · s / √n, with t the (1 + level) / 2 quantile at n - 1 degrees of freedom and s the
    standard deviation with n - 1 below the line. One value, or none, has no interval: None. Equal
    values have one of zero width. Values that are not finite raise ConfigError.
    """
    sample = np.asarray(values, dtype=np.float64).reshape(-1)
    if not 0.0 < level < 1.0:
        raise ConfigError(f"An interval's level is between 0 and 1, not {level}.")
    if not np.isfinite(sample).all():
        raise ConfigError("There is no interval over values that are not finite.")
    if sample.size < 2:
        return None
    low, high = float(sample.min()), float(sample.max())
    if low == high:  # the mean of equal floats may round away from them
        return low, low
    from scipy import special  # a third of a second that `import offrl` need not pay

    quantile = float(special.stdtrit(sample.size - 1, (1.0 + level) / 2.0))
    mean = float(sample.mean())
    half = quantile * float(sample.std(ddof=1)) / float(np.sqrt(sample.size))
    return mean - half, mean + half


def mean_interval(
    mean: float, deviation: float, n: int, level: float = 0.95
) -> tuple[float, float]:
    """Return the Student-t interval of a mean of `n` values with that `deviation`, as `interval`.

    Raises ConfigError where n is below 2.
    """
    if n < 2:
        raise ConfigError(f"A mean of {n} values has no interval.")
    from scipy import special

    quantile = float(special.stdtrit(n - 1, (1.0 + level) / 2.0))
    half = quantile * deviation / float(np.sqrt(n))
    return mean - half, mean + half


def mean(values: Sequence[float] | np.ndarray) -> float:
    """Return the mean of `values` [n], exactly their value where all are equal."""
    sample = np.asarray(values, dtype=np.float64).reshape(-1)
    low, high = float(sample.min()), float(sample.max())
    return low if low == high else float(sample.mean())


def deviation(values: Sequence[float] | np.ndarray) -> float | None:
    """Return the standard deviation with n - 1 below the line; None for fewer than two values."""
    sample = np.asarray(values, dtype=np.float64).reshape(-1)
    if sample.size < 2:
        return None
    return 0.0 if sample.min() == sample.max() else float(sample.std(ddof=1))
