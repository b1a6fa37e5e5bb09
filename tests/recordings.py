"""A small loop to record: the writer of one id, its episodes, and ways to be interrupted."""

from pathlib import Path
from typing import Any

import minari
import numpy as np
from gymnasium import spaces

from offrl.data.catalogue import dataset_path, list_local
from offrl.data.dataset import Dataset
from offrl.data.episodes import Episode
from offrl.data.publishing import unfinished_folder
from offrl.data.shards import read_manifest
from offrl.data.writer import Writer

ID = "me/test/loop-v0"
OBS = spaces.Box(-10.0, 10.0, (3,), np.float32)
ACT = spaces.Box(-2.0, 2.0, (1,), np.float32)


def writer(**options: Any) -> Writer:
    """A writer of the one id."""
    return Writer(ID, OBS, ACT, **options)


def folder() -> Path:
    """Where the one id is published."""
    return dataset_path(ID)


def unfinished() -> Path:
    """Where the one id is made."""
    return unfinished_folder(folder())


def episode(number: int, steps: int = 5, **changes: Any) -> Episode:
    """The episode that always has this number, with some columns changed."""
    rng = np.random.default_rng(number)
    columns: dict[str, Any] = {
        "observations": rng.normal(size=(steps + 1, 3)).astype(np.float32),
        "actions": rng.uniform(-2, 2, (steps, 1)).astype(np.float32),
        "rewards": rng.normal(size=steps),
        "terminations": np.arange(steps) == steps - 1,
        "truncations": np.zeros(steps, bool),
        "infos": {"behavior_log_prob": np.r_[np.nan, rng.normal(size=steps)]},
    }
    return Episode(number, **(columns | changes), seed=number)


def record_steps(w: Writer, number: int, steps: int = 5, end: bool = True) -> None:
    """Record an episode step by step; without `end` it stays open."""
    e = episode(number, steps)
    w.reset(e.observations[0], seed=number)
    for t in range(steps):
        ended = end and t == steps - 1
        w.step(e.actions[t], e.rewards[t], e.observations[t + 1], ended, False, log_prob=-1.0 - t)


def record(
    episodes: int = 10, error: type[BaseException] | None = None, first: int = 0, **options: Any
) -> Dataset:
    """Record episodes up to number `episodes`; with `error`, raise it inside the next one."""
    with writer(**options) as w:
        for number in range(first, episodes):
            record_steps(w, number)
        if error is not None:
            record_steps(w, episodes, end=False)
            raise error
    return w.close()


def kept_episodes() -> int:
    """The episodes that resuming would find."""
    w = writer(resume=True)
    w.abandon()
    return w.n_episodes


def visible() -> list[str]:
    """Ids that offrl or Minari list."""
    return sorted({d["id"] for d in list_local()} | set(minari.list_local_datasets()))


def kept_of(dataset_id: str) -> int:
    """The episodes that the unfinished dataset of an id lists."""
    manifest = read_manifest(unfinished_folder(dataset_path(dataset_id)))
    assert manifest is not None
    return len(manifest["episodes"])
