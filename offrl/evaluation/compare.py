"""Two groups of runs held against each other, task by task and seed by seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from offrl.errors import ConfigError
from offrl.evaluation import aggregates
from offrl.evaluation.aggregates import Strata, bootstrap, strata
from offrl.evaluation.differences import POWER, Difference, paired, unpaired
from offrl.evaluation.results import Tried, tries_of
from offrl.evaluation.runfolders import Named, find
from offrl.evaluation.statistics import interval, mean

_THRESHOLDS = 41  # of a performance profile
_AGGREGATES = ("mean", "iqm", "median", "optimality_gap")

Task = tuple[str, str]  # dataset and environment
Values = dict[str, dict[int, float]]  # by task and seed


@dataclass(frozen=True)
class Side:
    """One of the two groups: its evaluations by task and seed, and what they come to."""

    named: str
    runs: tuple[str, ...]
    algos: tuple[str, ...]
    picked: tuple[str, ...]  # how the checkpoints were, each way once
    values: Values
    numbers: dict[str, Any]  # aggregates, each with its interval
    best: float | None  # mean over tasks of the best evaluations while training, in hindsight

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON."""
        kept = {k: v for k, v in vars(self).items() if k not in ("numbers", "values", "best")}
        hindsight = {"picked": "best by evaluation, in hindsight", "mean": self.best}
        return {
            **kept,
            "n_seeds": {task: len(seeds) for task, seeds in self.values.items()},
            **self.numbers,
            "best_while_training": None if self.best is None else hindsight,
            "by_task": {
                task: {
                    "mean": mean(list(seeds.values())),
                    "ci": interval(list(seeds.values())),
                    "seeds": {str(seed): value for seed, value in seeds.items()},
                }
                for task, seeds in self.values.items()
            },
        }


@dataclass(frozen=True)
class Comparison:
    """What two groups of runs came to, and whether they have been told apart."""

    measure: str  # score or return
    tasks: tuple[str, ...]
    a: Side
    b: Side
    difference: Difference  # a - b, paired where that means something
    not_paired: str  # why not; empty where it is
    alone: Difference  # the same difference unpaired
    improvement: float
    improvement_ci: tuple[float, float] | None
    profiles: dict[str, Any]
    size: float | None  # the difference that matters to whoever asks; None is the one found
    level: float
    power: float
    bootstrap: dict[str, int]
    notes: tuple[str, ...]

    @property
    def better(self) -> str | None:
        """The side that is better, "a" or "b"; None where they have not been told apart."""
        if not self.difference.apart:
            return None
        return "a" if self.difference.estimate > 0 else "b"

    @property
    def seeds_needed(self) -> int | None:
        """Seeds a task on each side that would tell the difference apart; None for no number."""
        return self.difference.needed(self.size, self.power, self.level)

    @property
    def more_seeds(self) -> int | None:
        """How many of those are missing."""
        needed = self.seeds_needed
        return None if needed is None else max(0, needed - min(self.difference.n))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {
            "measure": self.measure,
            "tasks": list(self.tasks),
            "a": self.a.to_dict(),
            "b": self.b.to_dict(),
            "difference": _told(self.difference),
            "not_paired": self.not_paired or None,
            "difference_unpaired": _told(self.alone),
            "told_apart": self.difference.apart,
            "better": self.better,
            "probability_of_improvement": self.improvement,
            "probability_of_improvement_ci": self.improvement_ci,
            "size": self.size,
            "seeds_needed": self.seeds_needed,
            "more_seeds": self.more_seeds,
            "level": self.level,
            "power": self.power,
            "bootstrap": self.bootstrap,
            "profiles": self.profiles,
            "notes": list(self.notes),
        }


def compare(
    a: Named,
    b: Named,
    *,
    size: float | None = None,
    level: float = 0.95,
    power: float = POWER,
    reps: int = aggregates.REPS,
    seed: int = 0,
) -> Comparison:
    """Hold the evaluations of the runs `a` against those of `b`; the same as `offrl compare`.

    Each side names folders or globs that hold one evaluated run for each task and seed; a task is
    a dataset and an environment, and those that only one side has are left out. `size` is the
    difference that would matter: how many seeds see it is told, else of the difference found.
    `seed` is that of the bootstrap. Raises ConfigError where a side was not evaluated, has a seed
    of a task twice or where nothing is shared; NotFoundError where there is no run.
    """
    if size is not None and not size > 0:
        raise ConfigError(f"A difference that matters is above 0, not {size:g}.")
    notes: list[str] = []
    groups = [_tried(name, notes) for name in (a, b)]
    cells, names = _shared([one for one, _ in groups], [_name(a), _name(b)], notes)
    measure = _measure(cells)
    key = "score" if measure == "score" else "return_mean"
    rng = np.random.default_rng(seed)
    sides = [
        _side(_name(named), cell, curves, key, rng, reps, level)
        for named, cell, (_, curves) in zip((a, b), cells, groups, strict=True)
    ]
    x, y = (strata({t: list(v.values()) for t, v in side.values.items()}) for side in sides)
    several = all(len(runs) > 1 for runs in (*x, *y))  # one run drawn again is always itself
    wins = float(aggregates.improvement(x, y))
    low, high = bootstrap(aggregates.improvement, x, y, rng=rng, reps=reps, level=level)
    why = _why_not_paired(cells)
    lists = [{t: list(v.values()) for t, v in side.values.items()} for side in sides]
    alone = unpaired(lists[0], lists[1], level)
    notes += _unlike(cells)
    return Comparison(
        measure=measure,
        tasks=names,
        a=sides[0],
        b=sides[1],
        difference=alone if why else paired(sides[0].values, sides[1].values, level),
        not_paired=why,
        alone=alone,
        improvement=wins,
        improvement_ci=(float(low), float(high)) if several else None,
        profiles=_profiles((x, y), rng, level),
        size=size,
        level=level,
        power=power,
        bootstrap={"resamples": reps, "seed": seed},
        notes=tuple(notes),
    )


