"""Exports: what is imported again is the dataset, and a spreadsheet runs nothing."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

import offrl
from offrl.data import durable
from offrl.data.formats.table_files import guarded, unguarded
from offrl.errors import ConfigError, OffrlError


def options(made: Any) -> dict[str, Any]:
    """The words that import an export again, as arguments."""
    words = made.import_options
    found: dict[str, Any] = {
        word.removeprefix("--").replace("-", "_"): value
        for word, value in zip(words[::2], words[1::2], strict=True)
    }
    if "action_bounds" in found:
        low, high = found["action_bounds"].split(",")
        found["action_bounds"] = float(low), float(high)
    return found


def random_data(seed: int, lengths: list[int], *, discrete: bool, logged: bool) -> offrl.Dataset:
    rng = np.random.default_rng(seed)
    n, episodes = sum(lengths), len(lengths)
    last = np.zeros(n, dtype=bool)
    last[np.cumsum(lengths) - 1] = True
    over = rng.random(n) < 0.5
    return offrl.Dataset.from_arrays(
        rng.normal(size=(n + episodes, 3)).astype(np.float32),
        rng.integers(0, 3, size=n) if discrete else rng.normal(size=(n, 2)).astype(np.float32),
        rng.normal(size=n),
        last & over,
        last & ~over,
        behavior_log_prob=-rng.random(n) if logged else None,
        action_space=spaces.Discrete(3) if discrete else None,
    )


CASES = {
    "seed": st.integers(0, 2**32 - 1),
    "lengths": st.lists(st.integers(1, 5), min_size=1, max_size=4),
    "discrete": st.booleans(),
    "logged": st.booleans(),
}


class TestRoundTrips:
    @given(**CASES)
    def test_a_d4rl_file_holds_every_bit(
        self, tmp_path_factory: Any, seed: int, lengths: list[int], discrete: bool, logged: bool
    ):
        data = random_data(seed, lengths, discrete=discrete, logged=logged)
        path = tmp_path_factory.mktemp("out") / "a.hdf5"
        offrl.export_file(data, path)
        again = offrl.import_file(path, action_space=data.spec.action_space)
        assert again.fingerprint == data.fingerprint
        assert again.metadata["offrl"]["import"]["findings"] == []

    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    @given(**CASES)
    def test_a_table_holds_every_value(
        self,
        tmp_path_factory: Any,
        kind: str,
        seed: int,
        lengths: list[int],
        discrete: bool,
        logged: bool,
    ):
        data = random_data(seed, lengths, discrete=discrete, logged=logged)
        made = offrl.export_file(data, tmp_path_factory.mktemp("out") / f"a.{kind}")
        again = offrl.import_file(made.path, **options(made))
        assert again.spec.action_space.contains(again[0].actions[0])
        assert again.spec.action_dim == data.spec.action_dim
        one, two = data.transitions, again.transitions
        for column in ("observations", "action", "reward", "terminated", "truncated", "starts"):
            assert np.array_equal(getattr(one, column), getattr(two, column)), column
        assert np.array_equal(one.behavior_log_prob, two.behavior_log_prob, equal_nan=True)

    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    @given(
        words=st.lists(
            st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), min_size=4
        ),
        seed=st.integers(0, 99),
    )
    def test_the_words_of_a_table_come_back_whatever_they_are(
        self, tmp_path_factory: Any, kind: str, words: list[str], seed: int
    ):
        rng = np.random.default_rng(seed)
        n = len(words)
        frame = pd.DataFrame(
            {
                "who": np.arange(n) // 2,
                "=word": [f"w{word}" if word.strip()[:1].isdecimal() else word for word in words],
                "x": rng.normal(size=n),
                "done": rng.choice(["=stop", "-go"], size=n),
                "gain": rng.normal(size=n),
            }
        )
        roles: dict[str, Any] = {
            "episode": "who", "obs": ["=word", "x"], "action": "done", "reward": "gain",
            "ends": "terminated", "categories": ["=word"],
        }  # fmt: skip
        data = offrl.Dataset.from_dataframe(frame, **roles)
        made = offrl.export_file(data, tmp_path_factory.mktemp("out") / f"a.{kind}")
        again = offrl.import_file(made.path, **options(made))
        assert again.fingerprint == data.fingerprint
        assert again.spec.columns == data.spec.columns

    def test_what_was_saved_is_exported_by_its_id(self, tmp_path: Path):
        data = random_data(0, [3, 2], discrete=True, logged=True).save("me/shop-v0")
        made = offrl.export_file("me/shop-v0", tmp_path / "a.h5")
        assert (made.format, made.rows) == ("d4rl", 5)
        assert made.bytes == (tmp_path / "a.h5").stat().st_size
        again = offrl.import_file(tmp_path / "a.h5", action_space=spaces.Discrete(3))
        assert again.fingerprint == data.fingerprint

    def test_masks_go_with_the_table(self, tmp_path: Path):
        frame = pd.DataFrame({"x": [1.0, 2.0], "a": [0, 2], "r": [0.0, 1.0], "m": ["110", "011"]})
        data = offrl.Dataset.from_dataframe(
            frame, bandit=True, obs="x", action="a", reward="r", action_mask="m",
            action_values="0-2",
        )  # fmt: skip
        made = offrl.export_file(data, tmp_path / "a.csv")
        again = offrl.import_file(made.path, **options(made))
        assert again[1].infos["action_mask"].tolist() == [[False, True, True]]
        assert again.fingerprint == data.fingerprint


class TestCells:
    @given(st.text())
    def test_a_guard_comes_off_again(self, text: str):
        assert unguarded(guarded(text)) == text

    @given(st.sampled_from("=+-@\t\r"), st.text())
    def test_no_guarded_cell_begins_like_a_formula(self, mark: str, rest: str):
        assert guarded(mark + rest) == f"'{mark}{rest}"

    def test_a_spreadsheet_runs_no_cell_of_an_export(self, tmp_path: Path):
        frame = pd.DataFrame(
            {"@x": [-1.5, 2.0], "c": ["=1+1", "+2"], "a": ["-cmd", "b"], "r": [-1.0, 1.0]}
        )
        data = offrl.Dataset.from_dataframe(
            frame, bandit=True, obs="@x,c", action="a", reward="r", categories="c"
        )
        made = offrl.export_file(data, tmp_path / "a.csv")
        with made.path.open(newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        for cell in cells:
            if cell[:1] in ("=", "+", "-", "@", "\t", "\r"):
                float(cell)  # a negative number is no formula
        assert "'=1+1" in cells
        assert "'@x" in cells


class TestFaults:
    def test_a_file_that_exists_is_left_alone(self, tmp_path: Path):
        data = random_data(0, [2], discrete=False, logged=False)
        path = tmp_path / "a.csv"
        path.write_text("mine")
        with pytest.raises(ConfigError, match="exists already"):
            offrl.export_file(data, path)
        assert path.read_text() == "mine"
        offrl.export_file(data, path, overwrite=True)
        assert path.read_text().startswith("episode,time,obs_0")

    @pytest.mark.parametrize(
        ("name", "format", "said"),
        [
            ("a.xls", None, "does not say a format"),
            ("a.csv", "cvs", "There is no format 'cvs'. Did you mean 'csv'?"),
            ("no/a.csv", None, "There is no folder"),
        ],
    )
    def test_words_that_are_off_write_nothing(
        self, tmp_path: Path, name: str, format: str | None, said: str
    ):
        data = random_data(0, [2], discrete=False, logged=False)
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(ConfigError) as raised:
            offrl.export_file(data, tmp_path / name, format=format)
        assert said in str(raised.value)
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_a_disk_that_refuses_leaves_the_old_file_whole(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
    ):
        data = random_data(0, [2], discrete=False, logged=False)
        path = tmp_path / "a.hdf5"
        offrl.export_file(data, path)
        before = path.read_bytes()

        def refuse(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        if call == "fsync":
            monkeypatch.setattr(durable.os, "fsync", refuse)
        else:
            monkeypatch.setattr(Path, "replace", refuse)
        with pytest.raises(OffrlError, match="No space left on device"):
            offrl.export_file(random_data(1, [3], discrete=False, logged=False), path,
                              overwrite=True)  # fmt: skip
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.glob("*a.hdf5*")] == ["a.hdf5"]
