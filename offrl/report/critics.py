"""What critics said their policies were worth, beside what the log earned and what is possible."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from offrl.evaluation.statistics import mean
from offrl.plain import clean, number
from offrl.report.arms import Arm, Gathered

NAMES = ("policy/q_mean", "critic/q_mean")
HEADINGS = (
    "arm", "seeds", "Q of the policy's actions", "Q of the logged actions", "earned in the log",
    "possible", "value where it acted", "told",
)  # fmt: skip


@dataclass(frozen=True)
class Critic:
    """The last values of an arm's critics."""

    arm: Arm
    discount: float
    policy: tuple[float, ...]  # of each seed: the mean Q of the policy's actions at logged states
    logged_actions: tuple[float, ...]
    earned: tuple[float | None, float | None]  # least and greatest discounted return in the log
    possible: tuple[float | None, float | None]
    lived: float | None  # mean discounted return from first states, where `offrl eval` ran it
    warnings: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """What the watch said of it."""
        if self.warnings:
            return "over-estimates, or did: see the notes"
        best, highest = self.earned[1], self.possible[1]
        if best is not None and self.policy and mean(self.policy) > best:
            return "above all that the log earned"
        return "within what is possible" if highest is not None else "-"

    def cells(self) -> list[str]:
        """A line of the table, a cell for each of HEADINGS."""
        return [
            self.arm.label,
            str(max(len(self.policy), len(self.logged_actions))),
            _mean(self.policy),
            _mean(self.logged_actions),
            _span(self.earned),
            _span(self.possible),
            number(self.lived),
            self.verdict,
        ]


def critics(found: Gathered) -> list[Critic]:
    """Return the arms whose critics were watched."""
    rows: list[Critic] = []
    for arm in found.arms:
        told: list[Mapping[str, Any]] = []
        lived: list[float] = []
        warnings: list[str] = []
        for run in arm.runs:
            result = found.result(run)
            values = result.get("values")
            if not isinstance(values, Mapping) or not isinstance(values.get("seeds"), Mapping):
                continue
            told.append(values)
            warnings += [clean(text) for text in result.get("warnings", ()) if "estimate" in text]
            lived += _lived(result, float(values["discount"]), arm.task.env)
        if not told:
            continue
        seeds = [seed for values in told for seed in values["seeds"].values()]
        by_name = [tuple(float(s[name]) for s in seeds if name in s) for name in NAMES]
        rows.append(
            Critic(
                arm,
                float(told[0]["discount"]),
                *by_name,
                earned=_widest([values.get("logged") for values in told]),
                possible=_widest([values.get("possible") for values in told]),
                lived=mean(lived) if lived else None,
                warnings=tuple(dict.fromkeys(warnings)),
            )
        )
    return rows


def _lived(result: Mapping[str, Any], discount: float, env: str | None) -> list[float]:
    told = result.get("evaluation")
    if not isinstance(told, Mapping) or (told.get("discount"), told.get("env")) != (discount, env):
        return []
    return [mean(one["values"]) for one in told.get("seeds", ()) if one.get("values")]


def _widest(spans: list[Any]) -> tuple[float | None, float | None]:
    """The least and the greatest of several spans; None where one has no end."""
    pairs = [span for span in spans if isinstance(span, list) and len(span) == 2]
    ends: list[float | None] = []
    for place, widest in ((0, min), (1, max)):
        known = [float(p[place]) for p in pairs if p[place] is not None]
        ends.append(widest(known) if known and len(known) == len(pairs) else None)
    return ends[0], ends[1]


def _mean(values: tuple[float, ...]) -> str:
    known = [value for value in values if math.isfinite(value)]
    return number(mean(known)) if known else "-"


def _span(span: tuple[float | None, float | None]) -> str:
    low, high = ("no end" if end is None else number(end) for end in span)
    return f"{low} to {high}"
