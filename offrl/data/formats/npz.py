"""npz archives: NeoRL, OGBench, imitation, and plain arrays by the names that people use.

NeoRL      obs action next_obs reward done truncated      one row per step
plain      the same by other names; eps_id, episode or index name the episodes
OGBench    observations actions terminals [masks rewards]  T+1 rows per episode, the last a state
imitation  obs acts rews terminal indices                  obs T+1 per episode, indices split acts

Object arrays are pickles and are never read. OGBench's `terminals` end the log of an episode and
its `masks` are 0 where the task is complete, after which the log goes on.
"""

import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from offrl.data.episodes import Episode
from offrl.data.formats.bounds import Bounds, action_space_of, observation_space_of
from offrl.data.formats.sources import REMEDY, ZIP_ERRORS
from offrl.data.formats.steps import (
    Boundaries,
    Imported,
    Split,
    Steps,
    episodes_of,
)
from offrl.errors import ConfigError, CorruptDataError, UnsafeDataError, suggest

Array = npt.NDArray[Any]
MAX_INFLATION, SMALL = 1000, 2**28  # a member so much larger than its bytes is made to fill memory
# Our word, and the words of others for the same column.
ALIASES: dict[str, tuple[str, ...]] = {
    "obs": ("obs", "observations", "observation", "states", "state"),
    "action": ("action", "actions", "acts"),
    "reward": ("reward", "rewards", "rews"),
    "next_obs": ("next_obs", "next_observations", "new_obs", "next_states", "obs_next"),
    "terminated": ("terminated", "terminations", "terminals", "terminal", "done", "dones"),
    "truncated": ("truncated", "truncations", "timeouts", "timeout", "truncateds"),
    "log_prob": ("behavior_log_prob", "log_prob", "log_probs", "action_logp", "logp"),
    "propensity": ("propensity", "action_prob", "behavior_prob", "pscore"),
    "episode": ("eps_id", "episode", "episode_id", "episode_ids"),
    "index": ("index",),  # NeoRL: the first row of each episode
}
_UNIT = {"ogbench", "neorl"}


