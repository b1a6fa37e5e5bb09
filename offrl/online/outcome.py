"""What acting did to a policy: before, the dip, the way back, after, and the regret.

Regret is the average of 1 - score/100 over the online phase, by two definitions in use: over the
evaluations (Nakamoto et al. 2023, 2303.05479) and over the episodes that were lived (CORL, Tarasov
et al. 2022, 2210.07105). Both need reference scores of the environment.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from offrl.data.durable import write_file
from offrl.evaluation.references import Reference, lookup, score
from offrl.events import Diverged, Event, Finished, RolledBack, Saved, Started, Trained, Warned
from offrl.logs import read_metrics
from offrl.online.loop import POSSIBLE_HIGH, POSSIBLE_LOW
from offrl.online.plan import OnlinePlan
from offrl.online.recording import published, recorded_id
from offrl.run import FORMAT, hardware, read_result
from offrl.watch import LIVED, Earnings, Span, Watch


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


@dataclass
class Outcome:
    """What the events of an online run came to, and what its watch makes of the metrics."""

    plan: OnlinePlan
    finished: dict[int, Finished] = field(default_factory=dict[int, Finished])
    ended: dict[int, Diverged | RolledBack] = field(
        default_factory=dict[int, "Diverged | RolledBack"]
    )
    worked: bool = False

    def __post_init__(self) -> None:
        discount = self.plan.config.discount
        self.watch = Watch(lambda: _possible({}, discount), LIVED)

    def take(self, event: Event) -> Warned | None:
        """Count one event; what follows from it, where that must be said."""
        self.worked = self.worked or isinstance(event, Trained | Saved | RolledBack)
        if isinstance(event, Started):
            earlier = self.plan.dir / f"seed_{event.seed}" / "metrics.csv"
            for step, metrics in read_metrics(earlier, event.step):
                self._see(event.seed, step, metrics)
        if isinstance(event, Finished):
            self.finished[event.seed] = event
        if isinstance(event, Diverged | RolledBack):
            self.ended[event.seed] = event
        if isinstance(event, Trained):
            said = self._see(event.seed, event.step, event.metrics)
            return None if said is None else Warned(event.seed, event.step, said)
        return None

    def _see(self, seed: int, step: int, metrics: Mapping[str, float]) -> str | None:
        if POSSIBLE_LOW not in metrics:
            return None
        return self.watch.see(seed, step, metrics, _possible(metrics, self.plan.config.discount))

    def write(self, shares: Sequence[Sequence[int]]) -> None:
        """Write result.json, keeping evaluations; `shares` are the seeds that took turns."""
        plan, settings = self.plan, self.plan.run.settings
        found = self._outcomes()

        def over_seeds(key: str) -> float | None:
            values = [seed[key] for seed in found.values()]
            return None if not values or None in values else float(np.mean(values))

        taking = {seed: event.seconds for seed, event in self.finished.items()}
        seconds = sum(taking.values())
        path = plan.dir / "result.json"
        old = read_result(plan.dir)
        result = {
            "format": FORMAT,
            "run": str(plan.dir),
            "parent": plan.run.parent,
            "algo": settings.algo,
            "dataset": settings.dataset,
            "env": plan.env,
            "env_steps": plan.env_steps,
            "steps": settings.steps,
            "seeds": list(settings.seeds),
            "checkpoint": "last",
            "before": over_seeds("before"),
            "after": over_seeds("after"),
            "dip": over_seeds("dip"),
            "regret": over_seeds("regret_evaluations"),
            "regret_episodes": over_seeds("regret_episodes"),
            "outcome": found,
            "recorded": self._recorded(),
            "eval_episodes": plan.online.eval_episodes,
            "warnings": self.watch.warnings(),
            **self.watch.page(),
            **self._ended(),
            "env_steps_per_second": plan.env_steps * len(taking) / seconds if seconds else None,
            "wall_seconds": max(sum(taking.get(seed, 0.0) for seed in share) for share in shares),
            "versions": plan.run.versions,
            "hardware": hardware(settings.device),
        }
        write_file(path, json.dumps({**old, **result}, indent=2).encode())

    def _outcomes(self) -> dict[str, dict[str, Any]]:
        reference = lookup(env_id=self.plan.env)
        found: dict[str, dict[str, Any]] = {}
        for seed in self.plan.run.settings.seeds:
            curve = Curve.read(self.plan.dir / f"seed_{seed}" / "metrics.csv")
            if curve.returns:
                found[str(seed)] = outcome(curve, reference)
                if isinstance(event := self.ended.get(seed), RolledBack):
                    found[str(seed)]["after"] = event.to_return  # of the policy that the run gives
        return found

    def _ended(self) -> dict[str, dict[str, Any]]:
        early = self.ended.items()
        return {
            "diverged": {str(k): e.message for k, e in early if isinstance(e, Diverged)},
            "rolled_back": {
                str(k): {
                    "why": e.message,
                    "rolled_back_to": e.to_step,
                    "env_step": e.to_env_step,
                    "return": e.to_return,
                    "checkpoint": e.step,
                }
                for k, e in early
                if isinstance(e, RolledBack)
            },
        }

    def _recorded(self) -> dict[str, str]:
        seeds, id = self.plan.run.settings.seeds, self.plan.online.record
        named = {str(seed): recorded_id(id, seed, seeds) for seed in seeds} if id else {}
        return {seed: dataset for seed, dataset in named.items() if published(dataset)}


def _possible(metrics: Mapping[str, float], discount: float) -> Earnings:
    """What the rewards so far say can be earned; what was earned is seldom known in full."""
    span = Span(metrics.get(POSSIBLE_LOW, 0.0), metrics.get(POSSIBLE_HIGH, 0.0))
    return Earnings(span, span, discount)
