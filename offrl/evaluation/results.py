"""Every evaluation of every run as one tidy table.

    run  algo  dataset  env  seed  status    source    picked  step   return  score  lr   ...
    a    bc    p/m-v0   P-v1    0  finished  eval      last    1000   -410.2   75.9  0.1
    a    bc    p/m-v0   P-v1    0  finished  training  ...      500   -600.3   58.3  0.1
    b    awr   p/m-v0   P-v1    0  diverged            -          -        -      -  0.3

`source` is eval (`offrl eval`, what result.json holds) or training (`--eval-every`); a seed that
was never tried has one row without a return. Settings have a column where they vary between runs.
"""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from offrl.checkpoint import TrainedRun
from offrl.evaluation.references import Reference, lookup, score
from offrl.evaluation.runfolders import Named, find, page, state_of
from offrl.logs import read_metrics

if TYPE_CHECKING:
    import pandas as pd

TRIED = "eval/return_mean"  # the column of metrics.csv
NOT_PICKED = "none picked: evaluated while training"
_WHOLE = ("seed", "step", "env_step", "n_episodes", "episode_seed")
_OWN_COLUMN = ("algo", "dataset", "seeds")


@dataclass(frozen=True)
class Tried:
    """One evaluation of one checkpoint of one seed; without a return where there was none."""

    run: str
    algo: str
    dataset: str
    fingerprint: str
    env: str | None
    seed: int
    status: str
    source: str | None = None
    checkpoint: str | None = None
    picked: str | None = None
    step: int | None = None
    env_step: int | None = None
    n_episodes: int | None = None
    episode_seed: int | None = None
    return_mean: float = math.nan
    return_std: float | None = None
    length_mean: float | None = None
    score: float | None = None
    reference: Reference | None = None


def results(named: Named = "runs/**") -> "pd.DataFrame":
    """Return a row for each run, seed and evaluated checkpoint of the runs that `named` leads to.

    `named` is a folder, a glob, a run, or several. Warns of what was left aside, which is also in
    `attrs["left_out"]`, a sentence each. Raises NotFoundError where there is no run at all.
    """
    import pandas as pd

    found = find(named)
    left_out, rows = list(found.left_out), list[dict[str, Any]]()
    varying = varied(found.runs)
    for run in found.runs:
        tried, fault = tries_of(run)
        left_out += [fault] if fault else []
        own = settings_in(run)
        for one in tried:
            row = {k: v for k, v in vars(one).items() if k != "reference"}
            row["return"] = row.pop("return_mean")
            rows.append(row | {name: own.get(name) for name in varying})
    if left_out:
        warnings.warn(" ".join(left_out), stacklevel=2)
    frame = pd.DataFrame(rows, columns=[*_columns(), *varying])
    whole = {name: "Int64" for name in _WHOLE}
    plain = {name: "float64" for name in ("return", "return_std", "length_mean", "score")}
    frame = frame.astype(whole | plain)
    frame.attrs["left_out"] = left_out
    return frame


def _columns() -> list[str]:
    names = [name for name in Tried.__dataclass_fields__ if name != "reference"]
    return ["return" if name == "return_mean" else name for name in names]


def tries_of(run: TrainedRun) -> tuple[list[Tried], str]:
    """Return the evaluations of a run's seeds, and a sentence where a part cannot be read."""
    stored, fault = page(run.dir / "result.json"), ""
    evaluation = stored.get("evaluation")
    rows: list[Tried] = []
    for seed in run.seeds:
        base = Tried(
            run=str(run.dir),
            algo=run.run.algorithm,
            dataset=run.run.settings.dataset,
            fingerprint=run.run.fingerprint,
            env=run.run.settings.eval_env or run.run.env,
            seed=seed,
            status=state_of(run, seed),
        )
        try:
            mine = [] if evaluation is None else list(_evaluated(base, evaluation))
        except (KeyError, TypeError, ValueError, AttributeError):
            mine, fault = [], f"The evaluation in {run.dir}/result.json cannot be read."
        try:
            mine += _while_training(run, base, mine[0] if mine else None)
        except (KeyError, ValueError, OSError):
            fault = f"{run.dir}/seed_{seed}/metrics.csv cannot be read."
        rows += mine or [base]
    return rows, fault


def _evaluated(base: Tried, found: Any) -> list[Tried]:
    reference = found.get("reference")
    known = None if reference is None else Reference(**reference)
    picked = found.get("picked") or _usual(str(found["checkpoint"]))
    return [
        Tried(
            **{
                **vars(base),
                "source": "eval",
                "env": str(found["env"]),
                "checkpoint": str(found["checkpoint"]),
                "picked": str(picked),
                "step": int(one["checkpoint_step"]),
                "n_episodes": len(one["returns"]),
                "episode_seed": found["episode_seed"],
                "return_mean": float(one["return_mean"]),
                "return_std": one["return_std"],
                "length_mean": one["length_mean"],
                "score": score(float(one["return_mean"]), known),
                "reference": known,
            }
        )
        for one in found["seeds"]
        if one["seed"] == base.seed
    ]


def _usual(checkpoint: str) -> str:
    return f"step {checkpoint}" if checkpoint.isdigit() else checkpoint


def _while_training(run: TrainedRun, base: Tried, judged: Tried | None) -> list[Tried]:
    """The evaluations that metrics.csv logs; scored by the reference that `offrl eval` took."""
    settings, online = run.run.settings, run.run.online or {}
    path = run.dir / f"seed_{base.seed}" / "metrics.csv"
    key = "step" if run.run.online is None else "env_step"
    if judged is not None and judged.env == base.env:
        known = judged.reference
    else:
        own = base.env == run.run.env
        known = lookup(base.env, settings.dataset if own else None)
    rows: list[Tried] = []
    for at, metrics in read_metrics(path, up_to=2**62, key=key):
        if TRIED not in metrics:
            continue
        steps = {"step": at} if key == "step" else {"step": int(metrics["step"]), "env_step": at}
        more = {
            "source": "training",
            "picked": NOT_PICKED,
            "n_episodes": int(online.get("eval_episodes", settings.eval_episodes)),
            "episode_seed": base.seed,
            "return_mean": metrics[TRIED],
            "score": score(metrics[TRIED], known),
            "reference": known,
        }
        rows.append(Tried(**{**vars(base), **steps, **more}))
    return rows


def settings_in(run: TrainedRun) -> dict[str, Any]:
    """Return what was set of a run, by the name that its column has."""
    settings = {k: v for k, v in vars(run.run.settings).items() if k not in _OWN_COLUMN}
    acting = {f"online.{k}": v for k, v in (run.run.online or {}).items()}
    taken = {*_columns(), *settings}
    name = run.run.algorithm
    config = {k if k not in taken else f"{name}.{k}": v for k, v in run.run.config.items()}
    return {**settings, **acting, **config}


def varied(runs: Sequence[TrainedRun]) -> list[str]:
    """Return the settings on which runs that have them do not agree, in order of appearance."""
    values: dict[str, set[str]] = {}
    for run in runs:
        own: Mapping[str, Any] = settings_in(run)
        for name, value in own.items():
            values.setdefault(name, set()).add(json.dumps(value, default=str))
    return [name for name, seen in values.items() if len(seen) > 1]