class Archive(Mapping[str, Array]):
    """The members of an npz file, each read when it is asked for and never unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except ZIP_ERRORS as error:
            raise CorruptDataError(f"{path} is a damaged archive: {error}.", REMEDY) from error
        names = [name for name in self._zip.namelist() if name.endswith(".npy")]
        self._names = {name.removesuffix(".npy"): name for name in names}

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, key: str) -> Array:
        entry = self._zip.getinfo(self._names[key])
        if entry.file_size > SMALL and entry.file_size > MAX_INFLATION * entry.compress_size:
            raise UnsafeDataError(
                f"{self.path}: '{key}' declares {entry.file_size} bytes and holds"
                f" {entry.compress_size}.",
                "It would fill the memory; write the archive again.",
            )
        try:
            content = self._zip.read(entry)  # whole, so that its checksum is looked at
            _refuse_objects(self.path, key, content)
            return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
        except ZIP_ERRORS as error:
            raise CorruptDataError(f"{self.path}: '{key}' is damaged: {error}.", REMEDY) from error


def _refuse_objects(path: Path, key: str, content: bytes) -> None:
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else (
        np.lib.format.read_array_header_2_0
    )  # fmt: skip
    shape, _, dtype = header(file)
    if dtype.hasobject:
        raise UnsafeDataError(
            f"{path}: '{key}' holds Python objects, which run code when they are read.",
            "Save it as numbers, or leave it out of the archive.",
        )
    if math.prod(shape) * dtype.itemsize > len(content):
        raise ValueError(f"its header declares the shape {shape}")


def read(
    path: Path,
    *,
    boundaries: Boundaries = "keep",
    split: Split = "flags",
    masks: Literal["split", "ignore"] = "split",
    action_bounds: Bounds | None = None,
    observation_space: spaces.Space[Any] | None = None,
    action_space: spaces.Space[Any] | None = None,
) -> Imported:
    """Return the episodes of an npz archive.

    `masks="ignore"` keeps OGBench trajectories whole that go on after their task was complete.
    Raises ConfigError naming what is missing, CorruptDataError naming the member and row that does
    not fit, UnsafeDataError for a needed member that holds Python objects.
    """
    archive = Archive(path)
    kind = _kind(archive)
    if kind != "ogbench" and masks == "ignore":
        raise ConfigError(f"{path.name} has no OGBench masks.", "Leave --masks out.")
    if kind == "imitation":
        made = _imitation(archive)
    elif kind == "ogbench":
        made = _ogbench(archive, masks)
    else:
        steps, notes = _plain(archive)
        episodes, findings, more = episodes_of(steps, boundaries=boundaries, split=split)
        made = Imported(
            episodes, spaces.Discrete(1), spaces.Discrete(1), (*notes, *more), tuple(findings)
        )
    if kind in ("imitation", "ogbench") and (boundaries != "keep" or split != "flags"):
        raise ConfigError(
            f"{path.name} holds whole episodes ({kind}), whose ends are not in question.",
            "Leave --boundaries and --split out.",
        )
    first = made.episodes[0]
    actions = np.concatenate([episode.actions for episode in made.episodes])
    space, assumed = action_space_of(
        actions, action_space, action_bounds, unit=kind in _UNIT or path.name.startswith("ogbench")
    )
    return replace(
        made,
        observation_space=observation_space_of(first.observations, observation_space),
        action_space=space,
        notes=(f"read as {kind} arrays", *made.notes, *assumed),
        rows=len(actions),
    )


def _kind(archive: Archive) -> str:
    keys = set(archive)
    if {"acts", "indices", "terminal"} <= keys:
        return "imitation"
    if {"observations", "actions", "terminals"} <= keys and not keys & {
        *ALIASES["truncated"], *ALIASES["next_obs"], *ALIASES["episode"],
    }:  # fmt: skip
        return "ogbench"
    if {"obs", "action", "next_obs", "reward", "done"} <= keys:
        return "neorl"
    return "plain"


def named(archive: Mapping[str, Array], word: str) -> str | None:
    """Return the key under which a file holds one of our columns, None where it has none."""
    return next((alias for alias in ALIASES[word] if alias in archive), None)


def _needed(archive: Archive, word: str) -> tuple[str, Array]:
    key = named(archive, word)
    if key is None:
        near = suggest(word, archive)
        raise ConfigError(
            f"{archive.path} has no array of the {word}.{near}",
            f"It holds {', '.join(archive) or 'nothing'}; call one of them {word}.",
        )
    return key, archive[key]


def _plain(archive: Archive) -> tuple[Steps, list[str]]:
    """Rows under any of the usual names, and what was assumed about them."""
    notes: list[str] = []
    reward_key, reward = _needed(archive, "reward")
    n = len(reward) if reward.ndim else 0
    read: dict[str, Array] = {"reward": numbers(archive, reward_key, reward, n)}
    for word in ("obs", "action"):
        key, array = _needed(archive, word)
        read[word] = rows(archive, key, array, n)
    for word in ("next_obs", "log_prob", "propensity", "episode", "index"):
        key = named(archive, word)
        if key is not None:
            array = archive[key]
            read[word] = array if word == "index" else rows(archive, key, array, n)
    flags = {}
    for word in ("terminated", "truncated"):
        key = named(archive, word)
        flags[word] = np.zeros(n, bool) if key is None else booleans(archive, key, n)
        if key in ("done", "dones") and flags[word].any():
            notes.append(f"'{key}' is taken as terminated, after which nothing follows")
        elif key is None and word == "terminated":
            notes.append("no array says where an episode terminated")
    group = read.get("episode")
    if "index" in read:
        group = np.zeros(n, dtype=np.int64)
        group[read["index"].astype(np.int64)[read["index"] < n]] = 1
        group = np.cumsum(group)
    log_prob = read.get("log_prob")
    if log_prob is None and "propensity" in read:
        log_prob = log_of(archive, named(archive, "propensity") or "", read["propensity"])
    used = {named(archive, word) for word in ALIASES}
    notes += skipped(key for key in archive if key not in used)
    if "next_obs" in read and read["next_obs"].shape != read["obs"].shape:
        raise CorruptDataError(
            f"{archive.path}: the next observations have the shape {read['next_obs'].shape}, the"
            f" observations {read['obs'].shape}.",
            REMEDY,
        )
    steps = Steps(
        obs=read["obs"],
        action=_choices(read["action"]),
        reward=read["reward"],
        terminated=flags["terminated"],
        truncated=flags["truncated"],
        next_obs=read.get("next_obs"),
        log_prob=None if log_prob is None else log_prob.reshape(-1).astype(np.float64),
        group=group,
    )
    return steps, notes


def _choices(action: Array) -> Array:
    """Actions [N, 1] of whole numbers are choices [N]; one number per row is a Box of one."""
    if action.dtype.kind in "iu":
        return action.reshape(-1) if action.ndim == 2 and action.shape[1] == 1 else action
    return action[:, None] if action.ndim == 1 and action.dtype.kind == "f" else action


def _ogbench(archive: Archive, masks: str) -> Imported:
    obs = archive["observations"]
    n = len(obs)
    action = _choices(rows(archive, "actions", archive["actions"], n))
    lasts = np.flatnonzero(booleans(archive, "terminals", n))
    notes: list[str] = []
    reward = np.zeros(n)
    if "rewards" in archive:
        reward = numbers(archive, "rewards", archive["rewards"], n)
    else:
        notes.append("the file has no rewards: every reward is 0")
    alive = np.ones(n, dtype=bool)
    if "masks" in archive:
        alive = booleans(archive, "masks", n)
    if not lasts.size or lasts[-1] != n - 1:
        notes.append("the last row has no end: the log of the last episode is cut there")
        lasts = np.append(lasts, n - 1)
    others = [k for k in archive if k not in ("observations", "actions", "terminals", "rewards")]
    infos = {key: rows(archive, key, archive[key], n) for key in others if key != "masks"}
    episodes: list[Episode] = []
    cut = 0
    first = 0
    for last in lasts.tolist():
        if last == first:
            raise CorruptDataError(
                f"{archive.path}: the episode at row {first} has one state and no step.", REMEDY
            )
        goals = np.flatnonzero(~alive[first:last]) + first + 1
        stops = [*goals.tolist(), last] if masks == "split" else [last]
        begin = first
        for stop in dict.fromkeys(stops):
            done = bool(masks == "split" and not alive[stop - 1])
            cut += stop != last
            flags = np.zeros((2, stop - begin), dtype=bool)
            flags[:, -1] = done, not done
            episodes.append(
                Episode(
                    id=len(episodes),
                    observations=obs[begin : stop + 1],
                    actions=action[begin:stop],
                    rewards=reward[begin:stop],
                    terminations=flags[0],
                    truncations=flags[1],
                    infos={key: value[begin : stop + 1] for key, value in infos.items()},
                )
            )
            begin = stop
        first = last + 1
    if cut:
        notes.append(
            f"masks are 0 inside {cut} logged trajectories: an episode terminates there and another"
            " goes on from the same state; --masks ignore keeps them whole"
        )
    notes.append("the last row of each trajectory is a state: its action was not taken")
    blank = spaces.Discrete(1)
    return Imported(episodes, blank, blank, tuple(notes))


def _imitation(archive: Archive) -> Imported:
    acts = _choices(archive["acts"])
    n = len(acts)
    notes = []
    splits = archive["indices"].astype(np.int64).reshape(-1)
    bounds = [0, *splits.tolist(), n]
    terminal = booleans(archive, "terminal", len(bounds) - 1)
    obs_key, obs = _needed(archive, "obs")
    obs = rows(archive, obs_key, obs, n + len(terminal))
    reward = np.zeros(n)
    if "rews" in archive:
        reward = numbers(archive, "rews", archive["rews"], n)
    else:
        notes.append("the file has no rewards: every reward is 0")
    episodes = []
    for number, (first, stop) in enumerate(pairwise(bounds)):
        if not first < stop:
            raise CorruptDataError(
                f"{archive.path}: 'indices' gives episode {number} the steps {first} to {stop}.",
                REMEDY,
            )
        done = bool(terminal[number])
        flags = np.zeros((2, stop - first), dtype=bool)
        flags[:, -1] = done, not done
        episodes.append(
            Episode(
                id=number,
                observations=obs[first + number : stop + number + 1],
                actions=acts[first:stop],
                rewards=reward[first:stop],
                terminations=flags[0],
                truncations=flags[1],
            )
        )
    notes += skipped(
        key for key in archive if key not in ("obs", "acts", "rews", "terminal", "indices")
    )
    blank = spaces.Discrete(1)
    return Imported(episodes, blank, blank, tuple(notes))


def skipped(keys: Iterator[str]) -> list[str]:
    """Say which arrays were left aside."""
    left = ", ".join(sorted(keys))
    return [f"left aside: {left}"] if left else []


def rows(archive: Archive, key: str, array: Array, n: int) -> Array:
    """Return an array of n rows of numbers; CorruptDataError names it where it is not."""
    if array.dtype.kind not in "biuf":
        raise CorruptDataError(f"{archive.path}: '{key}' is {array.dtype}, not numbers.", REMEDY)
    if array.ndim == 0 or len(array) != n:
        found = len(array) if array.ndim else 0
        raise CorruptDataError(
            f"{archive.path}: '{key}' has {found} rows, where {n} are expected.", REMEDY
        )
    return array


def numbers(archive: Archive, key: str, array: Array, n: int) -> npt.NDArray[np.float64]:
    """Return one number per row as float64."""
    found = rows(archive, key, array, n)
    if found.size != n:
        raise CorruptDataError(
            f"{archive.path}: '{key}' has the shape {array.shape}, where one number per row is"
            " expected.",
            REMEDY,
        )
    return found.reshape(-1).astype(np.float64)


def booleans(archive: Archive, key: str, n: int) -> npt.NDArray[np.bool_]:
    """Return one truth per row, which may be written as 0 and 1 of any type."""
    found = numbers(archive, key, archive[key], n)
    wrong = np.flatnonzero((found != 0) & (found != 1))
    if wrong.size:
        raise CorruptDataError(
            f"{archive.path}: '{key}' is {found[wrong[0]]:g} in row {wrong[0]}, neither 0 nor 1.",
            REMEDY,
        )
    return found.astype(bool)


def log_of(archive: Archive, key: str, probability: Array) -> npt.NDArray[np.float64]:
    """Return the natural log of probabilities or densities, which are above 0."""
    found = probability.reshape(-1).astype(np.float64)
    wrong = np.flatnonzero(~(found > 0))
    if wrong.size:
        raise CorruptDataError(
            f"{archive.path}: '{key}' is {found[wrong[0]]:g} in row {wrong[0]}, where a"
            " probability above 0 is expected.",
            REMEDY,
        )
    return np.log(found)