Cells = dict[str, dict[int, Tried]]  # by task and seed


def _name(named: Named) -> str:
    if isinstance(named, str):
        return named
    many = isinstance(named, Sequence)
    return ", ".join(str(getattr(one, "dir", one)) for one in (named if many else [named]))


def _tried(named: Named, notes: list[str]) -> tuple[list[Tried], list[Tried]]:
    """The evaluations of a side, and those of its training; ConfigError where there are none."""
    found = find(named)
    notes += found.left_out
    rows: list[Tried] = []
    for run in found.runs:
        mine, fault = tries_of(run)
        rows += mine
        notes += [fault] if fault else []
    judged = [one for one in rows if one.source == "eval"]
    missing = sorted({one.run for one in rows} - {one.run for one in judged})
    if not judged:
        raise ConfigError(
            f"{', '.join(missing[:3])} {'was' if len(missing) == 1 else 'were'} not evaluated.",
            f"Run `offrl eval {missing[0]}` first.",
        )
    notes += [f"{run} was left out: it was not evaluated." for run in missing]
    notes += [
        f"Seed {one.seed} of {one.run} is {one.status}; what it had reached was evaluated."
        for one in judged
        if one.status != "finished"
    ]
    return judged, [one for one in rows if one.source == "training"]


def _shared(
    groups: list[list[Tried]], named: list[str], notes: list[str]
) -> tuple[list[Cells], tuple[str, ...]]:
    """Both sides by the tasks that both have: a dataset and environment, else an environment."""
    by_data = [{(one.dataset, str(one.env)) for one in group} for group in groups]
    shared = by_data[0] & by_data[1]
    of = _task
    if not shared:
        of, shared = _environment, set[Task]()
        envs = [{_environment(one) for one in group} for group in groups]
        shared = envs[0] & envs[1]
        if not shared:
            said = (", ".join(sorted(" in ".join(t) for t in side)) for side in by_data)
            raise ConfigError(
                f"The two sides share no task: {' against '.join(said)}.",
                "Evaluate both in one environment: offrl eval RUN --env ENV.",
            )
        notes.append("The sides learned from different data, so what differs may be the data.")
    cells = [
        _cells([o for o in g if of(o) in shared], n, of) for g, n in zip(groups, named, strict=True)
    ]
    for group, name in zip(groups, named, strict=True):
        if only := sorted({" in ".join(of(one)).strip() for one in group if of(one) not in shared}):
            notes.append(f"Left out, since only {name} has it: {', '.join(only)}.")
    order = tuple(sorted(cells[0]))
    return [{task: cell[task] for task in order} for cell in cells], order


def _task(one: Tried) -> Task:
    return one.dataset, str(one.env)


def _environment(one: Tried) -> Task:
    return "", str(one.env)


def _cells(rows: list[Tried], named: str, of: Any) -> Cells:
    found: Cells = {}
    for one in rows:
        dataset, env = of(one)
        seeds = found.setdefault(f"{dataset} in {env}" if dataset else env, {})
        if (other := seeds.get(one.seed)) is not None:
            raise ConfigError(
                f"'{named}' has seed {one.seed} of {dataset or env} twice: in {other.run} and in"
                f" {one.run}.",
                "Name runs of one setting on each side.",
            )
        seeds[one.seed] = one
    return {task: dict(sorted(seeds.items())) for task, seeds in found.items()}


def _measure(cells: list[Cells]) -> str:
    """Scores where every task has one reference on both sides, else the returns of one task."""
    for task in cells[0]:
        rows = [one for side in cells for one in side[task].values()]
        ends = {(one.reference.random, one.reference.expert) for one in rows if one.reference}
        if len(ends) != 1 or any(one.score is None for one in rows):
            if len(cells[0]) == 1:
                return "return"
            raise ConfigError(
                f"Returns of {len(cells[0])} tasks have no common scale, and {task} has no score.",
                "Compare one task at a time, or tasks with reference scores.",
            )
    return "score"


