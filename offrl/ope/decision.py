"""Whether a candidate may replace the policy that made the log: ship, hold, or cannot tell.

ship         the uplift's whole interval is at or above what was asked for
hold         the whole interval is below it
cannot-tell  anything else, and where the interval itself cannot be trusted

One estimator decides, the first in `rules.FIRST` that was asked for and not refused, so that the
choice does not look at the numbers. Fitted Q evaluation alone never ships: nothing in the data
tells how wrong it is where the log does not go.
"""

import math
from dataclasses import dataclass, replace

from offrl.ope.findings import Decision, Estimate, Findings, Verdict
from offrl.ope.intervals import Bounds

POWER = 0.8  # of the test that is proposed


@dataclass(frozen=True)
class Facts:
    """What a decision looks at."""

    findings: Findings
    min_uplift: float
    level: float
    first: tuple[str, ...]  # estimators that may decide, in their order
    spread: float  # standard deviation of the behaviour's discounted returns
    estimated_behavior: bool
    in_sample: bool

    def deciding(self) -> tuple[str, Estimate] | None:
        """The estimator that decides, and its uplift."""
        uplifts = self.findings.uplifts
        models = [name for name in uplifts if name not in self.first]
        for name in (*self.first, *models):
            if uplifts[name].bounds is not None:
                return name, uplifts[name]
        return None


def decide(facts: Facts) -> Findings:
    """The findings with a decision."""
    found = facts.deciding()
    if found is None:
        reasons = [e.refused for e in facts.findings.estimates.values() if e.refused]
        why = reasons[0] if reasons else "No estimate has an interval."
        decision = _decision(facts, "cannot-tell", why, None, Estimate(None))
        return replace(facts.findings, decision=decision)
    name, uplift = found
    low, high = uplift.bounds or (-math.inf, math.inf)
    asked = facts.min_uplift
    side: Verdict = "ship" if low >= asked else "hold" if high < asked else "cannot-tell"
    shown = f"the uplift by {name} is {uplift.value:.4g} [{low:.4g}, {high:.4g}]"
    if side == "cannot-tell":
        why = f"{shown}, which holds values below and above {asked:g}."
    elif doubt := _doubt(facts, name, side):
        side, why = "cannot-tell", f"{shown}, but {doubt}"
    else:
        where = "not below" if side == "ship" else "below"
        why = f"{shown}, wholly {where} {asked:g}."
    why = why[0].upper() + why[1:]
    return replace(facts.findings, decision=_decision(facts, side, why, name, uplift))


def _doubt(facts: Facts, name: str, side: Verdict) -> str:
    """Why the interval does not carry the verdict that it would give; "" where it does."""
    findings, weights = facts.findings, facts.findings.weights
    if facts.in_sample:
        return "it was judged on episodes that it learned from."
    if name not in facts.first and side == "ship":
        return (
            f"{name} rests on a fitted Q alone, whose error where the log does not go is unknown."
        )
    if name in facts.first and weights is not None and weights.lost_from is not None:
        return (
            "the candidate takes actions that the log does not hold (mean weight"
            f" {weights.mean_per_step[weights.lost_from]:.3g} at step {weights.lost_from})."
        )
    if name in facts.first and weights is not None and weights.thin_from is not None:
        return (
            "too few episodes act as the candidate does (mean weight"
            f" {weights.mean_per_step[weights.thin_from]:.3g} at step {weights.thin_from})."
        )
    for other, uplift in findings.uplifts.items():
        pair = any(
            name in text.split() and other in text.split() for text in findings.disagreements
        )
        if pair and uplift.bounds is not None and _side(uplift.bounds, facts.min_uplift) != side:
            return f"{other} disagrees: {uplift.value:.4g} {_text(uplift.bounds)}."
    return ""


def _side(bounds: Bounds, asked: float) -> Verdict:
    return "ship" if bounds[0] >= asked else "hold" if bounds[1] < asked else "cannot-tell"


def _decision(
    facts: Facts, verdict: Verdict, reason: str, name: str | None, uplift: Estimate
) -> Decision:
    return Decision(
        verdict=verdict,
        reason=reason,
        estimator=name,
        uplift=uplift.value,
        bounds=uplift.bounds,
        level=facts.level,
        min_uplift=facts.min_uplift,
        assumptions=tuple(_assumptions(facts, name)),
        would_settle=_settling(facts, verdict, name, uplift),
    )


def _assumptions(facts: Facts, name: str | None) -> list[str]:
    findings = facts.findings
    found = [
        "What follows is like the log: the same first states, the same world, all of the reward."
    ]
    if name in facts.first:
        found.append("Every action that the candidate takes, the behavior takes now and then.")
        found.append(
            "The fitted probabilities of the behavior are right."
            if facts.estimated_behavior
            else "The logged probabilities are of the executed actions."
        )
    else:
        found.append("The fitted Q is right at the candidate's actions too.")
    if findings.truncated:
        found.append(
            f"The fitted values of what {findings.truncated} cut-off episodes would have earned are"
            " right."
        )
    return found


def _settling(facts: Facts, verdict: Verdict, name: str | None, uplift: Estimate) -> str:
    """Which data would settle it."""
    findings = facts.findings
    trial = _trial(facts, uplift)
    if verdict != "cannot-tell":
        return f"Nothing more is needed; a trial would confirm it: {trial}."
    if facts.in_sample:
        return "Episodes that the candidate did not learn from: train it with --holdout 0.2."
    if name is None or name not in facts.first:
        return (
            "A log whose behavior sometimes takes the candidate's actions, with their"
            f" probabilities, and a candidate that is judged as it samples; or a trial: {trial}."
        )
    if findings.weights is not None and findings.weights.lost_from is not None:
        return f"A log of a behavior that takes the candidate's actions too; or a trial: {trial}."
    if findings.weights is not None and findings.weights.thin_from is not None:
        return (
            "Many times as many episodes, or those of a behavior nearer to the candidate; or a"
            f" trial: {trial}."
        )
    if uplift.bounds is None or uplift.value is None:
        return f"More episodes; or a trial: {trial}."
    half, away = (uplift.bounds[1] - uplift.bounds[0]) / 2, abs(uplift.value - facts.min_uplift)
    if away * 30 < half:  # some thousand times the episodes: no plan
        return (
            f"The uplift is too near {facts.min_uplift:g} for any log to settle it; ask for another"
            f" --min-uplift, or try it: {trial}."
        )
    needed = math.ceil(findings.episodes * (half / max(away, 1e-300)) ** 2)
    if needed <= findings.episodes:
        return (
            f"Other data than this log, since the estimators do not agree on it; a trial: {trial}."
        )
    return (
        f"About {needed} episodes like these, {needed / findings.episodes:.2g} times as many, if"
        f" the uplift stays where it is; or a trial: {trial}."
    )


def _trial(facts: Facts, uplift: Estimate) -> str:
    """How many episodes with and without the candidate would tell the uplift asked for."""
    from scipy import special

    difference = abs(facts.min_uplift)
    if uplift.value is not None:
        difference = max(difference, abs(uplift.value - facts.min_uplift))
    if not difference or not facts.spread:
        return "episodes with and without the candidate, by chance"
    z = float(special.ndtri((1 + facts.level) / 2) + special.ndtri(POWER))
    n = max(2, math.ceil(2 * (z * facts.spread / difference) ** 2))
    return (
        f"{n} episodes with the candidate and {n} without, by chance, tell a difference of"
        f" {difference:.3g} in four of five cases"
    )


def _text(bounds: Bounds) -> str:
    return f"[{bounds[0]:.4g}, {bounds[1]:.4g}]"
