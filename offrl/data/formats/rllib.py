"""RLlib's JSON logs: one SampleBatch a line, each column a list or a packed array.

obs actions rewards dones|terminateds [truncateds] new_obs eps_id    N rows in all
action_logp or action_prob                                            of the logged action

An episode goes on from line to line under its eps_id. RLlib's policies for continuous actions work
in [-1, 1] and log that: `unit_actions` converts actions to the bounds of the environment, and
log-probabilities by the same stretch (log p - sum of log((high - low) / 2)).
"""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from offrl.data.formats.bounds import Bounds, action_space_of, observation_space_of
from offrl.data.formats.packed import is_packed, unpack
from offrl.data.formats.sources import REMEDY, ZIP_ERRORS
from offrl.data.formats.steps import Boundaries, Imported, Split, Steps, episodes_of
from offrl.errors import ConfigError, CorruptDataError, UnsafeDataError

Array = npt.NDArray[Any]
NEEDED = ("obs", "actions", "rewards")
FLAGS = {"terminated": ("terminateds", "dones", "terminations"), "truncated": ("truncateds",)}
READ = (*NEEDED, *FLAGS["terminated"], *FLAGS["truncated"], "new_obs", "eps_id", "t",
        "action_logp", "action_prob")  # fmt: skip
MAX_FILE = 2**32
_DIFFERENT = 1e-3  # between action_prob and exp(action_logp)


