"""Columns of a large dataset are built once and mapped afterwards, and never trusted blindly."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any

import h5py
import numpy as np
import pytest
from gymnasium import spaces
from minari_files import column, episode, metadata, replace_column, write_folder

from offrl.data import cache, hdf5_store, minari_store
from offrl.data.catalogue import list_local
from offrl.data.dataset import load
from offrl.data.episodes import Episode
from offrl.data.hdf5_store import Hdf5Store
from offrl.data.transitions import COLUMNS, Transitions
from offrl.errors import CorruptDataError, UnsafeDataError


@pytest.fixture
def large(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset that counts as large."""
    monkeypatch.setattr(cache, "KEPT_FROM", 0)
    return made


def kept_in(folder: Path) -> Path:
    (found,) = (folder / ".offrl-cache").iterdir()
    return found


def assert_equal(one: Transitions, other: Transitions) -> None:
    for name in (*COLUMNS, "starts"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype


def no_reading(
    self: Hdf5Store, indices: Sequence[int], infos: Sequence[str] | None = None
) -> Iterator[Episode]:
    raise AssertionError("an episode was read")


def test_a_small_dataset_keeps_nothing(made: Path) -> None:
    assert len(load(made).transitions) == 8
    assert not (made / ".offrl-cache").exists()


def test_columns_are_read_once_and_mapped_afterwards(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load(made)
    assert len(plain.transitions) == 8
    monkeypatch.setattr(cache, "KEPT_FROM", 0)
    first = load(made)
    assert_equal(first.transitions, plain.transitions)
    monkeypatch.setattr(Hdf5Store, "read", no_reading)
    second = load(made)
    assert_equal(second.transitions, plain.transitions)
    assert isinstance(second.transitions.observations.base, np.memmap) or isinstance(
        second.transitions.observations, np.memmap
    )
    assert second.summary() == plain.summary()


def test_columns_that_another_process_moves_meanwhile_are_not_looked_at(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ = load(large).transitions
    plain = os.scandir

    def moved(path: Any = ".") -> Any:
        if cache.FOLDER in os.fspath(path):
            raise FileNotFoundError(path)
        return plain(path)

    monkeypatch.setattr(os, "scandir", moved)
    monkeypatch.setattr(Hdf5Store, "read", no_reading)
    assert len(load(large).transitions) == 8
    assert [entry["problem"] for entry in list_local()] == [None]


def test_a_second_run_does_not_look_into_the_file(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ = load(large).transitions

    def scanned(path: Path) -> None:
        raise AssertionError("the file was scanned")

    monkeypatch.setattr(hdf5_store, "scan", scanned)
    again = load(large)
    assert (again.n_episodes, again.n_steps, len(again.transitions)) == (3, 8, 8)


def test_an_episode_is_never_read_before_the_file_is_scanned(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault S9, with columns that someone put beside a hostile file."""
    _ = load(large).transitions
    with h5py.File(large / "data" / "main_data.hdf5", "r+") as file:
        file["episode_0/infos/more"] = h5py.ExternalLink("elsewhere.hdf5", "/x")
    monkeypatch.setattr(minari_store, "kept", lambda *arguments: True)
    data = load(large)
    with pytest.raises(UnsafeDataError):
        next(iter(data))
    with pytest.raises(UnsafeDataError):
        data[1]


def test_no_write_reaches_what_is_kept(large: Path) -> None:
    built = load(large).transitions
    before = built.reward[0]
    built.reward[0] = 123.0
    assert load(large).transitions.reward[0] == before


def test_a_changed_dataset_is_read_anew(large: Path) -> None:
    _ = load(large).transitions
    before = kept_in(large).name
    rewards = column(large / "data" / "main_data.hdf5", "episode_0/rewards")
    replace_column(large / "data" / "main_data.hdf5", "episode_0/rewards", rewards + 1)
    assert load(large).transitions.reward[0] == rewards[0] + 1
    assert kept_in(large).name != before


def test_a_read_only_dataset_is_kept_in_the_users_cache(large: Path) -> None:
    large.chmod(0o555)
    try:
        _ = load(large).transitions
        assert not (large / ".offrl-cache").exists()
        places = list((Path(os.environ["XDG_CACHE_HOME"]) / "offrl").rglob("about.json"))
        assert len(places) == 1
        assert len(load(large).transitions) == 8
    finally:
        large.chmod(0o755)


def cut(folder: Path) -> None:
    os.truncate(folder / "reward.npy", 100)


def other_type(folder: Path) -> None:
    np.save(folder / "reward.npy", np.zeros(8, np.float32))


def other_length(folder: Path) -> None:
    np.save(folder / "observations.npy", np.zeros((8, 3), np.float32))


def objects(folder: Path) -> None:
    np.save(folder / "reward.npy", np.array([{}] * 8, dtype=object), allow_pickle=True)


def gone(folder: Path) -> None:
    (folder / "action.npy").unlink()


def no_json(folder: Path) -> None:
    (folder / "about.json").write_text("{")


def other_format(folder: Path) -> None:
    about = json.loads((folder / "about.json").read_text())
    (folder / "about.json").write_text(json.dumps(about | {"format": 2}))


def other_steps(folder: Path) -> None:
    about = json.loads((folder / "about.json").read_text())
    about["totals"]["steps"] = [8, 1, 1]
    (folder / "about.json").write_text(json.dumps(about))


def no_totals(folder: Path) -> None:
    about = json.loads((folder / "about.json").read_text())
    (folder / "about.json").write_text(json.dumps(about | {"totals": {"of": 1}}))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    with path.open("r+b") as file:  # in place: the same file of the same size
        file.write(content)


def flipped_bit(folder: Path) -> None:
    flip(folder / "observations.npy")


def flipped_bit_with_its_old_time(folder: Path) -> None:
    before = (folder / "reward.npy").stat()
    flip(folder / "reward.npy")
    os.utime(folder / "reward.npy", ns=(before.st_atime_ns, before.st_mtime_ns))


def another_digest(folder: Path) -> None:
    text = (folder / "about.json").read_text()
    digest = json.loads(text)["totals"]["digests"][0]
    (folder / "about.json").write_text(text.replace(digest, digest[::-1]))


def not_synced(folder: Path) -> None:
    """As after a power cut: the size is right and the contents never came."""
    size = (folder / "reward.npy").stat().st_size
    (folder / "reward.npy").write_bytes(bytes(size))


def a_folder(folder: Path) -> None:
    (folder / "action.npy").unlink()
    (folder / "action.npy").mkdir()


DAMAGE = [
    flipped_bit,
    flipped_bit_with_its_old_time,
    another_digest,
    not_synced,
    a_folder,
    cut,
    other_type,
    other_length,
    objects,
    gone,
    no_json,
    other_format,
    other_steps,
    no_totals,
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_columns_that_are_not_whole_are_made_again(damage: Any, large: Path) -> None:
    data = load(large)
    expected = Transitions.build(data, data.spec)
    assert_equal(data.transitions, expected)
    damage(kept_in(large))
    assert_equal(load(large).transitions, expected)
    assert_equal(load(large).transitions, expected)
    assert len(list((large / ".offrl-cache").iterdir())) == 1


def test_columns_that_may_not_be_read_are_made_again(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ = load(large).transitions

    def refused(*arguments: Any, **words: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(cache.np, "load", refused)
        assert len(load(large).transitions) == 8
    assert len(load(large).transitions) == 8


def rewritten_with_its_old_time(file: Path) -> None:
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[content.find(column(file, "episode_0/rewards").tobytes()) + 3] ^= 1
    file.write_bytes(bytes(content))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def touched(file: Path) -> None:
    os.utime(file, ns=(1, 1))


def replaced(file: Path) -> None:
    copy = file.with_name("copy")
    shutil.copyfile(file, copy)
    copy.replace(file)


@pytest.mark.parametrize(
    "change", [rewritten_with_its_old_time, touched, replaced], ids=lambda change: change.__name__
)
def test_a_file_that_changed_without_its_size_is_read_anew(large: Path, change: Any) -> None:
    _ = load(large).transitions
    before = kept_in(large).name
    change(large / "data" / "main_data.hdf5")
    again = load(large)
    assert_equal(again.transitions, Transitions.build(again, again.spec))
    assert kept_in(large).name != before


def test_data_that_is_refused_is_not_kept(large: Path) -> None:
    """Fault N1."""
    file = large / "data" / "main_data.hdf5"
    rewards = column(file, "episode_2/rewards")
    rewards[1] = np.nan
    replace_column(file, "episode_2/rewards", rewards)
    for _ in range(2):
        with pytest.raises(CorruptDataError, match="reward is nan at episode 2 step 1"):
            _ = load(large).transitions
    assert list((large / ".offrl-cache").iterdir()) == []


def test_bounds_are_judged_on_kept_columns_too(large: Path) -> None:
    """Fault N5."""
    file = large / "data" / "main_data.hdf5"
    replace_column(file, "episode_1/actions", np.array([[3.0, 0.0]], np.float32))
    for _ in range(2):
        with pytest.raises(CorruptDataError, match="outside its bounds at episode 1 step 0"):
            _ = load(large).transitions
        assert load(large, clip_actions=True).transitions.action[4].tolist() == [1.0, 0.0]


def test_without_space_the_columns_are_built_in_memory(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(large)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    assert len(load(large).transitions) == 8
    assert list((large / ".offrl-cache").iterdir()) == []


@pytest.mark.parametrize("call", range(6))
def test_a_disk_that_fills_up_leaves_nothing_behind(
    large: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    calls = iter(range(100))

    def sync(descriptor: int) -> None:
        if next(calls) % 7 == call:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", sync)
    assert len(load(large).transitions) == 8
    assert list((large / ".offrl-cache").iterdir()) == []


def test_two_that_build_at_once_both_go_on(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _ = load(large).transitions
    kept = kept_in(large)
    copy = large.parent / "copy"
    shutil.move(kept, copy)
    rename = Path.rename

    def other_was_first(self: Path, target: Path) -> Path:
        shutil.copytree(copy, target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", other_was_first)
    assert len(load(large).transitions) == 8
    assert kept_in(large) == kept


def test_what_a_killed_build_left_is_removed_and_what_a_living_one_makes_is_not(
    large: Path,
) -> None:
    program = (
        "import os, sys\n"
        "from offrl.data import cache\n"
        "from offrl.data.dataset import load\n"
        "cache.KEPT_FROM = 0\n"
        "def stop(made, store):\n"
        "    print('begun', flush=True)\n"
        "    sys.stdin.read()\n"
        "cache._write = stop\n"
        "load(sys.argv[1]).transitions\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(large)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as building:
        assert building.stdout is not None
        assert building.stdout.readline() == "begun\n"
        (begun,) = (large / ".offrl-cache").iterdir()
        _ = load(large).transitions
        assert begun.is_dir()
        building.kill()
        building.wait()
    shutil.rmtree(next(path for path in begun.parent.iterdir() if path != begun))
    _ = load(large).transitions
    assert "." not in kept_in(large).name


def test_discrete_actions_are_kept_as_whole_numbers(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "KEPT_FROM", 0)
    space = spaces.Discrete(5, start=2)
    episodes = [episode(4, i, action_space=space) for i in range(2)]
    write_folder(root / "me/made-v0", episodes, metadata(episodes, action_space=space))
    first = load("me/made-v0").transitions
    assert first.action.dtype == np.int64
    np.testing.assert_array_equal(first.action[:4], episodes[0].actions - 2)
    assert_equal(load("me/made-v0").transitions, first)


MAPPED = """
import sys
from offrl.data import cache
from offrl.data.dataset import load
cache.KEPT_FROM = 0
columns = load("me/made-v0").transitions
total = float(columns.observations.sum())
print("mapped", flush=True)
sys.stdin.readline()  # until the other has mapped them too
found, inside = {}, False
for line in open("/proc/self/smaps"):
    if "-" in line.split()[0]:
        inside = line.rstrip().endswith("observations.npy")
    elif inside:
        name, kilobytes = line.split()[:2]
        found[name] = found.get(name, 0) + (int(kilobytes) if kilobytes.isdigit() else 0)
shared = found["Shared_Clean:"] + found["Shared_Dirty:"]  # a file system in memory has the latter
print(found["Rss:"], shared, found["Private_Dirty:"], found["Pss:"], flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Only Linux tells which pages are shared.")
def test_two_processes_share_the_pages_of_what_they_map(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "KEPT_FROM", 0)
    one = episode(1000)
    episodes = [replace(one, id=i) for i in range(40)]
    write_folder(root / "me/made-v0", episodes, metadata(episodes))
    _ = load("me/made-v0").transitions
    words = [sys.executable, "-c", MAPPED]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as first,
        subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as second,
    ):
        for process in (first, second):
            assert process.stdout is not None
            assert process.stdout.readline() == "mapped\n"
        for process in (first, second):
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            resident, shared, dirty, proportional = map(int, process.stdout.readline().split())
            assert resident >= 40 * 1001 * 3 * 4 // 1024 - 8
            assert shared >= resident - 4
            assert dirty == 0
            assert proportional <= resident * 0.6
        for process in (first, second):
            process.communicate("\n")


def test_a_thousand_steps_cost_a_millisecond_or_so(root: Path) -> None:
    """Read without a loop over steps: a loop would take a hundred times as long."""
    one = episode(1000)
    episodes = [replace(one, id=i) for i in range(200)]
    write_folder(root / "me/made-v0", episodes, metadata(episodes))
    start = process_time()
    assert len(load("me/made-v0").transitions) == 200_000
    assert process_time() - start < 5
