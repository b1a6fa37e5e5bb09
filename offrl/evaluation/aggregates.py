"""Runs on several tasks in a few numbers, and how far each could be chance.

    scores = {"pendulum": [n_1 runs], "hopper": [n_2 runs], ...}      one score a seed, n may differ

    mean            over tasks of the mean over a task's runs
    median          over tasks of the mean over a task's runs
    iqm             mean of all runs without the lowest and highest quarter, floor(n / 4) each
    optimality gap  mean of max(target - score, 0)
    profile         share of runs whose score is above a threshold, for each threshold
    P(A > B)        over tasks the mean of the share of pairs in which A wins, a tie being half

Intervals are percentiles of a stratified bootstrap: runs are drawn again within each task. With
five runs of one task such an interval is too narrow (docs/statistics.md has the measured coverage),
so that two sides are told apart by `offrl.evaluation.differences` instead.

Source: Agarwal et al. 2021, 2108.13264, sections 4 and A; code rliable 3ccd9f4, whose bootstrap
draws from NumPy's global generator; here a Generator is handed in.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from offrl.errors import ConfigError

REPS = 50_000  # of the bootstrap, as the source has them
PROFILE_REPS = 2_000
_AT_ONCE = 2_000_000  # numbers of resampled scores in memory at a time

Scores = Mapping[str, Sequence[float] | np.ndarray] | np.ndarray  # by task, or [runs, tasks]
Strata = tuple[np.ndarray, ...]  # one array [..., runs] a task
Statistic = Callable[[Strata], np.ndarray]  # of the last axes, keeping those before


def strata(scores: Scores) -> Strata:
    """Return the scores as one float array [runs] a task.

    Raises ConfigError where a task has none, where one is not finite, or where there is no task.
    """
    if isinstance(scores, np.ndarray):
        if scores.ndim != 2:
            raise ConfigError(
                f"Scores of the shape {scores.shape} are no matrix.", "Give [runs, tasks]."
            )
        named = {str(number): scores[:, number] for number in range(scores.shape[1])}
    else:
        named = dict(scores)
    if not named:
        raise ConfigError("There are no scores.", "Give those of at least one task.")
    found = {task: np.asarray(runs, dtype=np.float64).reshape(-1) for task, runs in named.items()}
    for task, runs in found.items():
        if not runs.size:
            raise ConfigError(f"Task '{task}' has no runs.", "Leave it out.")
        if not np.isfinite(runs).all():
            raise ConfigError(
                f"A score of task '{task}' is not finite.", "Leave the run out, and say so."
            )
    return tuple(found.values())


def mean(tasks: Strata) -> np.ndarray:
    """Return the mean over tasks of the mean over runs [...]: each task counts alike."""
    return _task_means(tasks).mean(-1)


def median(tasks: Strata) -> np.ndarray:
    """Return the median over tasks of the mean over runs [...]."""
    return np.median(_task_means(tasks), axis=-1)


def iqm(tasks: Strata) -> np.ndarray:
    """Return the interquartile mean [...]: of all n runs, floor(n / 4) lowest and highest dropped.

    No run counts by a fraction, as in `scipy.stats.trim_mean(x, 0.25)`. The runs of all tasks are
    one pool, so that a task with more runs counts more.
    """
    pooled = np.sort(np.concatenate(tasks, axis=-1), axis=-1)
    n = pooled.shape[-1]
    return pooled[..., n // 4 : n - n // 4].mean(-1)


def optimality_gap(tasks: Strata, target: float = 100.0) -> np.ndarray:
    """Return the mean over tasks of max(target - score, 0) [...]: what is missing to `target`."""
    return mean(tuple(np.maximum(target - runs, 0.0) for runs in tasks))


def profile(tasks: Strata, thresholds: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the share of runs with a score above each threshold [..., len(thresholds)], strictly.

    A mean over tasks, each counting alike (the source's run-score distribution).
    """
    limits = np.asarray(thresholds, dtype=np.float64)
    shares = [np.stack([(runs > limit).mean(-1) for limit in limits], axis=-1) for runs in tasks]
    return np.mean(shares, axis=0)


def improvement(x: Strata, y: Strata) -> np.ndarray:
    """Return P(X > Y) [...], ties being half: Mann-Whitney's U / (n m), a mean over tasks.

    Both hold the same tasks in the same order.
    """
    if len(x) != len(y):
        raise ConfigError(
            f"{len(x)} tasks cannot be held against {len(y)}.", "Give the same tasks on both sides."
        )
    shares = [
        ((a[..., :, None] > b[..., None, :]) + 0.5 * (a[..., :, None] == b[..., None, :]))
        .mean(-1)
        .mean(-1)
        for a, b in zip(x, y, strict=True)
    ]
    return np.mean(shares, axis=0)


def bootstrap(
    statistic: Callable[..., np.ndarray],
    *sides: Strata,
    rng: np.random.Generator,
    reps: int = REPS,
    level: float = 0.95,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper percentile bounds of `statistic(*sides)`, each of its shape.

    Runs are drawn with replacement within each task of each side, all independently, `reps` times.
    The same `rng` state gives the same bounds. Bounds of a profile hold at each threshold by
    itself, not for the whole curve.
    """
    if not 0.0 < level < 1.0:
        raise ConfigError(f"An interval's level is between 0 and 1, not {level}.")
    if reps < 1:
        raise ConfigError(f"{reps} resamples give no interval.", "Give at least 1.")
    sizes = [len(runs) for side in sides for runs in side]
    # A statistic of pairs holds n x m numbers for each resample.
    width = sum(sizes) if len(sides) == 1 else max(n * m for n, m in _pairs(sides))
    chunk = max(1, _AT_ONCE // width)
    found: list[Any] = []
    for first in range(0, reps, chunk):
        rows = min(chunk, reps - first)
        drawn = [tuple(_resampled(runs, rows, rng) for runs in side) for side in sides]
        found.append(statistic(*drawn))
    values = np.concatenate(found)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail], axis=0)
    return low, high


def _pairs(sides: tuple[Strata, ...]) -> list[tuple[int, int]]:
    x, y = sides[0], sides[-1]
    return [(len(a), len(b)) for a, b in zip(x, y, strict=True)]


def _resampled(runs: np.ndarray, rows: int, rng: np.random.Generator) -> np.ndarray:
    return runs[rng.integers(len(runs), size=(rows, len(runs)))]


def _task_means(tasks: Strata) -> np.ndarray:
    return np.stack([runs.mean(-1) for runs in tasks], axis=-1)
