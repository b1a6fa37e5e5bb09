"""Lineage: what a dataset was made from, kept in its metadata under `offrl.lineage`.

    {"by": "filter",                                  filter, split or mix
     "rule": {"top": 0.1},                            what was asked, seeds included
     "sources": [{"dataset": ID, "fingerprint": "sha256:...", "episodes": 100, "steps": 20000,
                  "taken": {"episodes": 10, "steps": 2000}, "lineage": {...}}]}

A source that was itself made from others carries its own lineage, so the whole descent is there.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from offrl.data.dataset import Dataset

KEY = "lineage"
_IMPORT = "import"  # what an importer found, by the numbers that episodes had then
_UNIONS = ("author", "author_email", "requirements")
# What holds for a mixture only where it holds for every source.
_SHARED = (
    "algorithm_name", "code_permalink", "description", "env_spec", "eval_env_spec",
    "num_episodes_average_score", "ref_max_score", "ref_min_score",
)  # fmt: skip


def own(data: Dataset) -> dict[str, Any]:
    """Return what the metadata holds under `offrl`, the fingerprint left out."""
    found = data.metadata.get("offrl")
    found = found if isinstance(found, dict) else {}
    return {key: value for key, value in found.items() if key not in ("fingerprint", "format")}


def source(
    data: Dataset, fingerprint: str, steps: int, taken: Mapping[str, int], **more: Any
) -> dict[str, Any]:
    """Return the entry of one source."""
    entry: dict[str, Any] = {
        "dataset": data.id,
        "fingerprint": fingerprint,
        "episodes": len(data),
        "steps": steps,
        "taken": dict(taken),
        **more,
    }
    for key in (KEY, _IMPORT):
        before = own(data).get(key)
        if before is not None:
            entry.setdefault(key, before)
    return entry


def record(
    by: str, rule: Mapping[str, Any], sources: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the lineage of a dataset."""
    return {"by": by, "rule": dict(rule), "sources": [dict(entry) for entry in sources]}


def derived(data: Dataset, lineage: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a part of a dataset: everything that was said of the whole."""
    kept = {key: value for key, value in own(data).items() if key != _IMPORT}
    return {**data.metadata, "offrl": {**kept, KEY: dict(lineage)}}


def merged(
    sources: Sequence[Dataset], lineage: Mapping[str, Any], behaviors: Sequence[Any]
) -> dict[str, Any]:
    """Return the metadata of a mixture: what all sources agree on, authors of each, the lineage.

    Reference scores belong to the environment: they are kept where all sources have the same
    environment and those that have scores agree.
    """
    tables = [data.metadata for data in sources]
    one_env = len({data.env_id for data in sources}) == 1
    kept: dict[str, Any] = {}
    for key in _SHARED:
        values = [table.get(key) for table in tables]
        same = all(value == values[0] for value in values)
        if key == "env_spec":
            same = one_env
        elif key.startswith("ref_") or key == "num_episodes_average_score":
            same = same and one_env
        if same and values[0] is not None:
            kept[key] = values[0]
    for key in _UNIONS:
        listed = _union(table.get(key) for table in tables)
        if listed:
            kept[key] = listed
    kept["combined_datasets"] = [data.id for data in sources]
    names = ", ".join(data.id for data in sources)
    kept.setdefault("description", f"A mixture of {names}.")
    ours = [own(data) for data in sources]
    agreed = {
        key: value
        for key, value in ours[0].items()
        if key not in (KEY, "references") and all(other.get(key) == value for other in ours[1:])
    }
    scores = [table["references"] for table in ours if table.get("references") is not None]
    if one_env and scores and all(one == scores[0] for one in scores):
        agreed["references"] = scores[0]
    if behaviors:
        agreed["behaviors"] = list(behaviors)
    return {**kept, "offrl": {**agreed, KEY: dict(lineage)}}


def _union(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        for item in [value] if isinstance(value, str) else list(value or ()):
            if item not in found:
                found.append(item)
    return found


def sentence(lineage: Any) -> str | None:
    """Return where a dataset comes from as one line for a person, None where nothing is said."""
    if not isinstance(lineage, Mapping) or not isinstance(lineage.get("sources"), list):
        return None
    names = [
        str(entry["dataset"])
        for entry in lineage["sources"]
        if isinstance(entry, Mapping) and "dataset" in entry
    ]
    rule = json.dumps(lineage.get("rule"))
    shown = rule if len(rule) <= 200 else f"{rule[:197]}..."
    return f"{lineage.get('by')} of {', '.join(names)} by {shown}"
