"""The final table: what each arm came to, over how many seeds, and how its checkpoints were picked.

An arm that `offrl eval` judged has the row of that; else its last evaluations while training stand
for it, and the table says so. The best of many evaluations is a column of its own: hindsight.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from offrl.evaluation.references import score
from offrl.evaluation.results import Tried
from offrl.evaluation.statistics import interval, mean, mean_interval
from offrl.plain import clean, number
from offrl.plain import interval as written
from offrl.report.arms import Arm

LAST = "last, evaluated while training"
HEADINGS: tuple[str, ...] = (
    "task", "arm", "seeds", "episodes", "checkpoint", "return", "95% interval", "over", "score",
    "score, 95% interval", "best in hindsight", "state",
)  # fmt: skip


@dataclass(frozen=True)
class Final:
    """One line of the table."""

    arm: Arm
    env: str | None = None
    picked: str = "not evaluated"
    steps: tuple[int, ...] = ()
    n_seeds: int = 0
    n_episodes: int | None = None  # of each seed
    return_mean: float | None = None
    return_ci: tuple[float, float] | None = None
    over: str | None = None  # seeds or episodes
    score: float | None = None
    score_ci: tuple[float, float] | None = None
    hindsight: float | None = None  # mean over seeds of the best evaluation while training

    @property
    def checkpoint(self) -> str:
        """How the checkpoints were picked, and of which steps they are."""
        if not self.steps or self.picked == f"step {self.steps[0]}":
            return clean(self.picked)
        several = f"{self.steps[0]}" if len(set(self.steps)) == 1 else "steps differ"
        return f"{clean(self.picked)} ({several})"

    @property
    def state(self) -> str:
        """How far the seeds came: "finished", or how many of them did not."""
        states = {(one.run, one.seed): one.status for one in self.arm.tried}
        odd = [state for state in states.values() if state != "finished"]
        counts = {state: odd.count(state) for state in dict.fromkeys(odd)}
        return ", ".join(f"{n} {state}" for state, n in counts.items()) or "finished"

    def to_dict(self) -> dict[str, Any]:
        """Return the line as JSON."""
        return {
            "algo": self.arm.first.run.algorithm,
            "arm": self.arm.label,
            "dataset": self.arm.task.dataset,
            "env": self.env,
            "acts": self.arm.task.acts,
            "runs": [str(run.dir) for run in self.arm.runs],
            "picked": self.picked,
            "steps": list(self.steps),
            "n_seeds": self.n_seeds,
            "n_episodes": self.n_episodes,
            "return_mean": self.return_mean,
            "return_ci": None if self.return_ci is None else list(self.return_ci),
            "interval_over": self.over,
            "score": self.score,
            "score_ci": None if self.score_ci is None else list(self.score_ci),
            "best_in_hindsight": self.hindsight,
            "state": self.state,
        }


def finals_of(arm: Arm) -> list[Final]:
    """Return the lines of an arm: one for each environment and way of picking a checkpoint."""
    judged = [one for one in arm.tried if one.source == "eval"]
    curve = [one for one in arm.tried if one.source == "training"]
    best = _hindsight(curve, {one.seed for one in judged} or {one.seed for one in curve})
    if judged:
        kinds = dict.fromkeys((one.env, str(one.picked), one.n_episodes) for one in judged)
        by_kind = [
            [one for one in judged if (one.env, str(one.picked), one.n_episodes) == kind]
            for kind in kinds
        ]
        return [
            _final(arm, rows, str(rows[0].picked), best if rows[0].env == arm.task.env else None)
            for rows in by_kind
        ]
    if curve:
        last = {one.seed: one for one in curve}  # steps rise
        return [_final(arm, list(last.values()), LAST, best)]
    return [Final(arm, env=arm.task.env, n_seeds=len(arm.seeds))]


def _hindsight(curve: Sequence[Tried], seeds: set[int]) -> float | None:
    """The mean of every seed's best evaluation; None where a seed has none."""
    best = {one.seed: max(o.return_mean for o in curve if o.seed == one.seed) for one in curve}
    return mean([best[seed] for seed in seeds]) if seeds and seeds <= best.keys() else None


def _final(arm: Arm, rows: Sequence[Tried], picked: str, best: float | None) -> Final:
    returns, first = [one.return_mean for one in rows], rows[0]
    bounds, over = interval(returns), "seeds"
    if len(rows) == 1:
        n, spread = first.n_episodes or 0, first.return_std
        bounds = mean_interval(returns[0], spread, n) if n > 1 and spread is not None else None
        over = "episodes"
    ends = {(o.reference.random, o.reference.expert) for o in rows if o.reference is not None}
    known = first.reference if len(ends) == 1 and all(o.reference for o in rows) else None
    average = mean(returns)
    scored = None
    if bounds is not None and known is not None:
        low, high = sorted(s for b in bounds if (s := score(b, known)) is not None)
        scored = (low, high)
    steps = (
        one.env_step if arm.task.acts and one.env_step is not None else one.step for one in rows
    )
    return Final(
        arm,
        env=first.env,
        picked=picked,
        steps=tuple(step for step in steps if step is not None),
        n_seeds=len(rows),
        n_episodes=first.n_episodes,
        return_mean=average,
        return_ci=bounds,
        over=over if bounds is not None else None,
        score=score(average, known),
        score_ci=scored,
        hindsight=best,
    )


def cells(final: Final) -> list[str]:
    """Return a line as text, a cell for each of HEADINGS."""
    return [
        final.arm.task.title,
        final.arm.label,
        str(final.n_seeds),
        number(final.n_episodes),
        final.checkpoint,
        number(final.return_mean),
        written(final.return_ci),
        final.over or "-",
        number(final.score),
        "-" if final.score is None else written(final.score_ci),
        number(final.hindsight),
        final.state,
    ]
