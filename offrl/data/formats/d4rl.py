"""D4RL's flat HDF5: one row per step, all episodes one after another.

observations actions rewards terminals [timeouts] [next_observations]    N rows
infos/...            N rows, kept; infos/action_log_probs is the behaviour's log-probability
metadata/...         about the policy that was run; left aside

Without next_observations the state after a time-out is not in the file. `boundaries="d4rl"` drops
such steps as D4RL's `qlearning_dataset` does; `keep` lets the state before stand in for it.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from offrl.data.formats.bounds import Bounds, action_space_of, observation_space_of
from offrl.data.formats.sources import REMEDY
from offrl.data.formats.steps import Boundaries, Imported, Split, Steps, episodes_of
from offrl.data.hdf5_scan import (
    READ_ERRORS,
    Declared,
    declared_column,
    hard_links,
    unreadable_file,
)
from offrl.data.hdf5_store import read_column
from offrl.errors import ConfigError, CorruptDataError, suggest

NEEDED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "next_observations")
LOG_PROB = "infos/action_log_probs"


def read(
    path: Path,
    *,
    boundaries: Boundaries = "keep",
    split: Split = "flags",
    action_bounds: Bounds | None = None,
    observation_space: spaces.Space[Any] | None = None,
    action_space: spaces.Space[Any] | None = None,
) -> Imported:
    """Return the episodes of a D4RL file.

    Raises ConfigError for an HDF5 file that is something else, CorruptDataError naming the column
    that does not fit, UnsafeDataError for one that leads out of the file.
    """
    try:
        with h5py.File(path, "r") as file:
            declared = _declared(file, path)
            steps, notes = _steps(file, path, declared)
    except READ_ERRORS as error:
        raise unreadable_file(path, error) from error
    episodes, findings, more = episodes_of(steps, boundaries=boundaries, split=split)
    space, assumed = action_space_of(steps.action, action_space, action_bounds, unit=True)
    return Imported(
        episodes,
        observation_space_of(steps.obs, observation_space),
        space,
        (*notes, *more, *assumed),
        tuple(findings),
        rows=len(steps),
    )


def _declared(file: h5py.File, path: Path) -> dict[str, Declared]:
    """The columns of the file, found safe before a value is read."""
    declared: dict[str, Declared] = {}
    for name, _ in hard_links(file, path):
        found = h5py.h5g.get_objinfo(file.id, name)
        text = name.decode("utf-8")
        if found.type == h5py.h5g.DATASET:
            declared[text] = declared_column(h5py.h5d.open(file.id, name), path, name)
        elif found.type == h5py.h5g.GROUP and text == "episode_0":
            raise ConfigError(
                f"{path} is a Minari dataset, which needs no import.", f"offrl data show {path}"
            )
    for key in NEEDED:
        if key not in declared:
            raise ConfigError(
                f"{path} has no '{key}'.{suggest(key, declared)}",
                f"A D4RL file has {', '.join(NEEDED)}; this one has"
                f" {', '.join(sorted(declared)[:12]) or 'nothing'}.",
            )
    return declared


def _require_chunks(file: h5py.File, path: Path, key: str) -> None:
    """Raise CorruptDataError where blocks of a column lie outside it; zeros would be read instead.

    Older files have an index of the blocks that no checksum covers.
    """
    column = h5py.h5d.open(file.id, key.encode())
    made = column.get_create_plist()
    if made.get_layout() != h5py.h5d.CHUNKED:
        return
    steps, shape = made.get_chunk(), column.shape
    places: list[tuple[int, ...]] = []
    column.chunk_iter(lambda block: places.append(block.chunk_offset if block.byte_offset else ()))
    inside = {
        place
        for place in places
        if place
        and all(at % step == 0 and at < n for at, step, n in zip(place, steps, shape, strict=True))
    }
    if len(inside) < len(places):
        raise CorruptDataError(
            f"{path}: '{key}' has {len(places) - len(inside)} of its blocks in the wrong place.",
            REMEDY,
        )


def _steps(file: h5py.File, path: Path, declared: dict[str, Declared]) -> tuple[Steps, list[str]]:
    shape = declared["rewards"].shape
    n = shape[0] if shape else 0

    def column(key: str) -> npt.NDArray[Any]:
        found = declared[key]
        if found.dtype.kind not in "biuf":
            raise CorruptDataError(f"{path}: '{key}' is {found.dtype}, not numbers.", REMEDY)
        if not found.shape or found.shape[0] != n:
            rows = found.shape[0] if found.shape else 0
            raise CorruptDataError(
                f"{path}: '{key}' has {rows} rows, where 'rewards' has {n}.", REMEDY
            )
        _require_chunks(file, path, key)
        return read_column(file.id, key)

    notes: list[str] = []
    obs, actions = column("observations"), column("actions")
    obs = obs[:, None] if obs.ndim == 1 else obs
    if actions.dtype.kind in "iu":
        actions = actions.reshape(-1) if actions.ndim == 2 and actions.shape[1] == 1 else actions
    elif actions.ndim == 1:
        actions = actions[:, None]
    next_obs = column("next_observations") if "next_observations" in declared else None
    if next_obs is not None:
        next_obs = next_obs.reshape(obs.shape) if next_obs.size == obs.size else next_obs
        if next_obs.shape != obs.shape:
            raise CorruptDataError(
                f"{path}: 'next_observations' has the shape {next_obs.shape}, 'observations'"
                f" {obs.shape}.",
                REMEDY,
            )
    truncated = np.zeros(n, dtype=bool)
    if "timeouts" in declared:
        truncated = _flags(path, "timeouts", column("timeouts"))
    else:
        notes.append("the file has no timeouts: only terminal steps end an episode")
    infos: dict[str, Any] = {}
    log_prob = None
    for key in sorted(declared):
        if not key.startswith("infos/"):
            continue
        if key == LOG_PROB:
            log_prob = column(key).reshape(-1).astype(np.float64)
            notes.append(f"{LOG_PROB} is taken as the behaviour's log-probability of each action")
        elif declared[key].shape[:1] == (n,) and declared[key].dtype.kind in "biuf":
            _place(infos, key.split("/")[1:], column(key))
        else:
            notes.append(f"left aside: {key}, which has no row per step")
    others = [k for k in declared if k not in (*NEEDED, *OPTIONAL) and not k.startswith("infos/")]
    if others:
        shown = ", ".join(sorted(others)[:6]) + (" ..." if len(others) > 6 else "")
        notes.append(f"left aside: {shown}")
    return Steps(
        obs=obs,
        action=actions,
        reward=column("rewards").reshape(-1).astype(np.float64),
        terminated=_flags(path, "terminals", column("terminals")),
        truncated=truncated,
        next_obs=next_obs,
        log_prob=log_prob,
        infos=infos,
    ), notes


def _place(infos: dict[str, Any], keys: list[str], values: npt.NDArray[Any]) -> None:
    *parents, last = keys
    for parent in parents:
        infos = infos.setdefault(parent, {})
    infos[last] = values


def _flags(path: Path, key: str, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    flat = values.reshape(-1)
    wrong = np.flatnonzero((flat != 0) & (flat != 1))
    if wrong.size or flat.shape[0] != values.shape[0]:
        row = int(wrong[0]) if wrong.size else 0
        raise CorruptDataError(
            f"{path}: '{key}' is {flat[row]} in row {row}, neither 0 nor 1.", REMEDY
        )
    return flat.astype(bool)
