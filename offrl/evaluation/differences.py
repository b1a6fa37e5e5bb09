"""Whether two sides differ, with what certainty, and how many seeds it would take to say so.

    paired      d_ts = a_ts - b_ts over the seeds s that both have on task t;  v_t = var(d_t)
    not paired  d_t  = mean(a_t) - mean(b_t);                    v_t from both sides, Welch

    difference = mean over tasks of d_t,     standard error = sqrt(sum_t v_t / n_t) / tasks
    interval   = difference ± t · standard error,    degrees of freedom by Satterthwaite

With one task these are Student's paired t and Welch's t. A pair shares its seed, and so the order
of the data and the episodes it is judged on; what both owe to that cancels. Sources: Welch 1947,
Satterthwaite 1946; power by the noncentral t, Cohen 1988, chapter 2.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from offrl.errors import ConfigError

POWER = 0.8  # chance that a true difference of the size asked for is seen
_MOST = 100_000  # seeds; nobody trains more


@dataclass(frozen=True)
class Difference:
    """A mean difference a - b over tasks, each task counting alike."""

    estimate: float
    interval: tuple[float, float] | None  # None where a task has too few seeds for a variance
    paired: bool
    n: tuple[int, ...]  # by task: pairs, or the smaller side's seeds
    variances: tuple[float, ...]  # of one seed's difference; two a task where it is not paired
    tasks: int

    @property
    def apart(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.interval is not None and not self.interval[0] <= 0.0 <= self.interval[1]

    def needed(
        self, size: float | None = None, power: float = POWER, level: float = 0.95
    ) -> int | None:
        """Return how many seeds a task on each side tell a difference of `size` apart from 0.

        `size` is the one found where none is given; `power` the chance that it is seen. None where
        no number of seeds is known to: there is no variance, or the size is 0.
        """
        wanted = abs(self.estimate if size is None else size)
        if not self.variances or wanted == 0.0:
            return None
        return seeds_needed(wanted, self.variances, self.tasks, power=power, level=level)


def paired(
    a: Mapping[str, Mapping[int, float]],
    b: Mapping[str, Mapping[int, float]],
    level: float = 0.95,
) -> Difference:
    """Return the difference over the seeds that both sides have of each task.

    `a` and `b` hold a score by task and seed. Raises ConfigError where a task is not on both sides
    or shares no seed.
    """
    _same_tasks(a, b)
    found: list[np.ndarray] = []
    for task in a:
        shared = [seed for seed in a[task] if seed in b[task]]
        if not shared:
            raise ConfigError(f"The two sides share no seed of {task}.", "Compare them unpaired.")
        found.append(np.array([a[task][seed] - b[task][seed] for seed in shared], np.float64))
    estimate = float(np.mean([each.mean() for each in found]))
    parts = [(_variance(each), len(each)) for each in found]
    return _difference(estimate, parts, len(found), True, tuple(n for _, n in parts), level)


def unpaired(
    a: Mapping[str, Sequence[float]], b: Mapping[str, Sequence[float]], level: float = 0.95
) -> Difference:
    """Return the difference of means of two sides that share no seeds; scores by task."""
    _same_tasks(a, b)
    sides = [(np.asarray(a[t], np.float64), np.asarray(b[t], np.float64)) for t in a]
    if any(not len(side) for pair in sides for side in pair):
        raise ConfigError("A task has no scores on one side.", "Leave it out.")
    estimate = float(np.mean([x.mean() - y.mean() for x, y in sides]))
    parts = [(_variance(side), len(side)) for pair in sides for side in pair]
    counts = tuple(min(len(x), len(y)) for x, y in sides)
    return _difference(estimate, parts, len(sides), False, counts, level)


def seeds_needed(
    size: float,
    variances: Sequence[float],
    tasks: int = 1,
    *,
    power: float = POWER,
    level: float = 0.95,
) -> int | None:
    """Return the fewest seeds a task, on each side, that see a true difference of `size`.

    `variances` are those of one seed: of its paired difference, one a task; or of each side's
    score, two a task. The test is two-sided at 1 - level. None where more than 100 000 are needed.
    """
    if not size > 0.0 or not 0.0 < power < 1.0 or not 0.0 < level < 1.0:
        raise ConfigError(
            f"A difference of {size:g} at power {power:g} and level {level:g} needs no number.",
            "Give a difference above 0, a power and a level between 0 and 1.",
        )
    total = float(np.sum(variances))
    if total == 0.0:
        return 2
    # Satterthwaite with n seeds everywhere: (sum v)^2 / sum v^2 times those of one variance.
    times = total**2 / float(np.sum(np.square(variances)))

    def enough(n: int) -> bool:
        return _power(size, math.sqrt(total / n) / tasks, times * (n - 1), level) >= power

    low, high = 1, 2
    while not enough(high):
        low, high = high, 2 * high
        if low > _MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _power(size: float, error: float, freedom: float, level: float) -> float:
    """The chance that |t| passes its quantile where the true difference is `size`."""
    from scipy import special, stats  # slow, and only where it is asked for

    critical = float(special.stdtrit(freedom, (1.0 + level) / 2.0))
    shift = size / error
    if shift > 30.0:  # no t is below the quantile then, and the series slow
        return 1.0
    found = float(stats.nct.sf(critical, freedom, shift))
    # Beyond 5 the wrong tail is below 1e-7, and scipy's series for it ends in NaN here and there.
    return found if shift > 5.0 else found + float(stats.nct.cdf(-critical, freedom, shift))


def _difference(
    estimate: float,
    parts: Sequence[tuple[float | None, int]],
    tasks: int,
    is_paired: bool,
    counts: tuple[int, ...],
    level: float,
) -> Difference:
    if not 0.0 < level < 1.0:
        raise ConfigError(f"An interval's level is between 0 and 1, not {level}.")
    known = [(variance, n) for variance, n in parts if variance is not None]
    if len(known) < len(parts):
        return Difference(estimate, None, is_paired, counts, (), tasks)
    variances = tuple(variance for variance, _ in known)
    shares = [variance / n for variance, n in known]
    total = sum(shares)
    bounds = (estimate, estimate)
    if total > 0.0:
        from scipy import special

        freedom = total**2 / sum(s**2 / (n - 1) for s, (_, n) in zip(shares, known, strict=True))
        half = float(special.stdtrit(freedom, (1.0 + level) / 2.0)) * math.sqrt(total) / tasks
        bounds = (estimate - half, estimate + half)
    return Difference(estimate, bounds, is_paired, counts, variances, tasks)


def _variance(values: np.ndarray) -> float | None:
    """With n - 1 below the line; None for a single value."""
    if values.size < 2:
        return None
    return 0.0 if values.min() == values.max() else float(values.var(ddof=1))


def _same_tasks(a: Mapping[str, object], b: Mapping[str, object]) -> None:
    if not a or a.keys() != b.keys():
        only = ", ".join(sorted(a.keys() ^ b.keys())) or "nothing"
        raise ConfigError(
            f"The two sides are not of the same tasks: {only}.", "Compare tasks that both have."
        )