def read(
    path: Path,
    *,
    unit_actions: bool = False,
    boundaries: Boundaries = "keep",
    split: Split = "flags",
    action_bounds: Bounds | None = None,
    observation_space: spaces.Space[Any] | None = None,
    action_space: spaces.Space[Any] | None = None,
) -> Imported:
    """Return the episodes of a JSON file, or of a zip that holds them.

    Raises CorruptDataError naming line and column, UnsafeDataError for a packed array that would
    do more than hold numbers, ConfigError for a log of several agents.
    """
    batches = [_batch(path, number, line) for number, line in _lines(path)]
    if not batches:
        raise CorruptDataError(f"{path} has no batch in it.", REMEDY)
    steps, notes = _steps(path, batches)
    space, assumed = action_space_of(steps.action, action_space, action_bounds, unit=False)
    steps, stretched = _in_units(steps, space, unit_actions=unit_actions)
    if observation_space is not None and isinstance(observation_space, spaces.Box):
        steps = replace(
            steps,
            obs=steps.obs.astype(observation_space.dtype),
            next_obs=None if steps.next_obs is None
            else steps.next_obs.astype(observation_space.dtype),
        )  # fmt: skip
    episodes, findings, more = episodes_of(steps, boundaries=boundaries, split=split)
    return Imported(
        episodes,
        observation_space_of(steps.obs, observation_space),
        space,
        (*notes, *more, *stretched, *assumed),
        tuple(findings),
        rows=len(steps),
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1."""
    try:
        if not zipfile.is_zipfile(path):
            yield from _numbered(path.read_bytes())
            return
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.filename.endswith((".json", ".jsonl")):
                    continue
                if entry.file_size > min(MAX_FILE, 1000 * max(1, entry.compress_size)):
                    raise UnsafeDataError(
                        f"{path}: {entry.filename} declares {entry.file_size} bytes and holds"
                        f" {entry.compress_size}.",
                        "It would fill the memory.",
                    )
                yield from _numbered(archive.read(entry))
    except ZIP_ERRORS as error:
        raise CorruptDataError(f"{path} cannot be read: {error}.", REMEDY) from error


def _numbered(content: bytes) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(content.decode("utf-8-sig").split("\n"), start=1):
        if line.strip():
            yield number, line


def _batch(path: Path, number: int, line: str) -> dict[str, Array]:
    """The columns of one line that are read, all of one length."""
    where = f"{path}, line {number}"
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorruptDataError(f"{where} is not JSON: {error}.", REMEDY) from error
    kind = given.get("type") if isinstance(given, dict) else None
    if kind == "MultiAgentBatch":
        raise ConfigError(
            f"{where} is a batch of several agents.", "Write one log for each agent and import it."
        )
    if kind != "SampleBatch":
        raise CorruptDataError(f"{where} is no SampleBatch of RLlib.", REMEDY)
    for key in NEEDED:
        if key not in given:
            raise CorruptDataError(f"{where} has no '{key}'.", REMEDY)
    batch = {key: _column(where, key, given[key]) for key in READ if key in given}
    n = len(batch["rewards"])
    for key, column in batch.items():
        if len(column) != n:
            raise CorruptDataError(
                f"{where}: '{key}' has {len(column)} rows, where 'rewards' has {n}.", REMEDY
            )
    return batch


def _column(where: str, key: str, value: Any) -> Array:
    try:
        column = unpack(value) if is_packed(value) else np.array(value)
    except UnsafeDataError as error:
        raise UnsafeDataError(f"{where}: '{key}': {error.cause}", error.remedy) from error
    except ValueError as error:
        raise CorruptDataError(f"{where}: '{key}' cannot be read: {error}.", REMEDY) from error
    if column.ndim == 0 or column.dtype.kind not in "biuf":
        raise CorruptDataError(f"{where}: '{key}' is not a column of numbers.", REMEDY)
    return column


def _steps(path: Path, batches: list[dict[str, Array]]) -> tuple[Steps, list[str]]:
    keys = [key for key in READ if all(key in batch for batch in batches)]
    partial = [key for key in READ if key not in keys and any(key in b for b in batches)]
    if partial:
        raise CorruptDataError(
            f"{path}: '{partial[0]}' is in some lines and not in others.", REMEDY
        )
    try:
        columns = {key: np.concatenate([batch[key] for batch in batches]) for key in keys}
    except ValueError as error:
        raise CorruptDataError(
            f"{path}: the lines do not fit together: {error}.", REMEDY
        ) from error
    n = len(columns["rewards"])
    flags: dict[str, npt.NDArray[np.bool_]] = {}
    notes: list[str] = []
    for word, names in FLAGS.items():
        key = next((name for name in names if name in columns), None)
        flags[word] = np.zeros(n, bool) if key is None else columns[key].astype(bool).reshape(n)
        if key == "dones" and flags[word].any():
            notes.append("'dones' is taken as terminated, after which nothing follows")
    group = columns.get("eps_id")
    if group is None and "t" in columns:
        group = np.cumsum(np.diff(columns["t"], prepend=-1) != 1)
    elif group is None:
        notes.append("no eps_id: an episode ends where it is flagged and at the end of a line")
        group = np.repeat(np.arange(len(batches)), [len(batch["rewards"]) for batch in batches])
    notes += _gaps(columns, group)
    log_prob, said = _log_prob(path, columns)
    action = columns["actions"]
    if action.dtype.kind in "biu":
        action = action.astype(np.int64)
    elif action.ndim == 1:
        action = action[:, None]
    obs = columns["obs"]
    return Steps(
        obs=obs[:, None] if obs.ndim == 1 else obs,
        action=action,
        reward=columns["rewards"].astype(np.float64).reshape(n),
        terminated=flags["terminated"],
        truncated=flags["truncated"],
        next_obs=columns.get("new_obs"),
        log_prob=log_prob,
        group=group.reshape(n),
    ), [*notes, *said]


def _gaps(columns: dict[str, Array], group: Array) -> list[str]:
    if "t" not in columns:
        return []
    inside = group[1:] == group[:-1]
    broken = np.flatnonzero(inside & (np.diff(columns["t"]) != 1)) + 1
    if not broken.size:
        return []
    return [f"'t' does not count on inside an episode ({broken.size}: row {broken[0]} ...)"]


def _log_prob(
    path: Path, columns: dict[str, Array]
) -> tuple[npt.NDArray[np.float64] | None, list[str]]:
    logged, chance = columns.get("action_logp"), columns.get("action_prob")
    if chance is not None:
        chance = chance.astype(np.float64).reshape(-1)
        wrong = np.flatnonzero(~(chance > 0))
        if wrong.size and logged is None:
            raise CorruptDataError(
                f"{path}: 'action_prob' is {chance[wrong[0]]:g} in row {wrong[0]}, where a"
                " probability above 0 is expected.",
                REMEDY,
            )
    if logged is None:
        if chance is None:
            return None, ["the log has neither action_logp nor action_prob"]
        return np.log(chance), ["the log of action_prob is the behaviour's log-probability"]
    logged = logged.astype(np.float64).reshape(-1)
    notes = ["action_logp is the behaviour's log-probability"]
    if chance is not None:
        apart = np.flatnonzero(np.abs(np.exp(logged) - chance) > _DIFFERENT * (1 + chance))
        if apart.size:
            notes.append(
                f"action_prob is not exp(action_logp) in {apart.size} rows (row {apart[0]} ...);"
                " action_logp is taken"
            )
    return logged, notes


def _in_units(
    steps: Steps, space: spaces.Space[Any], *, unit_actions: bool
) -> tuple[Steps, list[str]]:
    """Actions in the units of the environment, and log-probabilities with them."""
    if not isinstance(space, spaces.Box):
        if unit_actions:
            raise ConfigError("--unit-actions: the actions are choices.", "Leave it out.")
        return steps, []
    if not np.isfinite(space.low).all() or not np.isfinite(space.high).all():
        if unit_actions:
            raise ConfigError(
                "--unit-actions needs the bounds of the environment's actions.",
                "Give --env ENV, or --action-bounds LOW,HIGH; in Python action_space=, or"
                " action_bounds=.",
            )
        return steps, []
    within = bool((np.abs(steps.action) <= 1 + 1e-6).all())
    unit = bool((space.low == -1).all() and (space.high == 1).all())
    if not unit_actions:
        action = steps.action.astype(space.dtype)
        if within and not unit:
            return replace(steps, action=action), [
                "all actions lie in [-1, 1], and the environment's bounds are others: RLlib may"
                " have logged them scaled; --unit-actions converts them"
            ]
        return replace(steps, action=action), []
    if not within:
        row = int(
            np.flatnonzero((np.abs(steps.action) > 1 + 1e-6).reshape(len(steps), -1).any(1))[0]
        )
        raise CorruptDataError(
            f"The action of row {row} is outside [-1, 1].", "Leave --unit-actions out."
        )
    half = (space.high.astype(np.float64) - space.low) / 2
    action = space.low + (steps.action.astype(np.float64) + 1) * half
    stretch = float(np.log(half).sum())
    log_prob = None if steps.log_prob is None else steps.log_prob - stretch
    note = "actions were converted from [-1, 1] to the bounds of the environment"
    if log_prob is not None:
        note += f", and log-probabilities by {-stretch:+.6g}, the log of that stretch"
    converted = np.clip(action, space.low, space.high).astype(space.dtype)
    return replace(steps, action=converted, log_prob=log_prob), [note]
