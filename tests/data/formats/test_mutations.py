"""Foreign files with bytes changed, cut and added: an error of ours or a dataset, nothing else.

HDF5 is left out: its library can hang on such files.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from foreign_files import rllib_line, save_npz, walk

import offrl
from offrl.errors import OffrlError

TABLE = """e,t,x,c,a,r,p,over
0,0,1,u,go,0.5,0.25,
0,1,2,v,stop,1.5,0.5,terminated
1,0,3,u,go,2.5,1,
1,1,4,v,stop,-1,0.5,truncated
1,2,5,v,,,,
"""
ROLES: dict[str, Any] = {
    "episode": "e", "time": "t", "obs": "x,c", "action": "a", "reward": "r", "ends": "over",
    "propensity": "p",
}  # fmt: skip


def neorl(folder: Path) -> Path:
    return save_npz(folder / "a.npz", **walk())


def ogbench(folder: Path) -> Path:
    rows = {"observations": np.zeros((7, 2)), "actions": np.zeros((7, 1)), "masks": np.ones(7)}
    return save_npz(folder / "a.npz", **rows, terminals=np.arange(7) % 4 == 3)


def imitation(folder: Path) -> Path:
    rows = {"obs": np.zeros((7, 1)), "acts": np.arange(5) % 2, "rews": np.ones(5)}
    return save_npz(folder / "a.npz", **rows, terminal=np.ones(2, bool), indices=np.array([2]))


def rllib(folder: Path) -> Path:
    path = folder / "a.json"
    path.write_text(rllib_line(walk((4, 3))))
    return path


def table(folder: Path) -> Path:
    path = folder / "a.csv"
    path.write_text(TABLE)
    return path


def parquet(folder: Path) -> Path:
    path = folder / "a.parquet"
    pd.read_csv(table(folder)).to_parquet(path)
    return path


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, removed or added."""
    made = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at, size, kind = rng.randrange(len(made)), rng.randrange(1, 9), rng.random()
        if kind < 0.6:
            made[at] = rng.randrange(256)
        elif kind < 0.8:
            del made[at : at + size]
        else:
            made[at:at] = rng.randbytes(size)
    return bytes(made)


@pytest.mark.parametrize("make", [neorl, ogbench, imitation, rllib, table, parquet])
def test_a_changed_file_is_refused_or_read(tmp_path: Path, make: Callable[[Path], Path]):
    path = make(tmp_path)
    options = ROLES if make in (table, parquet) else {}
    content, rng = path.read_bytes(), random.Random(0)  # noqa: S311 - not for secrets
    whole = offrl.import_file(path, **options)
    refused = 0
    for _ in range(120):
        path.write_bytes(mutated(content, rng))
        try:
            offrl.import_file(path, **options).summary()
        except OffrlError:
            refused += 1
    assert refused > 60
    path.write_bytes(content)
    assert offrl.import_file(path, **options).fingerprint == whole.fingerprint
