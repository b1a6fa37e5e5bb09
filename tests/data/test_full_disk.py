"""A file system that fills up beside a good dataset leaves every byte of it (fault W8)."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from offrl import load

ID = "me/made-v0"
COLLECT = ("collect", "--env", "CartPole-v1", "--policy", "random", "--out", ID)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 2.5 MiB that holds the datasets."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if mount is None or unmount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small tmpfs")
    words = [mount, "-t", "tmpfs", "-o", "size=2600k", "tmpfs", str(folder)]
    made = subprocess.run(words, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {made.stderr.strip()}")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    yield folder
    subprocess.run([unmount, str(folder)], check=True)


def enlarge(folder: Path) -> None:
    words = [shutil.which("mount") or "mount", "-o", "remount,size=64m", str(folder)]
    subprocess.run(words, check=True)


def typed(*words: object) -> "subprocess.CompletedProcess[str]":
    """Run a command in a process of its own, which must not end by a signal."""
    return subprocess.run(
        [sys.executable, "-m", "offrl_cli", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def contents(disk: Path) -> dict[str, bytes]:
    """Every file of the finished dataset."""
    return {str(p): p.read_bytes() for p in (disk / ID).rglob("*") if p.is_file()}


def refused(done: "subprocess.CompletedProcess[str]") -> None:
    cause, remedy = done.stderr.splitlines()[-2:]
    assert done.returncode == 1, done.stderr
    assert cause.startswith("error: ")
    assert "No space left on device" in cause or "are free" in cause
    assert remedy.startswith("try: ")
    assert "Traceback" not in done.stderr


def test_while_recording_anew_loses_nothing_and_goes_on_when_there_is_room(disk: Path) -> None:
    assert typed(*COLLECT, "--episodes", 4).returncode == 0
    before = contents(disk)
    done = typed(*COLLECT, "--episodes", 600, "--overwrite")
    refused(done)
    assert contents(disk) == before
    assert load(ID).n_episodes == 4
    assert not list(disk.rglob("*.tmp-*"))
    enlarge(disk)
    done = typed(*COLLECT, "--episodes", 600, "--overwrite", "--resume")
    assert done.returncode == 0, done.stderr
    assert load(ID).n_episodes == 600


def test_while_importing_anew_loses_nothing(disk: Path, tmp_path: Path) -> None:
    assert typed(*COLLECT, "--episodes", 4).returncode == 0
    before = contents(disk)
    table = tmp_path / "log.npz"
    n = 60_000
    np.savez(
        table,
        observations=np.random.default_rng(0).normal(size=(n, 4)),
        actions=np.zeros((n, 1), np.float32),
        rewards=np.zeros(n),
        terminals=np.arange(n) % 200 == 199,
    )
    words = ("data", "import", table, "--format", "npz", "--out", ID, "--overwrite")
    refused(typed(*words))
    assert contents(disk) == before
    assert sorted(p.name for p in disk.glob("me/*")) == ["made-v0"]
    enlarge(disk)
    done = typed(*words)
    assert done.returncode == 0, done.stderr
    assert load(ID).n_episodes == 300
