"""What a random and an expert policy get in an environment, and the score that follows.

score = 100 (return - random) / (expert - random), returns being undiscounted sums of raw rewards.
`references.toml` is the registry; a dataset's own `ref_min_score` and `ref_max_score` go first.
What offrl measured of an environment whose scores follow D4RL is told beside it and scores nothing,
so that a score means what it does in papers.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

from offrl.errors import ConfigError, CorruptDataError, NotFoundError, suggest
from offrl.evaluation.statistics import mean_interval


@dataclass(frozen=True)
class Reference:
    """Mean returns of a random and of an expert policy, and where the two numbers come from."""

    task: str
    random: float
    expert: float
    source: str
    note: str = ""
    max_steps: int | None = None  # steps of an episode when the two were made
    policy: str | None = None  # the rest is known where offrl measured them itself: the expert
    n: int | None = None  # episodes of each
    seed: int | None = None
    random_std: float | None = None
    expert_std: float | None = None
    versions: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what is known, as JSON."""
        return {key: value for key, value in vars(self).items() if value not in (None, "")}


@dataclass(frozen=True)
class Measured:
    """Returns of a random and perhaps of an expert policy in an environment, as offrl saw them."""

    env: str
    n: int  # episodes of each
    random: float
    random_std: float
    source: str
    expert: float | None = None
    expert_std: float | None = None
    policy: str | None = None  # the expert
    seed: int | None = None
    max_steps: int | None = None
    versions: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what is known, with Student-t intervals of the means, as JSON."""
        known = {key: value for key, value in vars(self).items() if value is not None}
        for name in ("random", "expert"):
            mean, std = known.get(name), known.get(f"{name}_std")
            if mean is not None and std is not None:
                known[f"{name}_ci"] = list(mean_interval(mean, std, self.n))
        return known


@dataclass(frozen=True)
class _Row:
    reference: Reference
    datasets: tuple[str, ...]
    envs: tuple[str, ...]


@cache
def _rows() -> tuple[_Row, ...]:
    text = files("offrl.evaluation").joinpath("references.toml").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = tomllib.loads(text)["reference"]
    return tuple(
        _Row(
            datasets=tuple(row.pop("datasets")),
            envs=tuple(row.pop("envs")),
            reference=Reference(**row),
        )
        for row in rows
    )


@cache
def _measured() -> tuple[Measured, ...]:
    text = files("offrl.evaluation").joinpath("references.toml").read_text(encoding="utf-8")
    own = tuple(Measured(**row) for row in tomllib.loads(text)["measured"])
    scoring = [(row.envs, row.reference) for row in _rows() if row.reference.n is not None]
    return own + tuple(_as_measured(env, known) for envs, known in scoring for env in envs)


def _as_measured(env: str, known: Reference) -> Measured:
    shared = ("n", "random", "random_std", "source", "expert", "expert_std", "policy")
    values: dict[str, Any] = {k: getattr(known, k) for k in (*shared, "max_steps", "versions")}
    return Measured(env=env, seed=known.seed, **values)


def measured(env_id: str) -> Measured | None:
    """Return what offrl measured in an environment; None where it did not."""
    return next((one for one in _measured() if one.env == env_id), None)


def tell(name: str) -> tuple[Reference | None, Measured | None]:
    """Return by what an environment, or a dataset, is scored, and what offrl measured in it.

    Raises NotFoundError, with the nearest name, where there is neither.
    """
    scoring, own = lookup(name) or lookup(dataset_id=name), measured(name)
    if scoring is None and own is None:
        names = {one.env for one in _measured()} | {e for row in _rows() for e in row.envs}
        raise NotFoundError(
            f"Nobody measured a random and an expert policy in '{name}'.{suggest(name, names)}",
            "Collect episodes of both: offrl collect --env ENV --policy random --episodes 100.",
        )
    return scoring, own


def references() -> tuple[Reference, ...]:
    """Return every reference in offrl's registry."""
    return tuple(row.reference for row in _rows())


def lookup(
    env_id: str | None = None,
    dataset_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Reference | None:
    """Return the reference for a dataset or an environment, None where nobody has measured one.

    `metadata` (a dataset's `ref_min_score` and `ref_max_score`) goes before `dataset_id`, and that
    before `env_id`. Raises CorruptDataError where the metadata holds something but numbers.
    """
    row = next((r for r in _rows() if _fits(dataset_id, r.datasets)), None)
    row = row or next((r for r in _rows() if _fits(env_id, r.envs)), None)
    known = row.reference if row is not None else None
    low, high = (_number(metadata, key) for key in ("ref_min_score", "ref_max_score"))
    if low is None or high is None:
        return known
    if known is not None and (low, high) == (known.random, known.expert):
        return replace(known, source=f"the dataset's metadata, as in {known.source}")
    return Reference(
        task=dataset_id or env_id or "dataset",
        random=low,
        expert=high,
        source="the dataset's metadata (ref_min_score, ref_max_score)",
        note=known.note if known is not None else "",
    )


def require_apart(reference: Reference) -> Reference:
    """Return `reference`; raises ConfigError where its two returns are equal, so divide nothing."""
    if reference.random == reference.expert:
        raise ConfigError(
            f"The reference scores of {reference.task} are equal ({reference.random:g} for a random"
            " and for an expert policy), so no score can be told.",
            f"Correct them in {reference.source}.",
        )
    return reference


def score(episode_return: float, reference: Reference | None) -> float | None:
    """Return 100 (return - random) / (expert - random); None where there is no reference.

    Raises ConfigError where the two references are equal.
    """
    if reference is None:
        return None
    require_apart(reference)
    return 100.0 * (episode_return - reference.random) / (reference.expert - reference.random)


def _fits(name: str | None, patterns: tuple[str, ...]) -> bool:
    return name is not None and any(fnmatchcase(name, pattern) for pattern in patterns)


def _number(metadata: Mapping[str, Any] | None, key: str) -> float | None:
    value = None if metadata is None else metadata.get(key)
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise CorruptDataError(
            f"metadata.json: {key} is {value!r}, not a number.",
            "Correct it, or remove it to use offrl's own references.",
        )
    return number
