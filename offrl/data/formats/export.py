"""Datasets as files that other tools read: D4RL's flat HDF5, Parquet and CSV tables.

A table has a row for each step and, where it says something new, a last row per episode with
neither action nor reward: the state after the last action. What `offrl data import` makes of an
export is the dataset again, as far as the format can hold it.
"""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from offrl.data.dataset import Dataset, load
from offrl.data.durable import write_file
from offrl.data.episodes import Episode, info_of_actions, leaves
from offrl.data.formats.table_files import guarded
from offrl.errors import ConfigError, OffrlError, suggest

SUFFIXES = {".hdf5": "d4rl", ".h5": "d4rl", ".parquet": "parquet", ".csv": "csv"}
_ENDS = {(False, False): None, (True, False): "terminated", (False, True): "truncated",
         (True, True): "both"}  # fmt: skip
Cells = list[Any]  # str, int, float or None, one per row


@dataclass(frozen=True)
class Exported:
    """A file that was written, and the words that import it again."""

    path: Path
    format: str
    rows: int
    bytes: int
    notes: tuple[str, ...]
    import_options: tuple[str, ...]


def export_file(
    data: Dataset | str | Path,
    path: str | Path,
    *,
    format: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a dataset as a foreign file, whole or not at all.

    The format is that of the name's ending where it is not given. Raises ConfigError for a file
    that exists or a format that is unknown, OffrlError where the disk refuses.
    """
    file = Path(path).expanduser()
    kind = format or SUFFIXES.get(file.suffix.lower())
    if kind not in WRITERS:
        raise ConfigError(
            f"There is no format '{kind}'.{suggest(kind, WRITERS)}"
            if kind
            else f"The name of {file} does not say a format.",
            f"Give --format {'|'.join(WRITERS)}.",
        )
    if file.is_dir() or (file.exists() and not overwrite):
        raise ConfigError(f"{file} exists already.", "Choose another name, or give --overwrite.")
    if not file.parent.is_dir():
        raise ConfigError(f"There is no folder {file.parent}.", "Make it first.")
    opened = data if isinstance(data, Dataset) else load(data)
    content, rows, notes, options = WRITERS[kind](opened)
    try:
        write_file(file, content)
    except OSError as error:
        raise OffrlError(
            f"{file} could not be written: {error.strerror or error}.",
            "Make room, or choose another folder.",
        ) from error
    return Exported(file, kind, rows, len(content), tuple(notes), tuple(options))


Written = tuple[bytes, int, list[str], list[str]]


def _d4rl(data: Dataset) -> Written:
    spec, notes = data.spec, []
    plain = isinstance(spec.observation_space, spaces.Box)
    if not plain:
        notes.append("the parts of the observations became the columns of one array")
    columns: dict[str, list[npt.NDArray[Any]]] = {}
    infos = _kept_infos(data)
    for episode in data:
        obs = episode.observations if plain else spec.flatten_obs(episode.observations)
        rows: dict[str, npt.NDArray[Any]] = {
            "observations": obs[:-1],
            "next_observations": obs[1:],
            "actions": episode.actions,
            "rewards": episode.rewards,
            "terminals": episode.terminations,
            "timeouts": episode.truncations,
        }
        for path in infos:
            rows[f"infos/{path}"] = _info(episode, path)
        if data.log_prob != "none":
            rows["infos/action_log_probs"] = episode.behavior_log_prob
        for name, column in rows.items():
            columns.setdefault(name, []).append(column)
    with h5py.File("export.hdf5", "w", driver="core", backing_store=False) as file:
        for name, parts in columns.items():
            # Compression, as in D4RL's own files; the checksum finds a flipped bit.
            file.create_dataset(
                name, data=np.concatenate(parts), compression="gzip", fletcher32=True
            )
        file.attrs["dataset"] = data.id
        file.flush()
        content = bytes(file.id.get_file_image())
    return content, data.n_steps, notes, _space_words(data, named=False)


def _kept_infos(data: Dataset) -> list[str]:
    """Infos of every episode that are numbers of one shape, one row per step (or one more)."""
    common: dict[str, tuple[Any, ...]] | None = None
    for episode in data:
        found = {
            path: (column.shape[1:], column.dtype)
            for path, column in leaves(episode.infos)
            if path != "behavior_log_prob"
            and column.dtype.kind in "biuf"
            and len(column) in (len(episode), len(episode) + 1)
        }
        common = found if common is None else {
            path: kind for path, kind in common.items() if found.get(path) == kind
        }  # fmt: skip
    return sorted(common or {})


def _info(episode: Episode, path: str) -> npt.NDArray[Any]:
    *parents, last = path.split("/")
    place: Any = episode.infos
    for parent in parents:
        place = place[parent]
    rows = info_of_actions(Episode(
        episode.id, episode.observations, episode.actions, episode.rewards, episode.terminations,
        episode.truncations, {last: place[last]},
    ), last)  # fmt: skip
    return np.asarray(rows)


def _csv(data: Dataset) -> Written:
    columns, notes, options = _table(data)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([guarded(name) for name in columns])
    shown = [[_cell(value) for value in column] for column in columns.values()]
    writer.writerows(zip(*shown, strict=True))
    return text.getvalue().encode(), len(shown[0]), notes, options


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    return guarded(value) if isinstance(value, str) else str(value)


def _parquet(data: Dataset) -> Written:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigError(
            "Writing Parquet needs pyarrow, which is not installed.",
            "Install it: pip install 'offrl[arrow]', or use --format csv.",
        ) from error
    columns, notes, options = _table(data)
    made = pa.table({name: pa.array(cells) for name, cells in columns.items()})
    sink = io.BytesIO()
    pq.write_table(made, sink)
    return sink.getvalue(), made.num_rows, notes, options


WRITERS: dict[str, Callable[[Dataset], Written]] = {
    "d4rl": _d4rl,
    "parquet": _parquet,
    "csv": _csv,
}


def _table(data: Dataset) -> tuple[dict[str, Cells], list[str], list[str]]:
    """The columns of a table of all steps, what is left out, and how it is imported again."""
    spec = data.spec
    described = spec.columns
    if described is not None:
        obs_names = [column.name for column in described.obs]
        action_names = [column.name for column in described.action]
    else:
        obs_names = list(_obs_cells(data, data[0]))
        width = spec.action_dim
        action_names = ["action"] if spec.discrete else [f"action_{i}" for i in range(width)]
    taken = {*obs_names, *action_names}
    own = {word: _free(word, taken) for word in ("episode", "time", "reward", "ends", "log_prob")}
    masked = all("action_mask" in episode.infos for episode in data)
    logged = data.log_prob == "logged"
    names = [own["episode"], own["time"], *obs_names, *action_names, own["reward"], own["ends"]]
    names += [own["log_prob"]] if logged else []
    names += [_free("action_mask", taken)] if masked else []
    columns: dict[str, Cells] = {name: [] for name in names}
    for number, episode in enumerate(data):
        for name, cells in _episode_cells(data, number, episode, own, action_names).items():
            if name in columns:
                columns[name] += cells
        if masked:
            final = [None] * (len(columns[own["episode"]]) - len(columns[names[-1]]) - len(episode))
            masks = np.asarray(episode.infos["action_mask"])[-len(episode) :]
            columns[names[-1]] += ["".join("01"[int(m)] for m in mask) for mask in masks] + final
    notes = ["infos other than the log-probability are left out"] if _kept_infos(data) else []
    if data.log_prob == "partial":
        notes.append("the log-probability is not known at every step and is left out")
    options = [
        "--episode", own["episode"], "--time", own["time"], "--obs", _words(obs_names),
        "--action", _words(action_names), "--reward", own["reward"], "--ends", own["ends"],
    ]  # fmt: skip
    if described is not None and described.categories:
        options += ["--categories", _words([column.name for column in described.categories])]
    options += _space_words(data, named=True)
    options += ["--log-prob", own["log_prob"]] if logged else []
    options += ["--action-mask", names[-1]] if masked else []
    return columns, notes, options


def _words(names: Sequence[str]) -> str:
    """Names as one option has them; a comma inside a name is any character there."""
    return ",".join(name.replace(",", "?") for name in names)


def _space_words(data: Dataset, *, named: bool) -> list[str]:
    """Options that say of the action space what the rows do not show."""
    space, described = data.spec.action_space, data.spec.columns
    if isinstance(space, spaces.Box):
        low, high = float(space.low.flat[0]), float(space.high.flat[0])
        alike = bool((space.low == low).all() and (space.high == high).all())
        bounded = alike and math.isfinite(low) and math.isfinite(high)
        return ["--action-bounds", f"{low!r},{high!r}"] if bounded else []
    if not named or not isinstance(space, spaces.Discrete):
        return []
    numbers = np.arange(int(space.n)) + int(space.start)
    values = described.decode_actions(numbers) if described else numbers
    texts = [str(value) for value in np.asarray(values).tolist()]
    if values is numbers and space.start >= 0:
        return ["--action-values", f"{texts[0]}-{texts[-1]}"]
    return [] if any("," in text for text in texts) else ["--action-values", ",".join(texts)]


def _free(word: str, taken: set[str]) -> str:
    while word in taken:
        word += "_"
    return word


def _episode_cells(
    data: Dataset, number: int, episode: Episode, own: Mapping[str, str], actions: list[str]
) -> dict[str, Cells]:
    obs = _obs_cells(data, episode)
    last = len(episode)
    # A state that only repeats the one before a terminal end says nothing: no row for it.
    says = not episode.terminations[-1] or any(
        cells[last] != cells[last - 1] for cells in obs.values()
    )
    rows, blank = (last + 1, [None]) if says else (last, [])
    ends = zip(episode.terminations.tolist(), episode.truncations.tolist(), strict=True)
    log_prob: Cells = episode.behavior_log_prob.tolist()
    return {
        own["episode"]: [number] * rows,
        own["time"]: list(range(rows)),
        **{name: cells[:rows] for name, cells in obs.items()},
        **{name: cells + blank for name, cells in _action_cells(data, episode, actions).items()},
        own["reward"]: episode.rewards.tolist() + blank,
        own["ends"]: [_ENDS[end] for end in ends] + blank,
        own["log_prob"]: log_prob + blank,
    }


def _obs_cells(data: Dataset, episode: Episode) -> dict[str, Cells]:
    """The observation columns of an episode, T+1 rows each."""
    described = data.spec.columns
    if described is not None:
        decoded = described.decode_obs(episode.observations)
        return {name: cells.tolist() for name, cells in decoded.items()}
    found: dict[str, Cells] = {}
    parts = dict(leaves(episode.observations))
    for part in data.spec.obs_parts:
        label, leaf = part.path.replace("/", ".") or "obs", parts[part.path]
        if part.kind == "text" or not part.shape:
            found[label] = leaf.tolist()
            continue
        flat = leaf.reshape(len(leaf), -1)
        found |= {f"{label}_{i}": flat[:, i].tolist() for i in range(flat.shape[1])}
    return found


def _action_cells(data: Dataset, episode: Episode, names: list[str]) -> dict[str, Cells]:
    described = data.spec.columns
    if data.spec.discrete:
        values = described.decode_actions(episode.actions) if described else episode.actions
        return {names[0]: np.asarray(values).tolist()}
    flat = episode.actions.reshape(len(episode), -1)
    return {name: flat[:, i].tolist() for i, name in enumerate(names)}
