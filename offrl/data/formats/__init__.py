"""Foreign formats: each module reads one and yields episodes; nothing else knows it."""

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from offrl.data.catalogue import check_id
from offrl.data.dataset import Dataset
from offrl.data.episodes import leaves
from offrl.data.formats.sources import NAMES, digest_of, format_of
from offrl.data.formats.steps import Imported, limited
from offrl.data.metadata import env_spec_json
from offrl.data.spec import Spec
from offrl.errors import ConfigError, suggest

# The function that reads each format; its keyword arguments are the options of the format.
READERS = {
    "d4rl": "d4rl:read",
    "npz": "npz:read",
    "rllib": "rllib:read",
    "csv": "tables:read",
    "parquet": "tables:read",
}
_SPACES = ("observation_space", "action_space")


def import_file(
    path: str | Path,
    out: str | None = None,
    *,
    format: str | None = None,
    env: str | None = None,
    time_limit: int | None = None,
    observation_space: spaces.Space[Any] | None = None,
    action_space: spaces.Space[Any] | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Dataset:
    """Return the dataset that a foreign file holds, saved under the id `out` where one is given.

    The format is found from the contents where it is not named. `env` names the environment that
    the log comes from; it is not made, so give its `action_space` where bounds matter. Episodes of
    exactly `time_limit` steps are truncated, whatever the file calls their end. `options` are those
    of the format (see `docs/formats.md`). What was assumed is in
    `dataset.metadata["offrl"]["import"]["notes"]`, what contradicts itself in `findings`.
    Raises ConfigError for options that are off, CorruptDataError naming row and column,
    UnsafeDataError for a file that would run code or read another file.
    """
    file = Path(path).expanduser()
    if out is not None:
        check_id(out)
    kind = format_of(file, format)
    spec_text = env_spec_json(env)
    module, name = READERS[kind].split(":")
    reader = getattr(import_module(f"offrl.data.formats.{module}"), name)
    given = {key: value for key, value in options.items() if value is not None}
    for key, space in (("observation_space", observation_space), ("action_space", action_space)):
        if space is not None and key in inspect.signature(reader).parameters:
            given[key] = space
    _refuse_unknown(kind, options_of(reader), given)
    made: Imported = limited(reader(file, **given), time_limit)
    source = {
        "format": kind,
        "file": file.name,
        "sha256": digest_of(file),
        "rows": made.rows,
        "options": {
            key: value
            for key, value in {**options, "time_limit": time_limit}.items()
            if value is not None
        },
    }
    data = dataset_of(made, source, id=out or file.stem, env=spec_text)
    return data if out is None else data.save(out, overwrite=overwrite)


def dataset_of(
    made: Imported, source: Mapping[str, Any], *, id: str, env: str | None = None
) -> Dataset:
    """Return what an importer made as a dataset in memory that says where it comes from."""
    held = Dataset.from_episodes(made.episodes, made.observation_space, made.action_space)
    own: dict[str, Any] = {
        "import": {
            **source,
            "notes": [*made.notes, *_not_finite(held)],
            "findings": [finding.to_dict() for finding in made.findings],
        }
    }
    if made.columns is not None:
        own["columns"] = made.columns.to_json()
    metadata: dict[str, Any] = {"offrl": json.loads(json.dumps(own))}
    if env is not None:
        metadata["env_spec"] = env
    spec = Spec(made.observation_space, made.action_space, made.columns)
    return Dataset(held.episodes, spec, id=id, metadata=metadata)


def _not_finite(data: Dataset) -> list[str]:
    columns = (
        leaf
        for episode in data
        for value in (episode.observations, episode.actions, episode.rewards)
        for _, leaf in leaves(value)
        if leaf.dtype.kind == "f"
    )
    count = sum(int(np.count_nonzero(~np.isfinite(leaf))) for leaf in columns)
    return [f"values that are not finite, which offrl data check names: {count}"] if count else []


def dataset_of_frame(frame: Any, id: str, roles: Mapping[str, Any]) -> Dataset:
    """Return the dataset of a data frame whose columns have the roles of `tables.Roles`."""
    from offrl.data.formats.table_files import table_of_frame
    from offrl.data.formats.tables import Roles, episodes_of_table

    _refuse_unknown("dataframe", known_roles(), roles)
    made = episodes_of_table(table_of_frame(frame), Roles(**roles))
    return dataset_of(made, {"format": "dataframe", "rows": made.rows}, id=id)


def known_roles() -> list[str]:
    """Return the names of the options that tables have."""
    from offrl.data.formats.tables import Roles

    return [field.name for field in fields(Roles)]


def options_of(reader: Any) -> list[str]:
    """Return the names of the options that the reader of a format takes."""
    parameters = inspect.signature(reader).parameters.values()
    named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return [*named, *(known_roles() if open_ended else ())]


def _refuse_unknown(kind: str, known: Sequence[str], given: Mapping[str, Any]) -> None:
    python = kind == "dataframe"
    # The spaces are objects: a command line names the environment that they are taken from.
    known = list(dict.fromkeys("env" if name in _SPACES else name for name in known))
    written = {name: name if python else f"--{name.replace('_', '-')}" for name in known}
    for name in given:
        if name not in (*known, *_SPACES):
            word = name if python else f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"{word} means nothing for {NAMES.get(kind, 'a data frame')}."
                f"{suggest(word, written.values())}",
                f"Its options are {', '.join(written.values())}.",
            )
