"""Choosing among trained runs by what their policies are worth on episodes that none learned from.

    candidate   a policy: RUN, seed, checkpoint          value by an estimator of offrl.ope
    of a seed   its checkpoint of the highest value
    of a run    the mean of that over its seeds
    chosen      the run of the highest mean              RUN/selection.json says so

Nobody acts. The highest of many estimates is higher than it is true: judge what was chosen on other
episodes, or by acting, before its value is believed.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from offrl.checkpoint import SELECTION, TrainedRun, folders
from offrl.data.dataset import Dataset, load
from offrl.data.durable import keep_file
from offrl.errors import ConfigError, WorkError
from offrl.evaluation.runfolders import Named, find
from offrl.evaluation.statistics import mean
from offrl.ope import judge
from offrl.run import FORMAT, current_versions

if TYPE_CHECKING:
    from pathlib import Path

    from offrl.policy import Policy


@dataclass(frozen=True)
class Candidate:
    """One policy, and what it is worth; no value where the estimator refused."""

    run: str
    seed: int
    step: int
    value: float | None
    ci: tuple[float, float] | None
    refused: str | None


@dataclass(frozen=True)
class Selection:
    """Runs in order of their value, the chosen one first, and how that was found."""

    by: str
    dataset: str
    fingerprint: str
    discount: float
    n_episodes: int
    in_sample: bool  # some candidate learned from these episodes
    behavior_value: float | None
    ranking: tuple[tuple[str, float, tuple[Candidate, ...]], ...]  # run, value, best of each seed
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]

    @property
    def chosen(self) -> str:
        """The folder of the run to take."""
        return self.ranking[0][0]

    @property
    def picked(self) -> str:
        """How the checkpoints of the chosen run were picked, in a few words."""
        which = "that candidates learned from (in_sample)" if self.in_sample else "not learned from"
        return (
            f"selected by {self.by} among {len(self.candidates)} policies on {self.n_episodes}"
            f" episodes of {self.dataset} {which}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON; `seeds` are the checkpoints of the chosen run."""
        best = {str(one.seed): _seed(one) for one in self.ranking[0][2]}
        plain = ("by", "dataset", "fingerprint", "discount", "n_episodes", "in_sample")
        return {
            "format": FORMAT,
            "chosen": self.chosen,
            "picked": self.picked,
            **{name: getattr(self, name) for name in plain},
            "behavior_value": self.behavior_value,
            "seeds": best,
            "ranking": [
                {"run": run, "value": value, "seeds": {str(c.seed): _seed(c) for c in of_seeds}}
                for run, value, of_seeds in self.ranking
            ],
            "candidates": [asdict(one) for one in self.candidates],
            "notes": list(self.notes),
            "versions": current_versions(),
        }


def _seed(one: Candidate) -> dict[str, Any]:
    return {"step": one.step, "value": one.value, "ci": one.ci}


def select(
    runs: Named,
    data: "Dataset | str | Path",
    *,
    by: str = "fqe",
    checkpoints: str = "last",
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> Selection:
    """Choose the run, and the checkpoint of each of its seeds, of the highest value by `by`.

    The same as `offrl select`. `checkpoints` is last, or all that were saved. `settings` are those
    of `offrl.ope.judge`; `by` one of its estimators. Writes selection.json into the chosen run,
    where `--checkpoint selected` finds it. Raises ConfigError for words that are off, WorkError
    where every candidate is refused.
    """
    if checkpoints not in ("last", "all"):
        raise ConfigError(f"Checkpoints are 'last' or 'all', not '{checkpoints}'.", "Give one.")
    found = find(runs)
    dataset = data if isinstance(data, Dataset) else load(data)
    asked, subjects = _subjects(found.runs, checkpoints)
    judged = judge(subjects, dataset, estimators=[by], progress=progress, keep=False, **settings)
    # One step to an episode has other words for some: dm is fqe there.
    (name,) = judged.candidates[0][1].estimates
    candidates: list[Candidate] = []
    for (run, seed, step), (_, findings) in zip(asked, judged.candidates, strict=True):
        one = findings.estimates[name]
        candidates.append(Candidate(str(run.dir), seed, step, one.value, one.bounds, one.refused))
    result = Selection(
        by=name,
        dataset=judged.dataset,
        fingerprint=judged.fingerprint,
        discount=judged.discount,
        n_episodes=len(judged.episodes),
        in_sample=judged.in_sample,
        behavior_value=judged.candidates[0][1].behavior.value,
        ranking=_ranking(candidates),
        candidates=tuple(candidates),
        notes=(*found.left_out, *_said(judged.notes), *_doubts(candidates)),
    )
    _write(result)
    return result


def _said(notes: tuple[str, ...]) -> list[str]:
    """The notes of judging, without those that every candidate would repeat."""
    return [text for text in dict.fromkeys(notes) if " is judged, since one policy" not in text]


def _subjects(
    runs: list[TrainedRun], checkpoints: str
) -> tuple[list[tuple[TrainedRun, int, int]], "list[TrainedRun | Policy]"]:
    """What is judged, in order: of each seed its newest checkpoint, then those before it."""
    asked: list[tuple[TrainedRun, int, int]] = []
    subjects: list[TrainedRun | Policy] = []
    for run in runs:
        for seed in run.seeds:
            last = run.checkpoint(seed).step
            asked.append((run, seed, last))
            subjects.append(TrainedRun(run.dir, run.run, (seed,)))
            if checkpoints == "last":
                continue
            for step in folders(run.dir / f"seed_{seed}"):
                if 0 < step < last:
                    asked.append((run, seed, step))
                    subjects.append(run.policy(seed, step))
    return asked, subjects


def _ranking(
    candidates: list[Candidate],
) -> tuple[tuple[str, float, tuple[Candidate, ...]], ...]:
    best: dict[str, dict[int, Candidate]] = {}
    for one in candidates:
        if one.value is None:
            continue
        seeds = best.setdefault(one.run, {})
        known = seeds.get(one.seed)
        # Of equals the later one, as nothing speaks for stopping early.
        if known is None or (one.value, one.step) > (known.value, known.step):
            seeds[one.seed] = one
    if not best:
        why = "; ".join(dict.fromkeys(str(one.refused) for one in candidates))
        raise WorkError(f"No candidate could be judged: {why}", "Choose by another estimator.")
    rows = [
        (run, mean([float(one.value or 0.0) for one in seeds.values()]), tuple(seeds.values()))
        for run, seeds in best.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row[1]))


def _doubts(candidates: list[Candidate]) -> list[str]:
    """What a reader must know of how sure the choice is."""
    notes = [
        f"Left out: seed {one.seed} of {one.run} at step {one.step}. {one.refused}"
        for one in candidates
        if one.value is None
    ]
    known = [one for one in candidates if one.value is not None and one.ci is not None]
    if len(known) > 1:
        top = max(known, key=lambda one: float(one.value or 0.0))
        low = top.ci[0] if top.ci else 0.0
        near = sum(one is not top and one.ci is not None and one.ci[1] >= low for one in known)
        if near:
            notes.append(
                f"The interval of the highest value overlaps those of {near} of {len(known) - 1}"
                " others: they have not been told apart."
            )
    return notes


def _write(result: Selection) -> None:
    from pathlib import Path

    path = Path(result.chosen) / SELECTION
    keep_file(
        path,
        json.dumps(result.to_dict(), indent=2, allow_nan=False).encode() + b"\n",
        "Make room or mend the permissions, then select again.",
    )
