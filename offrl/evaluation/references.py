"""What a random and an expert policy get in an environment, and the score that follows.

score = 100 (return - random) / (expert - random), returns being undiscounted sums of raw rewards.
`references.toml` is the registry; a dataset's own `ref_min_score` and `ref_max_score` go first.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

from offrl.errors import ConfigError, CorruptDataError


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
