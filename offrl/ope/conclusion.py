"""From logged episodes to findings: every estimate with its interval, or the reason for none."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from offrl.evaluation.statistics import interval
from offrl.ope import bandit
from offrl.ope.decision import Facts, decide
from offrl.ope.findings import Estimate, Findings
from offrl.ope.intervals import (
    Bounds,
    clipped_bounds,
    percentile,
    replicates_of,
    return_range,
)
from offrl.ope.rules import BOUNDED, FIRST, Rule, chosen
from offrl.ope.settings import StatisticsConfig
from offrl.ope.trajectories import Floats, Trajectories
from offrl.ope.weights import Weights, diagnose


@dataclass(frozen=True)
class Evidence:
    """What is known of a candidate on n logged episodes."""

    data: Trajectories
    behavior_returns: Floats  # [n], discounted, of the policy that made the log
    terminated: np.ndarray  # [n] bool
    no_weights: str | None = None  # why there are no ratios
    no_model: str | None = None  # why there are no Q and V
    fitted: bool = False  # Q and V are of fitted Q evaluation
    seeds: Floats | None = None  # [S, n], V of the first observation by each seed's critics
    estimated_behavior: bool = False
    in_sample: bool = False
    notes: tuple[str, ...] = ()
    model_notes: tuple[str, ...] = field(default=())


def conclude(
    evidence: Evidence,
    config: StatisticsConfig,
    names: Sequence[str] | None = None,
    *,
    reward_range: Bounds | None = None,
    min_uplift: float | None = None,
    comparisons: int = 1,
) -> Findings:
    """Estimate by every estimator named, or by all, and decide where `min_uplift` is given.

    `comparisons` candidates share what may go wrong: the interval of the decision is that much
    stricter. Raises ConfigError for an estimator that is not there for this data.
    """
    data = evidence.data
    limit = config.clip or bandit.threshold(data.n)
    one_step = data.one_step and bool(evidence.terminated.all())
    rules = chosen(names, one_step=one_step, limit=limit, fitted=evidence.fitted)
    weights = None if evidence.no_weights else diagnose(data)
    refused = {name: _refusal(rule, evidence, weights, config) for name, rule in rules.items()}
    given = {name: rules[name] for name, why in refused.items() if why is None}
    values = {
        name: float(rule.estimator(data)(np.ones((1, data.n)))[0]) for name, rule in given.items()
    }
    for name, value in values.items():
        if not np.isfinite(value):
            refused[name] = "Its weights are too large, or all too small, for a number."
    given = {name: rule for name, rule in given.items() if refused[name] is None}
    span = _span(reward_range, data.discount, config, one_step)
    strict = 1 - (1 - config.level) / comparisons
    replicates, behaved = _replicates(data, given, evidence.behavior_returns, config)
    estimates, uplifts = {}, {}
    for name, rule in rules.items():
        if (why := refused[name]) is not None:
            estimates[name] = uplifts[name] = Estimate(None, refused=why)
            continue
        seeds = evidence.seeds if rule.models and not rule.weighs else None
        estimates[name] = _estimate(
            data, rule, values[name], replicates[name], config.level, span, limit, seeds
        )
        gain = values[name] - float(evidence.behavior_returns.mean())
        uplifts[name] = _uplift(
            data, rule, gain, replicates[name] - behaved, evidence.behavior_returns, strict, seeds
        )
    disagreements = tuple(_disagreements(estimates))
    findings = Findings(
        discount=data.discount,
        level=config.level,
        episodes=data.n,
        steps=int(data.lengths.sum()),
        truncated=int((~evidence.terminated).sum()),
        behavior=_behavior(evidence.behavior_returns, config.level),
        estimates=estimates,
        uplifts=uplifts,
        weights=weights,
        disagreements=disagreements,
        notes=tuple(_notes(evidence, weights)),
    )
    if min_uplift is None:
        return findings
    facts = Facts(
        findings,
        min_uplift,
        strict,
        tuple(name for name in FIRST if name in rules),
        float(evidence.behavior_returns.std(ddof=1)) if data.n > 1 else 0.0,
        evidence.estimated_behavior,
        evidence.in_sample,
    )
    return decide(facts)


def _refusal(
    rule: Rule, evidence: Evidence, weights: Weights | None, config: StatisticsConfig
) -> str | None:
    if rule.weighs and weights is None:
        return evidence.no_weights
    if rule.models and evidence.no_model:
        return evidence.no_model
    if rule.weighs and weights is not None and weights.ess < config.min_ess:
        return (
            f"The weights leave {weights.ess:.2g} effective of {weights.n} episodes, fewer than"
            f" {config.min_ess:g}: it would be an average of next to nothing."
        )
    return None


def _span(
    rewards: Bounds | None, discount: float, config: StatisticsConfig, one_step: bool
) -> Bounds | None:
    if rewards is None:
        return None
    return return_range(rewards, discount, 1 if one_step else config.horizon or None)


def _replicates(
    data: Trajectories, rules: dict[str, Rule], behaved: Floats, config: StatisticsConfig
) -> tuple[dict[str, Floats], Floats]:
    """Bootstrap replicates of each estimator and of the behaviour's mean, of the same resamples."""
    estimators = {name: rule.estimator for name, rule in rules.items()}
    estimators["behavior"] = lambda _: lambda counts: counts @ behaved / counts.sum(1)
    found = replicates_of(data, estimators, config.replicates, config.seed)
    return found, found.pop("behavior")


