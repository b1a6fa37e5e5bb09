"""Small datasets in the layout and with the spaces of Minari's benchmark sets, written by hand.

They are written with h5py alone, as they lie on the hub, so that reading them tests the reader.
"""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium import spaces
from minari.serialization import serialize_space


def hopper(folder: Path, *, id: str = "mujoco/hopper/medium-v0", seed: int = 0) -> Path:
    """Write Hopper's shapes: 11 observations, 3 actions, a fall or a time limit at the end."""
    rng = np.random.default_rng(seed)
    episodes = []
    for length in (40, 25, 60, 31):
        episodes.append(
            {
                "observations": rng.normal(size=(length + 1, 11)),
                "actions": rng.uniform(-1, 1, size=(length, 3)).astype(np.float32),
                "rewards": rng.normal(1.0, 0.3, size=length),
                "infos": {"x_position": np.cumsum(rng.normal(size=length + 1))},
            }
        )
    return write(
        folder,
        id,
        "Hopper-v5",
        "gymnasium.envs.mujoco.hopper_v5:HopperEnv",
        spaces.Box(-np.inf, np.inf, (11,), np.float64),
        spaces.Box(-1.0, 1.0, (3,), np.float32),
        episodes,
        algorithm="SAC",
    )


def pointmaze(folder: Path, *, id: str = "D4RL/pointmaze/umaze-v2", seed: int = 0) -> Path:
    """Write the goal-conditioned layout: observation, achieved_goal, desired_goal."""
    rng = np.random.default_rng(seed)
    box = {"achieved_goal": 2, "desired_goal": 2, "observation": 4}
    episodes = []
    for length in (30, 20, 45):
        episodes.append(
            {
                "observations": {
                    key: rng.normal(size=(length + 1, width)) for key, width in box.items()
                },
                "actions": rng.uniform(-1, 1, size=(length, 2)).astype(np.float32),
                "rewards": (rng.random(length) < 0.1).astype(np.float64),
                "infos": {"success": rng.random(length + 1) < 0.1},
            }
        )
    return write(
        folder,
        id,
        "PointMaze_UMaze-v3",
        "gymnasium_robotics.envs.maze.point_maze:PointMazeEnv",
        spaces.Dict({k: spaces.Box(-np.inf, np.inf, (n,), np.float64) for k, n in box.items()}),
        spaces.Box(-1.0, 1.0, (2,), np.float32),
        episodes,
        algorithm="QIteration",
    )


def write(
    folder: Path,
    id: str,
    env: str,
    entry_point: str,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    episodes: list[dict[str, Any]],
    *,
    algorithm: str,
) -> Path:
    """Write `data/main_data.hdf5` and `data/metadata.json` as Minari does; return the folder."""
    data = folder / "data"
    data.mkdir(parents=True)
    steps = 0
    with h5py.File(data / "main_data.hdf5", "w") as file:
        for number, episode in enumerate(episodes):
            length = len(episode["rewards"])
            steps += length
            group = file.create_group(f"episode_{number}")
            group.attrs.update({"id": number, "total_steps": length, "seed": 123 + number})
            ends = np.zeros((2, length), bool)
            ends[number % 2, -1] = True
            columns = {**episode, "terminations": ends[0], "truncations": ends[1]}
            _put(group, columns)
    env_spec = {
        "id": env,
        "entry_point": entry_point,
        "reward_threshold": None,
        "nondeterministic": False,
        "max_episode_steps": 1000,
        "order_enforce": True,
        "disable_env_checker": False,
        "kwargs": {},
        "additional_wrappers": [],
        "vector_entry_point": None,
    }
    metadata = {
        "total_episodes": len(episodes),
        "total_steps": steps,
        "data_format": "hdf5",
        "observation_space": serialize_space(observation_space),
        "action_space": serialize_space(action_space),
        "env_spec": json.dumps(env_spec),
        "dataset_size": round((data / "main_data.hdf5").stat().st_size / 1e6, 1),
        "dataset_id": id,
        "algorithm_name": algorithm,
        "author": ["Someone"],
        "author_email": ["someone@example.org"],
        "code_permalink": "https://example.org/code",
        "description": "Made for a test.",
        "minari_version": "0.5.1",
    }
    (data / "metadata.json").write_text(json.dumps(metadata))
    return folder


def _put(group: h5py.Group, columns: dict[str, Any]) -> None:
    for key, value in columns.items():
        if isinstance(value, dict):
            _put(group.create_group(key), value)
        else:
            group.create_dataset(key, data=value)
