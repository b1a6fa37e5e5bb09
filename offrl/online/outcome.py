"""What acting did to a policy: before, the dip, the way back, after, and the regret.

Regret is the average of 1 - score/100 over the online phase, by two definitions in use: over the
evaluations (Nakamoto et al. 2023, 2303.05479) and over the episodes that were lived (CORL, Tarasov
et al. 2022, 2210.07105). Both need reference scores of the environment.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offrl.evaluation.references import Reference, score


@dataclass(frozen=True)
class Curve:
    """The evaluations of one seed, and its episodes, in the order of environment steps."""

    env_steps: tuple[int, ...]
    returns: tuple[float, ...]  # mean return of each evaluation
    lived: tuple[float, ...] = ()  # mean return of the episodes in each row of the log
    episodes: tuple[int, ...] = ()  # how many they were

    @classmethod
    def read(cls, path: Path) -> "Curve":
        """The curve in a metrics.csv."""
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))

        def column(key: str, also: str) -> list[tuple[float, float]]:
            return [(float(r[also]), float(r[key])) for r in rows if r.get(key) and r.get(also)]

        tried = column("eval/return_mean", "env_step")
        lived = column("online/return_mean", "online/episodes")
        return cls(
            tuple(int(step) for step, _ in tried),
            tuple(value for _, value in tried),
            tuple(value for _, value in lived),
            tuple(int(n) for n, _ in lived),
        )


def outcome(curve: Curve, reference: Reference | None) -> dict[str, Any]:
    """Before and after, the deepest dip, environment steps to recover, and the regrets.

    `dip` is the lowest evaluation less the first, 0 where none is lower; `early_dip` looks at the
    first tenth of the steps. `recovered_at` is the env_step of the first evaluation after the
    lowest that is as good as the first, None where none is. Regrets are None without a reference.
    """
    returns, steps = np.asarray(curve.returns), np.asarray(curve.env_steps)
    before, lowest = returns[0], int(returns.argmin())
    early = returns[steps <= 0.1 * steps[-1]]
    back = np.flatnonzero(returns[lowest:] >= before)
    return {
        "before": float(before),
        "after": float(returns[-1]),
        "dip": float(returns.min() - before),
        "early_dip": float(early.min() - before),
        "recovered_at": int(steps[lowest + back[0]]) if len(back) else None,
        "regret_evaluations": _regret(curve.returns, [1] * len(curve.returns), reference),
        "regret_episodes": _regret(curve.lived, curve.episodes, reference),
    }


def _regret(
    returns: Sequence[float], weights: Sequence[int], reference: Reference | None
) -> float | None:
    scores = [score(value, reference) for value in returns]
    if reference is None or not scores or any(s is None for s in scores):
        return None
    shortfall = [1 - s / 100 for s in scores if s is not None]
    return float(np.average(shortfall, weights=weights))
