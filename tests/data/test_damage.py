"""A written dataset that is damaged in any way is found out: no hang, no crash, nothing silent.

Faults R2 and R14 of the matrix. Minari returned wrong observations for 47 of 120 flipped bits.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import mutations
import numpy as np
import pytest
from recordings import ACT, ID, OBS, episode

from offrl import Dataset, check
from offrl.data import damaged
from offrl.data.dataset import load
from offrl.data.recovery import recover
from offrl.errors import CorruptDataError

Run = Callable[..., tuple[int, str, str]]
EPISODES = 10


@pytest.fixture
def written() -> Path:
    """The folder of a dataset of ten short episodes."""
    episodes = [episode(number, 6) for number in range(EPISODES)]
    data = Dataset.from_episodes(episodes, OBS, ACT, env="Pendulum-v1").save(ID)
    assert data.path is not None
    return data.path


def outcomes(folder: Path, scratch: Path, count: int, kind: str) -> list[tuple[Any, ...]]:
    """Number, file, outcome of loading and codes of the check, for each damaged copy."""
    found: list[tuple[Any, ...]] = []
    while len(found) < count:
        words = [mutations.__file__, folder, scratch / "copy-v0", len(found), count, kind]
        child = subprocess.run(
            [sys.executable, *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        found += [tuple(json.loads(line)) for line in child.stdout.splitlines()]
        assert child.returncode <= 0, child.stderr  # an error that is not ours
        if len(found) < count:
            found.append((len(found), "", f"ended by signal {-child.returncode}", []))
    return found


# A bit of the version number makes a set of a later offrl or Minari, which is refused as such.
SEEN = ("CorruptDataError", "UnsafeDataError", "IncompatibleVersionError", "warned")


def test_a_flipped_bit_is_found_wherever_it_is(written: Path, tmp_path: Path) -> None:
    found = outcomes(written, tmp_path, 200, "flips")
    assert {name for _, name, _, _ in found} == set(mutations.FILES)
    for number, name, outcome, codes in found:
        assert outcome in SEEN, (number, name, outcome)
        assert codes, (number, name)


@pytest.mark.parametrize("count", [150, pytest.param(1500, marks=pytest.mark.slow)])
def test_no_mutation_hangs_or_crashes_or_is_silent(
    written: Path, tmp_path: Path, count: int
) -> None:
    for number, name, outcome, codes in outcomes(written, tmp_path, count, "mutations"):
        if outcome == "same":  # the bytes that were written over were these very bytes
            copy = tmp_path / "again-v0"
            mutations.damage(written, copy, number, "mutations")
            assert (copy / name).read_bytes() == (written / name).read_bytes()
        else:
            assert outcome.endswith("Error") or outcome == "warned", (number, name, outcome)
            assert codes, (number, name)


def spoil(file: Path, at: int, content: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        opened.write(content)


def address(file: Path, name: str) -> int:
    """Where the header of a group or column begins."""
    with h5py.File(file, "r") as opened:
        return int(h5py.h5g.get_objinfo(opened.id, name.encode()).objno[0])


def values_at(file: Path, number: int) -> int:
    """Where the rewards of an episode lie."""
    return file.read_bytes().index(episode(number, 6).rewards.tobytes())


@pytest.mark.filterwarnings("always:.*damaged episodes were left out")
@pytest.mark.parametrize("place", ["values", "column", "group"])
def test_the_damaged_episode_is_named_and_the_others_can_be_had(
    written: Path, typed: Run, place: str
) -> None:
    before = load(ID)
    file = written / "data" / "main_data.hdf5"
    at = {
        "values": lambda: values_at(file, 3) + 2,
        "column": lambda: address(file, "episode_3/rewards"),
        "group": lambda: address(file, "episode_3"),
    }[place]()
    spoil(file, at, b"\x5a\xa5\x5a\xa5")
    with pytest.raises(CorruptDataError, match="SHA-256 is not the manifest's") as refused:
        load(ID)
    assert "main_data.hdf5" in refused.value.cause
    assert "--skip-corrupt" in refused.value.remedy
    status, out, _ = typed("data", "check", ID, "--json")
    assert status == 1
    found = {problem["code"]: problem["places"] for problem in json.loads(out)["problems"]}
    assert found["file-damaged"] == [str(file)]
    assert found["unreadable"] == ["episode 3"]
    assert json.loads(out)["dataset"] == ID
    words = ("data", "filter", ID, "--skip-corrupt", "--out", "me/whole-v0")
    status, out, err = typed(*words, "--json")
    assert status == 0
    assert "1 damaged episodes were left out, episode 3 first" in err
    whole = load("me/whole-v0")
    assert json.loads(out)["lineage"]["rule"] == {"damaged": [3]}
    assert [one.seed for one in whole] == [0, 1, 2, *range(4, EPISODES)]
    np.testing.assert_array_equal(whole[3].rewards, episode(4, 6).rewards)
    assert (
        whole.metadata["offrl"]["lineage"]["sources"][0]["fingerprint"]
        == (before.metadata["offrl"]["fingerprint"])
    )
    assert check(whole).ok


def test_values_that_were_changed_with_their_checksum_are_left_out_too(written: Path) -> None:
    file = written / "data" / "main_data.hdf5"
    with h5py.File(file, "r+") as opened:
        rewards = opened["episode_5/rewards"]
        assert isinstance(rewards, h5py.Dataset)
        rewards[1] = 7.0
    found = {problem.code: problem.places for problem in check(ID).problems}
    assert found["episode-damaged"] == ("episode 5",)
    with pytest.warns(UserWarning, match="episode 5 first"):
        assert len(recover(ID)) == EPISODES - 1


def test_nothing_is_recovered_where_nothing_is_whole(written: Path) -> None:
    file = written / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CorruptDataError):
        recover(ID)


def test_of_a_sound_dataset_everything_is_recovered(written: Path) -> None:
    assert recover(ID).fingerprint == load(ID).fingerprint


@pytest.mark.parametrize(
    ("what", "fragment"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ends with signal 11"),
        ("from offrl.data.damaged import limit; limit(1, 2**33)\nwhile True: pass", "signal"),
        ("raise MemoryError", "MemoryError"),
    ],
)
def test_a_reader_that_dies_or_never_ends_takes_nobody_along(
    written: Path, monkeypatch: pytest.MonkeyPatch, typed: Run, what: str, fragment: str
) -> None:
    file = written / "data" / "main_data.hdf5"
    spoil(file, 100, b"\x00\x01")
    monkeypatch.setattr(damaged, "_LOOK", what)
    found = {problem.code: problem.message for problem in check(ID).problems}
    assert "main_data.hdf5" in found["file-damaged"]
    assert fragment in found["unreadable"]
    status, out, _ = typed("data", "check", ID)
    assert status == 1
    assert "not sound" in out


def test_metadata_that_was_edited_is_told(written: Path, typed: Run) -> None:
    path = written / "data" / "metadata.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"description": "mine"}))
    with pytest.warns(UserWarning, match="not as it was written"):
        data = load(ID)
    assert data.n_episodes == EPISODES
    status, out, _ = typed("data", "check", ID)
    assert status == 1
    assert "metadata-changed" in out
    with pytest.warns(UserWarning, match="not as it was written"):
        data = load(ID)
    assert check(data.save("me/accepted-v0")).ok
    assert load("me/accepted-v0").metadata["description"] == "mine"
