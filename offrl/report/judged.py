"""What off-policy evaluation said of a policy, beside what came of it where it acted."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offrl.evaluation.statistics import interval, mean
from offrl.ope.judging import RESULT
from offrl.plain import clean
from offrl.report.arms import Arm, Gathered


@dataclass(frozen=True)
class Estimate:
    """One estimate of a policy's value, or why there is none."""

    name: str
    value: float | None
    bounds: tuple[float, float] | None
    by: str
    refused: str


@dataclass(frozen=True)
class Judged:
    """What RUN/seed_3/ope.json holds of one policy, and the truth where it is known."""

    arm: Arm
    run: Path
    seed: int | None
    picked: str
    discount: float
    behavior: float
    behavior_ci: tuple[float, float] | None
    episodes: int
    ess: float | None
    in_sample: bool
    level: float
    estimates: tuple[Estimate, ...]
    decision: Mapping[str, Any] | None
    remarks: tuple[str, ...]
    truth: float | None = None  # mean discounted return of the episodes that `offrl eval` ran
    truth_ci: tuple[float, float] | None = None
    truth_n: int = 0
    left: float = 0.0  # mean weight, discount ** length, of what cut episodes would have gone on to

    @property
    def title(self) -> str:
        """The policy in a few words."""
        seed = "" if self.seed is None or len(self.arm.seeds) == 1 else f", seed {self.seed}"
        return f"{self.arm.label}{seed}"

    def covers(self, one: Estimate) -> bool | None:
        """Whether an estimate's interval holds the truth; None where either is missing."""
        if one.bounds is None or self.truth is None:
            return None
        return one.bounds[0] <= self.truth <= one.bounds[1]


def judged_runs(found: Gathered) -> tuple[list[Judged], list[str]]:
    """Return what was judged, in the order of the arms, and a sentence for each damaged file."""
    rows: list[Judged] = []
    faults: list[str] = []
    for arm in found.arms:
        for run in arm.runs:
            for path in sorted(run.dir.glob(f"seed_*/{RESULT}")):
                try:
                    told = json.loads(path.read_text("utf-8"))
                    rows.append(_with_truth(_read(arm, run.dir, told), told, found.result(run)))
                except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                    faults.append(f"{clean(path)} cannot be read: {clean(error)}.")
    return rows, faults


def _read(arm: Arm, folder: Path, told: Any) -> Judged:
    estimates = tuple(
        Estimate(
            clean(name),
            None if one["value"] is None else float(one["value"]),
            _pair((one["lo"], one["hi"])),
            clean(one["interval"] or ""),
            clean(one["refused"] or ""),
        )
        for name, one in told["estimates"].items()
    )
    remarks = [*told["remarks"], *told["notes"], *(f"{d}." for d in told["disagreements"])]
    return Judged(
        arm=arm,
        run=folder,
        seed=told.get("seed"),
        picked=clean(told.get("picked", "")),
        discount=float(told["discount"]),
        behavior=float(told["behavior_value"]),
        behavior_ci=_pair(told["behavior_ci"]),
        episodes=int(told["episodes"]),
        ess=None if told["ess"] is None else float(told["ess"]),
        in_sample=bool(told["in_sample"]),
        level=float(told["level"]),
        estimates=estimates,
        decision=told["decision"],
        remarks=tuple(dict.fromkeys(clean(text) for text in remarks)),
    )


def _pair(bounds: Sequence[float | None] | None) -> tuple[float, float] | None:
    if bounds is None or bounds[0] is None or bounds[1] is None:
        return None
    return float(bounds[0]), float(bounds[1])


def _with_truth(one: Judged, told: Any, result: Mapping[str, Any]) -> Judged:
    """The same with the value that the policy had where it acted: same seed, step and discount."""
    evaluation = result.get("evaluation")
    if not isinstance(evaluation, dict) or told.get("acts") != "mode":
        return one  # `offrl eval` lets the mode act
    if evaluation.get("discount") != one.discount or evaluation.get("env") != one.arm.task.env:
        return one
    for seed in evaluation.get("seeds", ()):
        same = (seed.get("seed"), seed.get("checkpoint_step")) == (
            one.seed,
            told.get("checkpoint_step"),
        )
        values = seed.get("values")
        if same and values:
            ends = zip(seed["lengths"], seed["cut"], strict=True)
            left = mean([one.discount ** int(length) if cut else 0.0 for length, cut in ends])
            extra = {
                "truth": mean(values),
                "truth_ci": interval(values),
                "truth_n": len(values),
                "left": left,
            }
            return Judged(**{**vars(one), **extra})
    return one
