"""What acting did to each policy: before, the deepest dip, the way back, after, and the regret."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from offrl.evaluation.statistics import interval, mean
from offrl.plain import interval as written
from offrl.plain import number
from offrl.report.arms import Arm, Gathered

HEADINGS = (
    "arm", "env steps", "seeds", "before", "deepest dip", "early dip", "after",
    "change", "recovered", "regret, evaluations", "regret, episodes",
)  # fmt: skip


@dataclass(frozen=True)
class Acted:
    """One arm that learned while it acted."""

    arm: Arm
    env_steps: int | None
    seeds: tuple[Mapping[str, Any], ...]  # `offrl.online.outcome.outcome` of each

    def over(self, key: str) -> list[float]:
        """The values of a key of the seeds that have one."""
        return [float(one[key]) for one in self.seeds if one.get(key) is not None]

    def cells(self) -> list[str]:
        """A line of the table, a cell for each of HEADINGS."""
        changes = [float(one["after"]) - float(one["before"]) for one in self.seeds]
        back = [one["recovered_at"] for one in self.seeds]
        known = [step for step in back if step is not None]
        told = f"{len(known)} of {len(back)}"
        if known:
            told += f", by step {max(known):,}"
        if not any(self.over("dip")):
            told = "no dip"
        return [
            self.arm.label,
            "-" if self.env_steps is None else f"{self.env_steps:,}",
            str(len(self.seeds)),
            *(_told(self.over(key)) for key in ("before", "dip", "early_dip", "after")),
            _told(changes),
            told,
            *(_told(self.over(key), 3) for key in ("regret_evaluations", "regret_episodes")),
        ]


def acted(found: Gathered) -> list[Acted]:
    """Return the arms that acted and have an outcome."""
    rows: list[Acted] = []
    for arm in found.arms:
        if not arm.task.acts:
            continue
        seeds: list[Mapping[str, Any]] = []
        for run in arm.runs:
            told = found.result(run).get("outcome")
            if isinstance(told, Mapping):
                seeds += [one for key, one in told.items() if _whole(key, one, run.seeds)]
        if seeds:
            rows.append(Acted(arm, arm.first.run.env_steps, tuple(seeds)))
    return rows


def _whole(key: str, one: Any, seeds: Sequence[int]) -> bool:
    keys = {"before", "after", "dip", "early_dip", "recovered_at"}
    return isinstance(one, Mapping) and keys <= one.keys() and key in map(str, seeds)


def _told(values: Sequence[float], digits: int | None = None) -> str:
    """A mean over seeds, and its interval where there are two or more."""
    if not values:
        return "-"
    bounds = interval(values)
    told = number(mean(values), digits)
    return told if bounds is None else f"{told} {written(bounds)}"
