"""Minari folders made by hand, in the layout that Minari's own reader expects, to break at will."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium import spaces

from offrl.data.episodes import Episode
from offrl.data.spec import Spec

OBSERVATION = spaces.Box(-10, 10, (3,), np.float32)
ACTION = spaces.Box(-1, 1, (2,), np.float32)


def episode(
    steps: int,
    number: int = 0,
    *,
    terminated: bool = False,
    log_prob: bool = True,
    observation_space: spaces.Space[Any] = OBSERVATION,
    action_space: spaces.Space[Any] = ACTION,
) -> Episode:
    """A sound episode of random values; the same number gives the same values."""
    observation_space.seed(number)
    action_space.seed(number)
    rng = np.random.default_rng(number)
    ends = np.arange(steps) == steps - 1
    infos: dict[str, Any] = {}
    if log_prob:
        infos["behavior_log_prob"] = np.concatenate([[np.nan], -rng.random(steps)])
    return Episode(
        id=number,
        observations=stacked([observation_space.sample() for _ in range(steps + 1)]),
        actions=np.stack([action_space.sample() for _ in range(steps)]),
        rewards=rng.normal(size=steps),
        terminations=ends & terminated,
        truncations=ends & (not terminated),
        infos=infos,
        seed=100 + number,
    )


def stacked(samples: Sequence[Any]) -> Any:
    """Samples of a space as one nested value with a leading axis."""
    first = samples[0]
    if isinstance(first, Mapping):
        return {key: stacked([sample[key] for sample in samples]) for key in first}
    if isinstance(first, tuple):
        return tuple(stacked([sample[i] for sample in samples]) for i in range(len(first)))
    return np.array(samples, dtype=object) if isinstance(first, str) else np.stack(samples)


def metadata(
    episodes: Sequence[Episode],
    observation_space: spaces.Space[Any] = OBSERVATION,
    action_space: spaces.Space[Any] = ACTION,
    id: str = "me/made-v0",
) -> dict[str, Any]:
    """What Minari writes beside the episodes."""
    return {
        "total_episodes": len(episodes),
        "total_steps": sum(len(e) for e in episodes),
        "data_format": "hdf5",
        "jpeg_encoding": True,
        **Spec(observation_space, action_space).to_json(),
        "env_spec": json.dumps({"id": "Pendulum-v1", "entry_point": "nowhere:Nothing"}),
        "dataset_size": 0.1,
        "dataset_id": id,
        "code_permalink": "https://example.org",
        "author": ["someone"],
        "author_email": ["someone@example.org"],
        "algorithm_name": "random",
        "minari_version": "0.5.4",
    }


def write_folder(folder: Path, episodes: Sequence[Episode], described: dict[str, Any]) -> Path:
    """Write `folder`/data with metadata.json and main_data.hdf5; returns the HDF5 file."""
    data = folder / "data"
    data.mkdir(parents=True)
    (data / "metadata.json").write_text(json.dumps(described))
    with h5py.File(data / "main_data.hdf5", "w", track_order=True) as file:
        for one in episodes:
            group = file.create_group(f"episode_{one.id}")
            group.attrs.update({"id": one.id, "total_steps": len(one)})
            if one.seed is not None:
                group.attrs["seed"] = one.seed
            names = ("observations", "actions", "rewards", "terminations", "truncations", "infos")
            for name in names:
                _write(group, name, getattr(one, name))
    return data / "main_data.hdf5"


def _write(group: h5py.Group, name: str, value: Any) -> None:
    if isinstance(value, tuple):
        value = {f"_index_{i}": child for i, child in enumerate(value)}
    if isinstance(value, Mapping):
        child_group = group.create_group(name)
        for key, child in value.items():
            _write(child_group, key, child)
        return
    dtype = h5py.string_dtype() if value.dtype == object else None
    group.create_dataset(
        name, data=value, dtype=dtype, chunks=True, maxshape=(None, *value.shape[1:])
    )


def replace_column(file: Path, name: str, value: Any) -> None:
    """Replace a column of a written file; None removes it."""
    with h5py.File(file, "r+") as opened:
        del opened[name]
        if value is not None:
            opened.create_dataset(name, data=value)


def column(file: Path, name: str) -> np.ndarray[Any, Any]:
    """The values of a column of a written file."""
    with h5py.File(file, "r") as opened:
        found = opened[name]
        assert isinstance(found, h5py.Dataset)
        return np.asarray(found[()])
