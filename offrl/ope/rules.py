"""Every estimator by name: what it is made of, and what it needs."""

from collections.abc import Iterable
from dataclasses import dataclass

from offrl.errors import ConfigError, suggest
from offrl.ope import bandit, estimators
from offrl.ope.estimators import Estimator, Terms, mean_of
from offrl.ope.magic import magic


@dataclass(frozen=True)
class Rule:
    """An estimator."""

    name: str
    estimator: Estimator
    terms: Terms | None = None  # where it is a plain mean of one an episode
    weighs: bool = True  # it needs pi(a|s) / mu(a|s)
    models: bool = False  # it needs Q and V


def _mean(name: str, terms: Terms, *, weighs: bool = True, models: bool = False) -> Rule:
    return Rule(name, mean_of(terms), terms, weighs, models)


FQE = "fqe"  # the direct method with the critics of fitted Q evaluation
SEQUENTIAL = {
    rule.name: rule
    for rule in (
        _mean(FQE, estimators.dm_terms, weighs=False, models=True),
        _mean("dm", estimators.dm_terms, weighs=False, models=True),
        _mean("ois", estimators.ois_terms),
        _mean("pdis", estimators.pdis_terms),
        Rule("wis", estimators.wis),
        Rule("wpdis", estimators.wpdis),
        _mean("dr", estimators.dr_terms, models=True),
        Rule("wdr", estimators.wdr, models=True),
        Rule("magic", magic, models=True),
    )
}
# The one whose uplift decides: the first of these that was asked for and not refused.
FIRST = (
    *("dr", "wdr", "magic", "switch-dr"),
    *("snips", "wpdis", "wis", "pdis", "ips", "ois", "clipped-ips"),
)
BOUNDED = ("ois", "ips")  # whose terms are a weight times a return


def bandit_rules(limit: float) -> dict[str, Rule]:
    """The estimators of one-step episodes, with weights clipped or switched at `limit`."""
    rules = (
        _mean("ips", estimators.ois_terms),
        Rule("snips", estimators.wis),
        _mean("clipped-ips", bandit.clipped_ips_terms(limit)),
        _mean("dm", estimators.dm_terms, weighs=False, models=True),
        _mean("dr", estimators.dr_terms, models=True),
        _mean("switch-dr", bandit.switch_dr_terms(limit), models=True),
    )
    return {rule.name: rule for rule in rules}


def chosen(
    names: Iterable[str] | None, *, one_step: bool, limit: float, fitted: bool
) -> dict[str, Rule]:
    """The rules of `names`, by default all that the data has; ConfigError for an unknown name.

    `fitted`: Q comes from fitted Q evaluation, and the direct method is called after it.
    """
    known = bandit_rules(limit) if one_step else dict(SEQUENTIAL)
    if not one_step:
        known.pop("dm" if fitted else FQE)
    if names is None:
        return known
    same = {"dm": FQE} if fitted and not one_step else {FQE: "dm"}
    if one_step:
        same |= {"ois": "ips", "pdis": "ips", "wis": "snips", "wpdis": "snips"}
    found: dict[str, Rule] = {}
    for name in names:
        ours = same.get(name, name)
        if ours not in known:
            kind = "one-step episodes" if one_step else "episodes of several steps"
            raise ConfigError(
                f"There is no estimator '{name}' for {kind}.{suggest(name, known)}",
                f"There are {', '.join(known)}.",
            )
        found[ours] = known[ours]
    if not found:
        raise ConfigError("No estimator is named.", f"There are {', '.join(known)}.")
    return found