def _side(
    named: str,
    cell: Cells,
    curves: list[Tried],
    key: str,
    rng: np.random.Generator,
    reps: int,
    level: float,
) -> Side:
    rows = [one for seeds in cell.values() for one in seeds.values()]
    values = {t: {s: float(getattr(o, key)) for s, o in seeds.items()} for t, seeds in cell.items()}
    tasks = strata({task: list(seeds.values()) for task, seeds in values.items()})
    several = all(len(runs) > 1 for runs in tasks)  # one run drawn again is always itself
    numbers: dict[str, Any] = {}
    for name in _AGGREGATES if key == "score" else _AGGREGATES[:-1]:
        statistic = getattr(aggregates, name)
        numbers[name] = float(statistic(tasks))
        low, high = bootstrap(statistic, tasks, rng=rng, reps=reps, level=level)
        numbers[f"{name}_ci"] = [float(low), float(high)] if several else None
    zeros = {task: dict.fromkeys(seeds, 0.0) for task, seeds in values.items()}
    numbers["mean_ci"] = paired(values, zeros, level).interval  # Student's: right for few seeds too
    return Side(
        named=named,
        runs=tuple(dict.fromkeys(one.run for one in rows)),
        algos=tuple(dict.fromkeys(one.algo for one in rows)),
        picked=tuple(dict.fromkeys(str(one.picked) for one in rows)),
        values=values,
        numbers=numbers,
        best=_hindsight(cell, curves, key),
    )


def _hindsight(cell: Cells, curves: list[Tried], key: str) -> float | None:
    """The mean over tasks of every seed's best evaluation while training; None without them."""
    means: list[float] = []
    for seeds in cell.values():
        best = [
            max(
                (float(getattr(c, key)) for c in curves if (c.run, c.seed) == (one.run, one.seed)),
                default=None,
            )
            for one in seeds.values()
            if all(getattr(c, key) is not None for c in curves)
        ]
        known = [value for value in best if value is not None]
        if not known or len(known) < len(seeds):
            return None
        means.append(mean(known))
    return mean(means)


def _why_not_paired(cells: list[Cells]) -> str:
    """Why pairs of equal seeds would mean nothing; empty where they mean something."""
    for task in cells[0]:
        a, b = cells[0][task], cells[1][task]
        shared = a.keys() & b.keys()
        if len(shared) < 2:
            return f"the sides share {len(shared)} seed{'s' * (len(shared) != 1)} of {task}"
        for what, says in (
            ("fingerprint", "learned from different data"),
            ("episode_seed", "were evaluated on different episodes"),
            ("n_episodes", "were evaluated on different numbers of episodes"),
        ):
            if any(getattr(a[seed], what) != getattr(b[seed], what) for seed in shared):
                return f"they {says}"
    return ""


def _unlike(cells: list[Cells]) -> list[str]:
    """What else differs between the sides that a reader must know."""
    a, b = ([one for seeds in side.values() for one in seeds.values()] for side in cells)
    notes: list[str] = []
    ways = [sorted({str(one.picked) for one in side}) for side in (a, b)]
    if ways[0] != ways[1]:
        notes.append(
            "The checkpoints were not picked alike: "
            f"A {', '.join(ways[0])}; B {', '.join(ways[1])}."
        )
    for task in cells[0]:
        left = cells[0][task].keys() ^ cells[1][task].keys()
        if left:
            seeds = ", ".join(str(seed) for seed in sorted(left))
            notes.append(f"Of {task} only one side has seed {seeds}; pairs leave it out.")
    return notes


def _profiles(sides: tuple[Strata, Strata], rng: np.random.Generator, level: float) -> Any:
    """Performance profiles of both sides on common thresholds, with pointwise bounds."""
    pooled = np.concatenate([runs for side in sides for runs in side])
    limits = np.linspace(float(pooled.min()), float(pooled.max()), _THRESHOLDS)
    found: dict[str, Any] = {"thresholds": limits.tolist()}
    for name, side in zip("ab", sides, strict=True):
        found[name] = aggregates.profile(side, limits).tolist()
        bounds = bootstrap(
            lambda tasks: aggregates.profile(tasks, limits),
            side,
            rng=rng,
            reps=aggregates.PROFILE_REPS,
            level=level,
        )
        found[f"{name}_ci"] = [bound.tolist() for bound in bounds]
    return found


def _told(found: Difference) -> Mapping[str, Any]:
    bounds = None if found.interval is None else list(found.interval)
    return {
        "mean": found.estimate,
        "ci": bounds,
        "paired": found.paired,
        "n": dict(enumerate(found.n)) if found.tasks > 1 else found.n[0],
    }
