"""Foreign files made by hand, small, with episodes that are known."""

import json
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import offrl
from offrl.data.dataset import Dataset


def walk(
    lengths: tuple[int, ...] = (4, 3, 5), *, width: int = 2, seed: int = 0
) -> dict[str, np.ndarray]:
    """Rows of a NeoRL-like log: every episode starts far away, and ends truncated but the first."""
    rng = np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {
        key: [] for key in ("obs", "action", "next_obs", "reward", "done", "truncated")
    }
    for number, length in enumerate(lengths):
        start = 10 * rng.normal(size=width)
        states = start + np.cumsum(0.1 * rng.normal(size=(length + 1, width)), axis=0)
        columns["obs"].append(states[:-1])
        columns["next_obs"].append(states[1:])
        columns["action"].append(rng.uniform(-1, 1, size=(length, 1)))
        columns["reward"].append(rng.normal(size=length))
        last = np.arange(length) == length - 1
        columns["done"].append((last & (number == 0)).astype(float))
        columns["truncated"].append((last & (number > 0)).astype(float))
    return {
        key: np.concatenate(parts).astype(np.float32, copy=False) for key, parts in columns.items()
    }


def save_npz(path: Path, **arrays: Any) -> Path:
    """Write an npz archive, objects and all."""
    np.savez(path, **arrays)
    return path


def save_d4rl(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """Write a flat HDF5 file."""
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file[key] = value
    return path


def d4rl_arrays(lengths: tuple[int, ...] = (4, 3, 5), *, seed: int = 0) -> dict[str, np.ndarray]:
    """The rows of `walk` under D4RL's names, without the observations that follow."""
    rows = walk(lengths, seed=seed)
    return {
        "observations": rows["obs"],
        "actions": rows["action"],
        "rewards": rows["reward"],
        "terminals": rows["done"].astype(bool),
        "timeouts": rows["truncated"].astype(bool),
    }


def stored_frame(content: bytes) -> bytes:
    """An lz4 frame whose one block is stored as it is."""
    head = struct.pack("<IBBQB", 0x184D2204, 0b01101000, 0x40, len(content), 0)
    return head + struct.pack("<I", 0x80000000 | len(content)) + content + b"\0\0\0\0"


def rllib_line(rows: dict[str, np.ndarray]) -> str:
    """The rows of `walk` as one batch of RLlib, as lists."""
    names = {
        "obs": "obs", "next_obs": "new_obs", "action": "actions", "reward": "rewards"
    }  # fmt: skip
    columns: dict[str, Any] = {names[key]: rows[key].tolist() for key in names}
    columns["dones"] = rows["done"].astype(bool).tolist()
    ends = (rows["done"] + rows["truncated"]).astype(int)
    columns["eps_id"] = (np.cumsum(ends) - ends).tolist()
    return json.dumps({"type": "SampleBatch", **columns}) + "\n"


def notes(data: Dataset) -> str:
    """What an import said that it assumed, as one text."""
    return "\n".join(data.metadata["offrl"]["import"]["notes"])


def codes(data: Dataset) -> dict[str, int]:
    """What `check` reports, with how often."""
    return {problem.code: problem.count for problem in offrl.check(data).problems}
