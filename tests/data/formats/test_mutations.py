"""Foreign files with bytes changed, cut and added: an error of ours or a dataset, nothing else.

HDF5 is imported in a process of its own: its library can crash or hang on such files.
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_mutations
import h5py
import numpy as np
import pandas as pd
import pytest
from foreign_files import d4rl_arrays, rllib_line, save_npz, walk

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


def d4rl(path: Path, *, checksums: bool) -> Path:
    """Write a D4RL file as its makers do, or with the checksums that HDF5 can give it."""
    with h5py.File(path, "w", libver="latest" if checksums else None) as file:
        for key, rows in d4rl_arrays((40, 30, 50)).items():
            chunks = {"chunks": rows.shape, "fletcher32": True} if checksums else {}
            file.create_dataset(key, data=rows, **chunks)
    return path


@pytest.mark.parametrize("count", [36, pytest.param(900, marks=pytest.mark.slow)])
@pytest.mark.parametrize("checksums", [False, True])
def test_a_changed_hdf5_file_ends_in_an_error_or_in_a_dataset(
    tmp_path: Path, count: int, checksums: bool
):
    """Where the file has checksums, no changed value is taken for the one that was written."""
    file = d4rl(tmp_path / "a.hdf5", checksums=checksums)
    found: list[tuple[int, str]] = []
    while len(found) < count:
        words = [foreign_mutations.__file__, file, tmp_path / "copy.hdf5", len(found), count]
        child = subprocess.run(
            [sys.executable, *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        found += [tuple(json.loads(line)) for line in child.stdout.splitlines()]
        assert child.returncode == 0, (len(found), child.returncode, child.stderr)
    kinds = {kind for _, kind in found}
    assert "same" in kinds
    assert any(kind.endswith("Error") for kind in kinds)
    assert ("other" in kinds) is not checksums
