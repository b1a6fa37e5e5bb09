"""Judging candidates on the episodes of a dataset that none of them learned from."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from offrl.configuration import configure
from offrl.data.dataset import Dataset, load
from offrl.data.durable import keep_file
from offrl.errors import ConfigError
from offrl.ope.candidates import Candidate, candidate_of
from offrl.ope.conclusion import conclude
from offrl.ope.findings import Findings
from offrl.ope.fitting import Numbers
from offrl.ope.rules import chosen
from offrl.ope.settings import JudgeConfig
from offrl.ope.work import Work
from offrl.policy import threads
from offrl.run import FORMAT, current_versions

RESULT = "ope.json"


@dataclass(frozen=True)
class Judgement:
    """What every candidate came to, on the same episodes."""

    dataset: str
    fingerprint: str
    discount: float
    episodes: Numbers  # their numbers in the dataset
    in_sample: bool
    behavior: str  # "logged" or "estimated": the probabilities of the policy that made the log
    candidates: tuple[tuple[Candidate, Findings], ...]
    config: JudgeConfig
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def best(self) -> tuple[Candidate, Findings]:
        """The candidate to let act: one that may ship, else whose uplift's lower limit is best."""

        def rank(pair: tuple[Candidate, Findings]) -> tuple[bool, float]:
            decision = pair[1].decision
            if decision is None or decision.bounds is None:
                return False, -np.inf
            return decision.verdict == "ship", decision.bounds[0]

        return max(self.candidates, key=rank)

    @property
    def verdict(self) -> str | None:
        """ship, hold or cannot-tell, of the best candidate; None where nothing was asked for."""
        decision = self.best[1].decision
        if decision is None:
            return None
        verdicts = {f.decision.verdict for _, f in self.candidates if f.decision is not None}
        return (
            decision.verdict if len(verdicts) == 1 or decision.verdict == "ship" else "cannot-tell"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON, the keys that scripts rely on first."""
        first = self.candidates[0][1]
        low, high = first.behavior.bounds or (None, None)
        return {
            "discount": self.discount,
            "behavior_value": first.behavior.value,
            "behavior_ci": None if low is None else [low, high],
            "runs": [self.entry(one, findings) for one, findings in self.candidates],
            "verdict": self.verdict,
            "best": self.best[0].name if self.verdict else None,
            **self._shared(),
        }

    def entry(self, candidate: Candidate, findings: Findings) -> dict[str, Any]:
        """Return what was found of one candidate, as JSON."""
        return {
            "run": candidate.name,
            **findings.to_dict(),
            "acts": candidate.acts,
            **dict(candidate.facts),
        }

    def page(self, candidate: Candidate, findings: Findings) -> dict[str, Any]:
        """Return what RUN/seed_3/ope.json holds of one candidate."""
        return {"format": FORMAT, **self.entry(candidate, findings), **self._shared()}

    def _shared(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "fingerprint": self.fingerprint,
            "judged_episodes": self.episodes.tolist(),
            "in_sample": self.in_sample,
            "behavior": self.behavior,
            "settings": asdict(self.config),
            "remarks": list(self.notes),
            "versions": self.versions,
        }


def judge(
    candidates: Any,
    data: Dataset | str | Path,
    *,
    estimators: Sequence[str] | None = None,
    discount: float | None = None,
    reward_range: tuple[float, float] | None = None,
    min_uplift: float | None = None,
    checkpoint: str | int = "last",
    progress: Callable[[int, int], None] | None = None,
    keep: bool = True,
    **settings: Any,
) -> Judgement:
    """Judge one candidate, or a list of them, on held-out episodes; the same as `offrl ope`.

    A candidate is a run or its folder, a policy, a function, FILE.py:FUNCTION or TABLE.csv:COLUMN.
    `discount` is that of the runs where it is not given. What comes of a run is kept in
    RUN/seed_3/ope.json unless `keep` is false. `progress` is told (taken, all) gradient steps.
    `settings` are the fields of `offrl.ope.settings.JudgeConfig`. Raises ConfigError where
    candidates, data and words differ.
    """
    config = configure(JudgeConfig, settings)
    subjects = list(candidates) if isinstance(candidates, list | tuple) else [candidates]
    if not subjects:
        raise ConfigError("There is no candidate.", "Give a run, a policy or a function.")
    dataset = data if isinstance(data, Dataset) else load(data)
    judged = [candidate_of(one, dataset, config.acts, checkpoint) for one in subjects]
    episodes, in_sample, notes = _episodes(judged, dataset)
    transitions = dataset.transitions
    part = transitions.take_episodes(episodes)
    one_step = bool((part.lengths == 1).all() and part.terminated.all())
    discount = _discount(judged, discount, one_step)
    chosen(estimators, one_step=one_step, limit=1.0, fitted=True)  # words that are off, at once
    work = Work(dataset, part, episodes, config, discount, estimators, progress)
    with threads(1):
        work.prepare(judged)
        evidence = [work.evidence(one, in_sample) for one in judged]
    found = [
        conclude(
            one,
            config,
            estimators,
            reward_range=reward_range,
            min_uplift=min_uplift,
            comparisons=len(judged),
        )
        for one in evidence
    ]
    if len(judged) > 1 and min_uplift is not None:
        notes.append(
            f"{len(judged)} candidates were compared, so the intervals of uplifts are stricter:"
            f" each has a level of {1 - (1 - config.level) / len(judged):.4g}."
        )
    result = Judgement(
        dataset=dataset.id,
        fingerprint=dataset.fingerprint,
        discount=discount,
        episodes=episodes,
        in_sample=in_sample,
        behavior="estimated" if work.estimated else "logged",
        candidates=tuple(zip(judged, found, strict=True)),
        config=config,
        notes=tuple(notes),
        versions=current_versions(),
    )
    for candidate, findings in result.candidates if keep else ():
        _keep(candidate, result.page(candidate, findings))
    return result


def _episodes(candidates: Sequence[Candidate], dataset: Dataset) -> tuple[Numbers, bool, list[str]]:
    """The episodes that no candidate learned from, else all of them, and whether that is so."""
    everything, notes = set(range(dataset.n_episodes)), list[str]()
    kept, learned = set(everything), False
    for one in candidates:
        notes += one.notes
        if one.run is None:
            continue
        if one.run.fingerprint != dataset.fingerprint:
            notes.append(
                f"{one.name} learned from other data than {dataset.id}: no episode is left out for"
                " it."
            )
            continue
        learned = True
        kept &= set(one.run.held_out)
    if learned and not kept:
        notes.append(
            "in_sample: no episode was held out, so candidates are judged on episodes that they"
            " learned from, and look better than they are; train with --holdout 0.2."
        )
        return np.arange(dataset.n_episodes), True, notes
    return np.array(sorted(kept), dtype=np.int64), False, notes


def _discount(candidates: Sequence[Candidate], given: float | None, one_step: bool) -> float:
    if given is not None:
        if not 0 <= given <= 1:
            raise ConfigError(f"The discount must be from 0 to 1, not {given}.", "Give 0.99.")
        return given
    if one_step:
        return 1.0
    found = {float(one.run.config["discount"]) for one in candidates if one.run is not None}
    if len(found) != 1:
        what = "name no discount" if not found else f"have several: {sorted(found)}"
        raise ConfigError(f"The candidates {what}.", "Give one: --discount 0.99.")
    return found.pop()


def _keep(candidate: Candidate, page: dict[str, Any]) -> None:
    """Replace RUN/seed_3/ope.json whole, or leave the old one."""
    if candidate.dir is None:
        return
    path = candidate.dir / RESULT
    keep_file(
        path,
        json.dumps(_plain(page), indent=2, allow_nan=False).encode() + b"\n",
        "Make room or mend the permissions, then judge again.",
    )


def _plain(value: Any) -> Any:
    """Numbers that JSON has no word for become null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
