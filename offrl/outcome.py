"""What the events of a run come to, and result.json, which says so."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from offrl.data.durable import write_file
from offrl.evaluation.statistics import interval
from offrl.events import Diverged, Evaluated, Event, Finished, Saved, Started, Trained, Warned
from offrl.keeping import selected
from offrl.logs import read_metrics
from offrl.plan import Plan
from offrl.run import FORMAT, hardware, read_result
from offrl.watch import Earnings, Watch

TRIED = "eval/return_mean"  # in metrics.csv


@dataclass
class Outcome:
    """What the events of a run came to, and what its watch makes of the metrics."""

    plan: Plan
    finished: list[Finished] = field(default_factory=list[Finished])
    diverged: list[Diverged] = field(default_factory=list[Diverged])
    facts: dict[str, str] = field(default_factory=dict[str, str])
    worked: bool = False
    reported: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    tried: dict[int, dict[int, float]] = field(default_factory=dict[int, dict[int, float]])

    def __post_init__(self) -> None:
        plan = self.plan
        self.watch = Watch(lambda: Earnings.of(plan.dataset.transitions, plan.config.discount))

    def take(self, event: Event) -> Warned | None:
        """Count one event; what follows from it, where that must be said."""
        self.worked = self.worked or isinstance(event, Trained | Saved)
        if isinstance(event, Started):
            self.facts = event.facts
            earlier = self.plan.dir / f"seed_{event.seed}" / "metrics.csv"
            for step, metrics in read_metrics(earlier, event.step):
                self.watch.see(event.seed, step, metrics)
                self._report(event.seed, metrics)
                if TRIED in metrics:
                    self.tried.setdefault(event.seed, {})[step] = metrics[TRIED]
        if isinstance(event, Finished):
            self.finished.append(event)
        if isinstance(event, Diverged):
            self.diverged.append(event)
        if isinstance(event, Evaluated):
            value = float(event.evaluation["return_mean"])
            self.tried.setdefault(event.seed, {})[event.step] = value
        if isinstance(event, Trained):
            self._report(event.seed, event.metrics)
            said = self.watch.see(event.seed, event.step, event.metrics)
            return None if said is None else Warned(event.seed, event.step, said)
        return None

    def _report(self, seed: int, metrics: Mapping[str, float]) -> None:
        """Keep the newest of the metrics that the algorithm reports."""
        for name in self.plan.algorithm.reports:
            if name in metrics:
                self.reported.setdefault(name, {})[str(seed)] = metrics[name]

    def write(self, shares: Sequence[Sequence[int]]) -> None:
        """Write result.json, keeping evaluations; `shares` are the seeds that took turns."""
        plan = self.plan
        path, settings = plan.dir / "result.json", plan.run.settings
        old = read_result(plan.dir)
        taking = {event.seed: event.seconds for event in self.finished}
        seconds = sum(taking.values())
        taken = sum(event.step for event in self.finished)
        result = {
            "format": FORMAT,
            "run": str(plan.dir),
            "algo": settings.algo,
            "dataset": settings.dataset,
            "fingerprint": plan.run.fingerprint,
            "steps": settings.steps,
            "seeds": list(settings.seeds),
            "held_out_episodes": len(plan.run.held_out),
            "checkpoint": "last",
            **self._selected(),
            **self._evaluations(),
            **self.facts,
            **{name: _over_seeds(values) for name, values in self.reported.items()},
            "warnings": self.watch.warnings() + self._told(),
            **self.watch.page(),
            "diverged": {str(event.seed): event.message for event in self.diverged},
            "remarks": {str(one.seed): list(one.remarks) for one in self.finished if one.remarks},
            "steps_per_second": taken / seconds if seconds else None,  # of one process
            "wall_seconds": max(sum(taking.get(seed, 0.0) for seed in share) for share in shares),
            "versions": plan.run.versions,
            "hardware": hardware(settings.device),
        }
        write_file(path, json.dumps({**old, **result}, indent=2).encode())

    def _selected(self) -> dict[str, object]:
        """The best checkpoints by `--select`, one a seed, and what they were picked by."""
        if (criterion := self.plan.run.settings.select) is None:
            return {}
        seeds = {
            str(seed): found
            for seed in self.plan.run.settings.seeds
            if (found := selected(self.plan.dir / f"seed_{seed}")) is not None
        }
        return {"selected": {"picked": f"selected by holdout/{criterion}", "seeds": seeds}}

    def _evaluations(self) -> dict[str, object]:
        """The returns while training of the last checkpoints, and of the best in hindsight."""
        if not self.tried:
            return {}
        last = {str(k): {"step": max(v), "return": v[max(v)]} for k, v in self.tried.items()}
        best = {str(k): _best(v) for k, v in self.tried.items()}
        return {
            "evaluations": {
                "n_episodes": self.plan.run.settings.eval_episodes,
                "last": _picked("last", last),
                "best": _picked("best by evaluation, in hindsight", best),
            }
        }

    def _told(self) -> list[str]:
        """What the algorithm warns of, by seed."""
        finished = sorted(self.finished, key=lambda one: one.seed)
        return [f"Seed {one.seed}: {text}" for one in finished for text in one.warnings]


def _best(returns: Mapping[int, float]) -> dict[str, float]:
    step = max(returns, key=lambda step: returns[step])
    return {"step": step, "return": returns[step]}


def _picked(how: str, seeds: Mapping[str, Mapping[str, float]]) -> dict[str, object]:
    returns = [one["return"] for one in seeds.values()]
    average, bounds = sum(returns) / len(returns), interval(returns)
    return {"picked": how, "return_mean": average, "return_ci": bounds, "seeds": dict(seeds)}


def _over_seeds(values: Mapping[str, float]) -> dict[str, object]:
    found = list(values.values())
    return {
        "mean": sum(found) / len(found),
        "ci": interval(found),  # of the mean over seeds; none of a single one
        "n_seeds": len(found),
        "seeds": dict(values),
    }
