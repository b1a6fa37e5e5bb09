"""Runs that differ in nothing but their seeds are one arm, wherever their folders are.

    runs/awr           seeds 0-4            one arm, 5 seeds
    sweep/bc/seed=0, sweep/bc/seed=1 ...    one arm, as a sweep lays a folder for each seed

A task is what arms may be compared on: a dataset and an environment, learned from or acted in.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offrl.checkpoint import TrainedRun
from offrl.errors import OffrlError
from offrl.evaluation.results import Tried, settings_in, tries_of, varied
from offrl.evaluation.runfolders import Named, find
from offrl.plain import clean
from offrl.run import read_result

_SHOWN = 3  # settings that tell arms apart, before the name of the folder does it alone


@dataclass(frozen=True)
class Task:
    """What arms may be compared on."""

    dataset: str
    env: str | None
    acts: bool  # whether the arms learned while they acted

    @property
    def title(self) -> str:
        """The task in a few words."""
        env = clean(self.env) if self.env else ""
        if self.acts:
            return f"acting in {env}"
        return f"{clean(self.dataset)}, in {env}" if env else clean(self.dataset)


@dataclass(frozen=True)
class Arm:
    """Runs of one setting, each seed once."""

    task: Task
    label: str  # no two arms of a task have the same
    number: int  # among the arms of its task, from 0: the colour
    runs: tuple[TrainedRun, ...]
    tried: tuple[Tried, ...]  # every evaluation of every seed

    @property
    def key(self) -> tuple[Task, int]:
        """What no other arm has."""
        return self.task, self.number

    @property
    def first(self) -> TrainedRun:
        """The run that stands for the others where they are alike."""
        return self.runs[0]

    @property
    def seeds(self) -> tuple[tuple[TrainedRun, int], ...]:
        """Every seed with the run that it is of."""
        return tuple((run, seed) for run in self.runs for seed in run.seeds)


@dataclass(frozen=True)
class Gathered:
    """The arms of all tasks, what result.json holds of each run, and what could not be read."""

    arms: tuple[Arm, ...]
    results: dict[Path, dict[str, Any]]
    notes: tuple[str, ...]

    @property
    def tasks(self) -> dict[Task, list[Arm]]:
        """The arms by task."""
        found: dict[Task, list[Arm]] = {}
        for arm in self.arms:
            found.setdefault(arm.task, []).append(arm)
        return found

    @property
    def runs(self) -> list[TrainedRun]:
        """Every run, in the order of the arms."""
        return [run for arm in self.arms for run in arm.runs]

    def result(self, run: TrainedRun) -> dict[str, Any]:
        """What result.json holds of a run; nothing where it cannot be read."""
        return self.results.get(run.dir, {})


def gather(named: Named) -> Gathered:
    """Return the arms of the runs that folders, globs or runs lead to.

    A damaged result.json is told and left aside. Raises what `find` raises.
    """
    found = find(named)
    notes, results = list(found.left_out), dict[Path, dict[str, Any]]()
    tried: dict[Path, list[Tried]] = {}
    for run in found.runs:
        try:
            results[run.dir] = read_result(run.dir)
        except OffrlError as error:
            notes.append(error.cause)
        tried[run.dir], fault = tries_of(run)
        notes += [fault] if fault else []
    groups: dict[Task, list[list[TrainedRun]]] = {}
    for members in _alike(found.runs):
        groups.setdefault(_task(members[0]), []).append(members)
    arms: list[Arm] = []
    for task, mine in groups.items():
        for number, (label, members) in enumerate(zip(_labels(mine), mine, strict=True)):
            every = tuple(one for run in members for one in tried[run.dir])
            arms.append(Arm(task, label, number, tuple(members), every))
    return Gathered(tuple(arms), results, tuple(dict.fromkeys(notes)))


def _task(run: TrainedRun) -> Task:
    made, acts = run.run, run.run.online is not None
    return Task(made.settings.dataset, made.settings.eval_env or made.env, acts)


def _alike(runs: Sequence[TrainedRun]) -> list[list[TrainedRun]]:
    """The runs of equal settings together; where a seed is there twice, those of one folder."""
    found: dict[str, list[TrainedRun]] = {}
    for run in runs:
        made = run.run
        same = [made.algorithm, made.settings.dataset, made.fingerprint, made.env, made.env_steps]
        key = json.dumps([same, settings_in(run)], sort_keys=True, default=str)
        found.setdefault(key, []).append(run)
    groups: list[list[TrainedRun]] = []
    for members in found.values():
        if _once(members):
            groups.append(members)
            continue
        beside: dict[Path, list[TrainedRun]] = {}
        for run in members:
            beside.setdefault(run.dir.parent, []).append(run)
        for mine in beside.values():
            groups += [mine] if _once(mine) else [[run] for run in mine]
    return groups


def _once(runs: Sequence[TrainedRun]) -> bool:
    seeds = [seed for run in runs for seed in run.seeds]
    return len(set(seeds)) == len(seeds)


def _labels(groups: Sequence[Sequence[TrainedRun]]) -> list[str]:
    """A name for each group: its algorithm, what sets it apart from others of it, its folder."""
    labels: list[str] = []
    for members in groups:
        first = members[0]
        rivals = [other[0] for other in groups if other[0].run.algorithm == first.run.algorithm]
        own = settings_in(first)
        apart = [name for name in varied(rivals) if name in own] if len(rivals) > 1 else []
        said = ", ".join(f"{name}={_short(own[name])}" for name in apart[:_SHOWN])
        label = f"{clean(first.run.algorithm)} {said}".strip()
        labels.append(label if len(apart) <= _SHOWN else clean(first.run.algorithm))
    twice = {label for label in labels if labels.count(label) > 1}
    return [
        f"{label} ({clean(members[0].dir)})" if label in twice else label
        for label, members in zip(labels, groups, strict=True)
    ]


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else clean(value)
