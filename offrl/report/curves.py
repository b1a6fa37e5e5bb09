"""Learning curves: a metric of all seeds of an arm, its mean, and how far that could be chance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from offrl.evaluation.results import TRIED
from offrl.logs import read_metrics
from offrl.report.arms import Arm, Task

MOST, FEWEST = 160, 40  # points of a curve; of more, evenly spaced ones are kept, and the last
ON_A_PAGE = 2400  # points of one metric, of all curves together, so that a page stays small
DIGITS = 5  # significant digits on the page
_SKIPPED = ("step", "env_step")
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One metric of one arm over its steps."""

    metric: str
    steps: tuple[int, ...]
    values: Floats  # [seeds, steps], NaN where a seed has none
    seeds: tuple[int, ...]

    @property
    def n(self) -> npt.NDArray[np.int64]:
        """How many seeds have a value at each step."""
        return (~np.isnan(self.values)).sum(0)

    @property
    def mean(self) -> Floats:
        """The mean over the seeds that have a value, [steps]."""
        return np.nansum(self.values, 0) / self.n

    def band(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """The Student-t interval of the mean over seeds at each step; NaN where one is alone."""
        from scipy import special

        n, mean = self.n, self.mean
        freedom = np.maximum(n - 1, 1)
        spread = np.sqrt(np.nansum((self.values - mean) ** 2, 0) / freedom)
        half = special.stdtrit(freedom, (1 + level) / 2) * spread / np.sqrt(n)
        half = np.where(n > 1, half, math.nan)
        return mean - half, mean + half

    def to_dict(self, *, each: bool = False) -> dict[str, Any]:
        """Return what a chart draws, rounded; `each` seed too, where that is asked for."""
        low, high = self.band()
        return {
            "x": list(self.steps),
            "mean": rounded(self.mean),
            "low": rounded(low) if len(self.seeds) > 1 else None,
            "high": rounded(high) if len(self.seeds) > 1 else None,
            "n": self.n.tolist(),
            "seeds": list(self.seeds),
            "each": [rounded(one) for one in self.values] if each and len(self.seeds) > 1 else [],
        }


def rounded(values: Sequence[float] | Floats) -> list[float | None]:
    """Return numbers with so many digits as a chart can show; what is not finite is None."""
    return [float(f"{v:.{DIGITS}g}") if math.isfinite(v) else None for v in map(float, values)]


Curves = dict[tuple[Task, int], dict[str, Curve]]  # by metric, of each arm


def curves_by_arm(arms: Sequence[Arm]) -> Curves:
    """Return every curve of the arms."""
    most = max(FEWEST, min(MOST, ON_A_PAGE // max(len(arms), 1)))
    return {arm.key: curves_of(arm, most) for arm in arms}


def curves_of(arm: Arm, most: int = MOST) -> dict[str, Curve]:
    """Return a curve for each metric that a seed of the arm has logged, evaluations first.

    Steps are environment steps where the arm acts. A metrics.csv that cannot be read counts as
    empty: `offrl.report.arms.gather` has told of it.
    """
    key = "env_step" if arm.task.acts else "step"
    logged: dict[str, dict[int, dict[int, float]]] = {}
    for run, seed in arm.seeds:
        try:
            rows = list(read_metrics(run.dir / f"seed_{seed}" / "metrics.csv", 2**62, key))
        except (ValueError, OSError):
            continue
        for step, metrics in rows:
            for name, value in metrics.items():
                if name not in _SKIPPED and math.isfinite(value):
                    logged.setdefault(name, {}).setdefault(seed, {})[step] = value
    order = sorted(logged, key=lambda name: (name != TRIED, name))
    return {name: _curve(name, logged[name], most) for name in order}


def _curve(name: str, logged: dict[int, dict[int, float]], most: int) -> Curve:
    steps = sorted({step for one in logged.values() for step in one})
    if len(steps) > most:
        kept = np.unique(np.linspace(0, len(steps) - 1, most).round().astype(int))
        steps = [steps[place] for place in kept]
    values = [[one.get(step, math.nan) for step in steps] for one in logged.values()]
    return Curve(name, tuple(steps), np.array(values, np.float64), tuple(logged))