def _estimate(
    data: Trajectories,
    rule: Rule,
    value: float,
    replicates: Floats,
    level: float,
    span: Bounds | None,
    limit: float,
    seeds: Floats | None,
) -> Estimate:
    terms = None if rule.terms is None else rule.terms(data)
    if seeds is not None and terms is not None:
        return _refitted(value, terms, seeds, level)
    found = _intervals(replicates, terms, level, data.n)
    notes: list[str] = []
    if rule.name in BOUNDED:
        if span is not None:
            found |= clipped_bounds(data.returns, data.last_log_weight, span, limit, level)
        else:
            notes.append("No bounds: they need the range of rewards, known before the data.")
    return Estimate(value, *_counting(found), found, notes=tuple(notes))


def _uplift(
    data: Trajectories,
    rule: Rule,
    gain: float,
    replicates: Floats,
    behaved: Floats,
    level: float,
    seeds: Floats | None,
) -> Estimate:
    terms = None if rule.terms is None else rule.terms(data) - behaved
    if seeds is not None and terms is not None:
        return _refitted(gain, terms, seeds - behaved, level)
    found = _intervals(replicates, terms, level, data.n)
    return Estimate(gain, *_counting(found), found)


def _intervals(
    replicates: Floats, terms: Floats | None, level: float, episodes: int
) -> dict[str, Bounds]:
    found: dict[str, Bounds] = {}
    if episodes > 1 and (bounds := percentile(replicates, level)) is not None:
        found["bootstrap"] = bounds
    if terms is not None and (bounds := interval(terms, level)) is not None:
        found["student-t"] = bounds
    return found


def _counting(found: dict[str, Bounds]) -> tuple[Bounds | None, str]:
    name = next(iter(found), "")
    return found.get(name), name


def _refitted(value: float, terms: Floats, seeds: Floats, level: float) -> Estimate:
    """An estimate of critics that learned from resamples [S, n]: they differ by chance of the fit.

    The variance among them, of one and not of their mean, is what a new log would bring, and that
    of the first observations is added; Student's t with S - 1 degrees of freedom.
    """
    from scipy import special

    means = seeds.mean(1)
    if len(means) < 2:
        note = "No interval: it takes two or more seeds."
        return Estimate(value, notes=(note,), seeds=tuple(means.tolist()))
    error = (
        np.sqrt(means.var(ddof=1) + terms.var(ddof=1) / len(terms)) if len(terms) > 1 else np.inf
    )
    half = float(special.stdtrit(len(means) - 1, (1 + level) / 2)) * float(error)
    bounds = (value - half, value + half)
    return Estimate(value, bounds, "refits", {"refits": bounds}, seeds=tuple(means.tolist()))


def _behavior(returns: Floats, level: float) -> Estimate:
    bounds = interval(returns, level)
    found = {} if bounds is None else {"student-t": bounds}
    return Estimate(float(returns.mean()), *_counting(found), found)


def _disagreements(estimates: dict[str, Estimate]) -> list[str]:
    given = {n: e.bounds for n, e in estimates.items() if e.bounds is not None}
    return [
        f"{one} [{a[0]:.4g}, {a[1]:.4g}] and {other} [{b[0]:.4g}, {b[1]:.4g}] disagree: their"
        " intervals do not meet"
        for (one, a), (other, b) in combinations(given.items(), 2)
        if a[1] < b[0] or b[1] < a[0]
    ]


def _notes(evidence: Evidence, weights: Weights | None) -> list[str]:
    found = [*evidence.notes, *evidence.model_notes]
    if evidence.no_weights:
        found.append(f"No importance estimates: {evidence.no_weights}")
    if weights is None:
        return found
    if weights.lost_from is not None:
        mean = weights.mean_per_step[weights.lost_from]
        found.append(
            f"Support is lost from step {weights.lost_from}: the mean cumulative weight is"
            f" {mean:.3g} there and must be 1, so the candidate does what the log does not hold,"
            " and importance estimates leave that out."
        )
    if weights.thin_from is not None:
        mean = weights.mean_per_step[weights.thin_from]
        found.append(
            f"From step {weights.thin_from} on too few episodes act as the candidate does: the mean"
            f" cumulative weight is {mean:.3g} there and must be 1, though the log holds its"
            f" actions one by one (their mean ratio is {weights.mean_ratio:.3g}). Importance"
            " estimates leave out what rare episodes would say."
        )
    if weights.scarce:
        found.append(
            f"The weights leave {weights.ess:.3g} effective of {weights.n} episodes, and the"
            f" largest has {weights.largest_share:.0%} of their sum: intervals are too short."
        )
    return found
