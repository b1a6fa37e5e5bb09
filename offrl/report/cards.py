"""The card of a dataset: what it holds, how it was made, and what it covers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offrl.data.dataset import Dataset, load
from offrl.data.lineage import sentence
from offrl.errors import OffrlError
from offrl.evaluation.references import lookup, score
from offrl.evaluation.statistics import interval
from offrl.plain import clean, number, spread, typeset
from offrl.plain import interval as written
from offrl.report.bars import Bars, choices, histogram

_NUMBERS = ("return", "95% interval of the mean", "returns", "score", "action")
DIMENSIONS = 12  # of actions that have a histogram each
NAMED = 40  # choices that have a bar each
LOG_PROB = {
    "logged": "logged for every step",
    "partial": "logged for some steps",
    "none": "not logged",
}


@dataclass(frozen=True)
class Card:
    """What a page shows of a dataset; `problem` says why there is no more of it."""

    id: str
    fingerprint: str
    facts: tuple[tuple[str, str], ...] = ()
    histograms: tuple[Bars, ...] = ()
    actions: tuple[Bars, ...] = ()
    behaviors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    problem: str = ""
    summary: Mapping[str, Any] | None = None


def card_of(data: Dataset) -> Card:
    """Return the card of a dataset. Raises CorruptDataError where its columns cannot be used."""
    table, summary = data.transitions, data.summary()
    described = data.describe()
    returns, lengths = table.returns, table.lengths
    logged = table.behavior_log_prob[np.isfinite(table.behavior_log_prob)]
    shown = [
        histogram("Returns of episodes", returns),
        histogram("Lengths of episodes, steps", lengths),
        histogram("Rewards of steps", table.reward),
        histogram("Log-probabilities of actions", logged),
    ]
    actions, note = _actions(data, described)
    return Card(
        id=clean(data.id),
        fingerprint=data.fingerprint,
        facts=tuple((name, _told(name, value)) for name, value in _facts(data, described, summary)),
        histograms=tuple(one for one in shown if one is not None),
        actions=actions,
        behaviors=_behaviors(described["behaviors"]),
        notes=(note,) if note else (),
        summary=summary,
    )


def card_by_name(ref: str | Path, fingerprint: str) -> Card:
    """Return the card of the dataset that a run learned from, or one that says what is missing.

    Under that name there may be other data by now: the fingerprint tells, and so does the card.
    """
    try:
        found = card_of(load(ref))
    except OffrlError as error:
        return Card(clean(ref), fingerprint, problem=f"Its card is not here: {clean(error.cause)}")
    if found.fingerprint != fingerprint:
        said = (
            f"The data that is here under this name is not what the runs learned from: that had the"
            f" fingerprint {fingerprint}."
        )
        return Card(found.id, fingerprint, problem=said)
    return found


def _told(name: str, value: object) -> str:
    return typeset(clean(value)) if name in _NUMBERS else clean(value)


def _facts(
    data: Dataset, described: Mapping[str, Any], summary: Mapping[str, Any]
) -> list[tuple[str, object]]:
    table = data.transitions
    returns, lengths = table.returns, table.lengths
    ended, cut = summary["terminated_episodes"], summary["truncated_episodes"]
    share = float(np.isfinite(table.behavior_log_prob).mean())
    facts: list[tuple[str, object]] = [
        ("environment", described["env"] or "not named"),
        ("episodes", f"{data.n_episodes:,}"),
        ("steps", f"{data.n_steps:,}"),
        ("return", f"{number(float(returns.mean()))}{spread(summary['return_std'])}"),
        ("95% interval of the mean", written(interval(returns))),
        ("returns", f"{number(float(returns.min()))} to {number(float(returns.max()))}"),
        (
            "length",
            f"{lengths.min():,} to {lengths.max():,} steps, median {np.median(lengths):,.0f}",
        ),
        ("ends", f"{ended:,} terminated, {cut:,} truncated"),
        ("log-probabilities", f"{LOG_PROB[data.log_prob]} ({share:.1%})"),
        ("observation", f"{described['obs_dim']} columns"),
        ("action", described["action"]),
    ]
    known = lookup(data.env_id, data.id, data.metadata)
    if known is not None:
        mean = score(float(returns.mean()), known)
        facts.append(("score", f"{number(mean)} (0 is random, 100 is expert)"))
        ends = f"random {number(known.random)}, expert {number(known.expert)}: {known.source}"
        facts.append(("references", ends))
    for name, value in described["metadata"].items():
        if value:
            told = ", ".join(map(str, value)) if isinstance(value, list) else value
            facts.append((name.replace("_", " "), told))
    recipe = described["recipe"]
    if isinstance(recipe, Mapping):
        facts += [(k, recipe[k]) for k in ("license", "seed") if recipe.get(k) is not None]
    if (made := sentence(described["lineage"])) is not None:
        facts.append(("made by", made))
    if isinstance(versions := described["versions"], Mapping):
        facts.append(("made with", ", ".join(f"{k} {v}" for k, v in versions.items())))
    return facts


def _actions(data: Dataset, described: Mapping[str, Any]) -> tuple[tuple[Bars, ...], str]:
    table, spec = data.transitions, data.spec
    if spec.discrete:
        counts = np.bincount(table.action, minlength=spec.action_dim)
        names = _names(described, spec.action_start, len(counts))
        kept = np.sort(np.argsort(-counts, kind="stable")[:NAMED])
        note = "" if len(kept) == len(counts) else f"The {NAMED} most frequent choices are shown."
        told = [int(counts[place]) for place in kept], [names[place] for place in kept]
        return (choices("Actions", *told),), note
    low, high = (np.asarray(b, np.float64).reshape(-1) for b in (spec.action_low, spec.action_high))
    found: list[Bars] = []
    for place in range(min(table.action.shape[1], DIMENSIONS)):
        ends = [float(b[place]) if math.isfinite(b[place]) else None for b in (low, high)]
        title = f"Action {place}" if table.action.shape[1] > 1 else "Actions"
        one = histogram(title, table.action[:, place], low=ends[0], high=ends[1])
        found += [] if one is None else [one]
    left = table.action.shape[1] - DIMENSIONS
    return tuple(found), f"{left} further dimensions are not shown." if left > 0 else ""


def _names(described: Mapping[str, Any], start: int, n: int) -> list[object]:
    """What the choices were called in the table that the data came from, else their numbers."""
    rows = [one for one in described["table"] or () if one["role"] == "action"]
    values: list[object] = list(rows[0]["values"] or ()) if len(rows) == 1 else []
    return values if len(values) == n else list(range(start, start + n))


def _behaviors(named: Any) -> tuple[str, ...]:
    if not isinstance(named, list):
        return ()
    told: list[str] = []
    for one in named:
        pairs = one.items() if isinstance(one, Mapping) else [("behavior", one)]
        told.append(clean(", ".join(f"{k} {v}" for k, v in pairs if v not in (None, False, 0))))
    return tuple(told)
