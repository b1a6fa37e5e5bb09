"""The table of a sweep: a row a trial, in one Parquet file, and its means over seeds."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import Any

from offrl.data.durable import write_file
from offrl.errors import ConfigError, OffrlError
from offrl.evaluation.statistics import interval, mean
from offrl.run import FORMAT, current_versions
from offrl.sweeps.trials import Trial

RESULTS = "results.parquet"
_FIXED: dict[str, type] = {
    "algo": str,
    "dataset": str,
    "fingerprint": str,
    "seed": int,
    "status": str,
    "error": str,
    "n_episodes": int,
    "return_mean": float,
    "return_std": float,
    "score": float,
    "length_mean": float,
    "env": str,
    "checkpoint": str,
    "seconds": float,
    "run": str,
    "point": str,
}
_BESIDE = ("algo", "dataset", "seeds")  # settings that have a column of their own


def require_pyarrow() -> None:
    """Raise ConfigError where the table could not be written."""
    if util.find_spec("pyarrow") is None:
        raise ConfigError(
            "A sweep's table is a Parquet file, which needs pyarrow.",
            "Install it: pip install 'offrl[arrow]'",
        )


def row_of(trial: Trial, ended: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The row of a trial that `ended` just so, or, without it, as its own file says."""
    run, outcome = trial.plan.run, ended or trial.outcome
    settings = {k: v for k, v in vars(run.settings).items() if k not in _BESIDE}
    of_trial = {name: outcome.get(name) for name in _FIXED} | {
        "algo": trial.algo,
        "dataset": trial.dataset,
        "fingerprint": run.fingerprint,
        "seed": trial.seed,
        "status": outcome.get("status", "unfinished"),
        "run": str(trial.plan.dir),
        "point": trial.point,
    }
    taken = of_trial.keys() | settings.keys()
    config = {k if k not in taken else f"{trial.algo}.{k}": v for k, v in run.config.items()}
    return {**of_trial, **settings, **config}


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows as Parquet, whole or not at all; a setting that a row has not is null."""
    import pyarrow as pa
    from pyarrow import parquet

    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: _column(pa, name, [row.get(name) for row in rows]) for name in names}
    facts = {"format": FORMAT, "versions": current_versions()}
    table = pa.table(columns).replace_schema_metadata({"offrl": json.dumps(facts)})
    image = io.BytesIO()
    parquet.write_table(table, image)
    try:
        write_file(path, image.getvalue())
    except OSError as error:
        raise OffrlError(
            f"The table {path} could not be written: {error.strerror or error}.",
            "Make room or mend the permissions, then run it again; finished trials are kept.",
        ) from error


def _column(pa: Any, name: str, values: list[Any]) -> Any:
    kinds = {type(value) for value in values if value is not None} or {_FIXED.get(name, str)}
    kind = next(iter(kinds)) if len(kinds) == 1 else float if kinds == {int, float} else None
    plain = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
    if kind is None:  # algorithms whose settings of one name are of several kinds
        values, kind = [None if v is None else str(v) for v in values], str
    return pa.array(values, type=plain[kind])


def summary_of(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each dataset, algorithm and set of settings: means over seeds with intervals."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["algo"], row["point"]), []).append(row)
    return [
        {
            "dataset": dataset,
            "algo": algo,
            "point": point,
            "n_seeds": len([row for row in group if row["status"] == "finished"]),
            "of_seeds": len(group),
            "n_episodes": next((row["n_episodes"] for row in group if row["n_episodes"]), None),
            **_over_seeds("return", [row["return_mean"] for row in group]),
            **_over_seeds("score", [row["score"] for row in group]),
        }
        for (dataset, algo, point), group in groups.items()
    ]


def _over_seeds(name: str, values: list[float | None]) -> dict[str, Any]:
    there = [value for value in values if value is not None]
    bounds = interval(there)
    key = "return_mean" if name == "return" else name
    found = {key: mean(there) if there else None}
    return {**found, f"{name}_ci": None if bounds is None else list(bounds)}
