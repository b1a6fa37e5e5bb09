"""Tables: what their columns become, which cell is at fault, and what stays with the policy."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from foreign_files import notes
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

import offrl
from offrl.errors import ConfigError, CorruptDataError, OffrlError

CLINIC = """patient,day,age,ward,treatment,cost,p,over
7,2,62,B,none,-0.5,0.5,died
7,1,61,B,drug A,-3.5,0.25,
9,1,47,A,drug B,-1,1,
9,2,48,A,none,-2,0.5,
9,3,49,B,,,,
"""
ROLES: dict[str, Any] = {
    "episode": "patient",
    "time": "day",
    "obs": "age,ward",
    "action": "treatment",
    "reward": "cost",
    "ends": "truncated",
}


def clinic(tmp_path: Path, text: str = CLINIC, **roles: Any) -> offrl.Dataset:
    path = tmp_path / "clinic.csv"
    path.write_text(text)
    given = {key: value for key, value in {**ROLES, **roles}.items() if value is not None}
    return offrl.import_file(path, **given)


class TestEpisodes:
    def test_rows_are_sorted_into_episodes_by_time(self, tmp_path: Path):
        data = clinic(tmp_path)
        assert [len(episode) for episode in data] == [2, 2]
        assert data[0].observations["numbers"][:, 0].tolist() == [61, 62, 62]
        assert data[0].rewards.tolist() == [-3.5, -0.5]
        assert data.spec.action_space == spaces.Discrete(3)
        assert data[0].actions.tolist() == [0, 2]  # drug A, none

    def test_a_last_row_without_action_and_reward_is_the_state_after_the_end(self, tmp_path: Path):
        data = clinic(tmp_path)
        assert data[1].observations["numbers"][:, 0].tolist() == [47, 48, 49]
        assert data[1].observations["categories"][:, 0].tolist() == [0, 0, 1]
        assert "for which the one before stands in: 1;" in notes(data)

    @pytest.mark.parametrize("ends", ["terminated", "truncated"])
    def test_one_word_says_how_all_episodes_end(self, tmp_path: Path, ends: str):
        built = clinic(tmp_path, ends=ends).transitions
        assert built.terminated.tolist() == [False, ends == "terminated"] * 2
        assert built.truncated.tolist() == [False, ends == "truncated"] * 2

    def test_a_column_says_how_each_ends(self, tmp_path: Path):
        data = clinic(tmp_path, CLINIC.replace("died", "terminated"), ends="over")
        assert data.transitions.terminated.tolist() == [False, True, False, False]
        assert data.transitions.truncated.tolist() == [False, False, False, True]
        assert "without an end in 'over', which count as truncated: 1" in notes(data)

    def test_propensities_belong_to_their_rows(self, tmp_path: Path):
        built = clinic(tmp_path, propensity="p").transitions
        assert np.exp(built.behavior_log_prob).tolist() == pytest.approx([0.25, 0.5, 1, 0.5])

    def test_a_bandit_table_has_an_episode_in_every_row(self, tmp_path: Path):
        text = "x,item,click,p\n0.5,3,0,0.25\n1.5,4,1,0.5\n"
        data = clinic(
            tmp_path, text, bandit=True, episode=None, time=None, ends=None,
            obs="x", action="item", reward="click", propensity="p", action_values="3-6",
        )  # fmt: skip
        assert [len(episode) for episode in data] == [1, 1]
        assert data.transitions.terminated.all()
        assert data.spec.action_space == spaces.Discrete(4, start=3)
        assert data.log_prob == "logged"

    def test_masks_are_kept_and_hold(self, tmp_path: Path):
        text = "e,x,a,r,m\n0,1,0,1,110\n0,2,2,1,011\n"
        roles = {"episode": "e", "time": None, "obs": "x", "action": "a", "reward": "r"}
        data = clinic(tmp_path, text, **roles, action_values="0-2", action_mask="m")
        assert data[0].infos["action_mask"].tolist() == [[True, True, False], [False, True, True]]
        with pytest.raises(CorruptDataError, match="action of row 1 is one that its mask forbids"):
            clinic(tmp_path, text.replace("011", "110"), **roles, action_values="0-2",
                   action_mask="m")  # fmt: skip
        with pytest.raises(CorruptDataError, match="The mask 'm' is '11' in row 0"):
            clinic(tmp_path, text.replace("110", "11"), **roles, action_values="0-2",
                   action_mask="m")  # fmt: skip

    def test_masks_may_be_one_column_for_each_action(self, tmp_path: Path):
        text = "e,x,a,r,m_0,m_1\n0,1,0,1,1,0\n0,2,1,1,1,1\n"
        roles = {"episode": "e", "time": None, "obs": "x", "action": "a", "reward": "r"}
        data = clinic(tmp_path, text, **roles, action_mask="m_*")
        assert data[0].infos["action_mask"].tolist() == [[True, False], [True, True]]

    @given(
        lengths=st.lists(st.integers(1, 5), min_size=1, max_size=5), seed=st.integers(0, 2**32 - 1)
    )
    def test_the_order_of_the_rows_does_not_matter(self, lengths: list[int], seed: int):
        rng = np.random.default_rng(seed)
        n = sum(lengths)
        frame = pd.DataFrame(
            {
                "who": np.repeat(np.arange(len(lengths)), lengths),
                "when": np.concatenate([np.arange(length) for length in lengths]),
                "x": rng.normal(size=n),
                "kind": rng.choice(["a", "b"], size=n),
                "dose": rng.normal(size=n),
                "gain": rng.normal(size=n),
            }
        )
        roles: dict[str, Any] = {
            "episode": "who", "time": "when", "obs": "x,kind", "action": "dose", "reward": "gain",
            "ends": "terminated", "categories": "kind",
        }  # fmt: skip
        whole = offrl.Dataset.from_dataframe(frame, **roles)
        shuffled = offrl.Dataset.from_dataframe(frame.sample(frac=1, random_state=seed), **roles)
        returns = sorted(e.episode_return for e in whole)
        assert sorted(e.episode_return for e in shuffled) == pytest.approx(returns)
        assert sorted(len(e) for e in shuffled) == sorted(lengths)


class TestColumns:
    def test_text_is_choices_and_numbers_are_numbers(self, tmp_path: Path):
        spec = clinic(tmp_path).spec
        assert isinstance(spec.observation_space, spaces.Dict)
        assert [part.path for part in spec.obs_parts] == ["numbers", "categories"]
        assert spec.obs_dim == 1 + 2
        assert spec.columns is not None
        assert spec.columns.categories[0].values == ("A", "B")

    def test_numbers_are_choices_where_that_is_said(self, tmp_path: Path):
        spec = clinic(tmp_path, categories="age").spec
        assert spec.columns is not None
        assert [c.values for c in spec.columns.categories] == [(47, 48, 49, 61, 62), ("A", "B")]

    def test_patterns_pass_over_columns_that_have_another_role(self, tmp_path: Path):
        text = "f_e,f_1,f_2,f_a,f_r\n0,1,2,0,1\n0,3,4,1,1\n"
        data = clinic(tmp_path, text, episode="f_e", time=None, obs="f_*", action="f_a",
                      reward="f_r")  # fmt: skip
        assert data[0].observations.tolist() == [[1, 2], [3, 4], [3, 4]]

    def test_amounts_are_written_with_a_point(self, tmp_path: Path):
        text = "e,x,dose,r\n0,1,1.0,1\n0,2,2.5,1\n"
        data = clinic(tmp_path, text, episode="e", time=None, obs="x", action="dose", reward="r",
                      action_bounds=(0.0, 5.0))  # fmt: skip
        assert data.spec.action_space == spaces.Box(0, 5, (1,), np.float64)

    def test_missing_values_are_filled_by_what_was_said(self, tmp_path: Path):
        text = CLINIC.replace("48,A", ",A").replace("61,B", "61,")
        spec = clinic(tmp_path, text, fill="age=median,ward=C").spec
        assert spec.columns is not None
        assert spec.columns.numbers[0].fill == 55
        assert spec.columns.categories[0].fill == "C"
        assert spec.columns.categories[0].values == ("A", "B", "C")


class TestFaults:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (("7,1,61,B,drug A", "7,1,61,B"), "line 3 (row 1): 7 cells, where the header has 8"),
            (("61,B", "x,B"), "'age' holds 'x' in row 1, where most are numbers"),
            (("61,B", ",B"), "'age' has no value in row 1 (1 such)"),
            (("61,B", "inf,B"), "'age' is infinite in row 1"),
            (("-3.5", "much"), "'cost' holds 'much' in row 1"),
            (("-3.5", ""), "'cost' has no value in row 1"),
            (("drug A", ""), "'treatment' has no value in row 1"),
            (("7,1,61", ",1,61"), "'patient' has no value in row 1"),
            (("7,1,61", "7,,61"), "'day' has no value in row 1"),
            (("7,1,61", "7,2,61"), "'day' has one value in rows 0 and 1 of one episode"),
            (("age", "ward"), "two columns are called 'ward'"),
            (("drug A,-3.5,0.25", ",,"), "'treatment' has no value in row 1, and the episode goes"),
        ],
    )
    def test_the_row_and_the_column_are_named(
        self, tmp_path: Path, change: tuple[str, str], said: str
    ):
        with pytest.raises(CorruptDataError) as raised:
            clinic(tmp_path, CLINIC.replace(*change, 1))
        assert said in str(raised.value)

    @pytest.mark.parametrize("text", ["", "\n", "a,b\n"])
    def test_a_table_without_rows_is_refused(self, tmp_path: Path, text: str):
        with pytest.raises(CorruptDataError, match=r"empty|no rows"):
            clinic(tmp_path, text)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"a,b\n\xff,1\n", "is not UTF-8"),
            (b'a,b\n"1,2\n', "line 2"),
            (b"a,b\n1,\x002\n", "line 2: a NUL byte"),
        ],
    )
    def test_what_is_no_table_is_refused(self, tmp_path: Path, content: bytes, said: str):
        path = tmp_path / "a.csv"
        path.write_bytes(content)
        with pytest.raises(OffrlError, match=said):
            offrl.import_file(path, **{**ROLES, "episode": "a", "time": "a", "obs": "b"})

    @pytest.mark.parametrize(
        ("role", "value", "said"),
        [
            ("ends", None, "--ends is missing, and there is no safe guess. Give --ends terminated"),
            ("episode", None, "--episode is missing"),
            ("obs", None, "--obs is missing"),
            ("obs", "aeg", "the table has no column 'aeg'. Did you mean 'age'?"),
            ("obs", "z_*", "the table has no column 'z_*'"),
            ("ends", "overr", "the table has no column 'overr'. Did you mean 'over'?"),
            ("log_prob", "p", "--propensity and --log-prob are two words"),
            ("bandit", True, "In a bandit table every row is an episode"),
            ("fill", "wardd=3", "'wardd' is no observation column"),
            ("action_bounds", (0.0, 1.0), "holds choices, which have no bounds"),
            ("color", "red", "--color means nothing for a CSV table"),
        ],
    )
    def test_a_role_that_is_off_names_what_to_type(
        self, tmp_path: Path, role: str, value: Any, said: str
    ):
        with pytest.raises(ConfigError) as raised:
            clinic(tmp_path, **{"propensity": "p", role: value})
        assert said in str(raised.value)

    @pytest.mark.parametrize(
        ("role", "cell", "said"),
        [
            ("propensity", "0", "'p' is 0 in row 1"),
            ("propensity", "1.5", "'p' is 1.5 in row 1"),
            ("log_prob", "0.25", "'p' is 0.5 in row 0"),
        ],
    )
    def test_a_probability_that_is_none_is_named(
        self, tmp_path: Path, role: str, cell: str, said: str
    ):
        with pytest.raises(CorruptDataError) as raised:
            clinic(tmp_path, CLINIC.replace("0.25", cell), **{role: "p"})
        assert said in str(raised.value)

    def test_a_word_that_says_no_end_is_named(self, tmp_path: Path):
        with pytest.raises(CorruptDataError, match="'over' holds 'died' in row 0"):
            clinic(tmp_path, ends="over")

    def test_an_action_that_was_not_declared_is_named(self, tmp_path: Path):
        with pytest.raises(CorruptDataError, match="'treatment' holds 'none' in row 0"):
            clinic(tmp_path, action_values="drug A,drug B")


class TestFrames:
    def test_a_frame_and_its_csv_are_the_same_dataset(self, tmp_path: Path):
        frame = pd.DataFrame(
            {"e": [0, 0], "x": [0.1, 0.2], "c": ["u", "v"], "a": [1, 0], "r": [1.0, 2.0]}
        )
        roles: dict[str, Any] = {
            "episode": "e", "obs": "x,c", "action": "a", "reward": "r", "ends": "terminated"
        }  # fmt: skip
        path = tmp_path / "a.csv"
        frame.to_csv(path, index=False)
        one = offrl.Dataset.from_dataframe(frame, **roles)
        assert one.fingerprint == offrl.import_file(path, **roles).fingerprint
        frame.to_parquet(tmp_path / "a.parquet")
        other = offrl.import_file(tmp_path / "a.parquet", **roles)
        assert (one.fingerprint, one.spec.columns) == (other.fingerprint, other.spec.columns)

    def test_missing_values_of_every_kind_are_missing(self):
        frame = pd.DataFrame(
            {
                "e": [0, 0, 0],
                "x": pd.array([1, None, 3], dtype="Int64"),
                "c": pd.Categorical(["u", None, "v"]),
                "a": [0, 1, 0],
                "r": [0.0, 1, 2],
            }
        )
        roles: dict[str, Any] = {
            "episode": "e", "obs": "x,c", "action": "a", "reward": "r", "ends": "terminated"
        }  # fmt: skip
        with pytest.raises(CorruptDataError, match="'x' has no value in row 1"):
            offrl.Dataset.from_dataframe(frame, **roles)
        data = offrl.Dataset.from_dataframe(frame, **roles, fill="mode")
        assert data[0].observations["numbers"][:3, 0].tolist() == [1, 1, 3]
        assert data[0].observations["categories"][:3, 0].tolist() == [0, 0, 1]

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"a": [[1, 2], [3]]}, "'a' holds a list in row 0"),
            ({"x": [[1, 2], [3]]}, "'x' holds a list in row 0"),
            ({"x": pd.to_datetime(["2026-01-01", "2026-01-02"])}, "'x' holds dates"),
            ({"e": [[1], [2]]}, "'e' holds a list in row 0"),
            ({"m": [1.0, 2.0]}, "The mask 'm' is 1.0 in row 0"),
            ({"x": ["1,5", "2,25"]}, "'x' holds '1,5' in row 0: a comma"),
        ],
    )
    def test_a_cell_that_is_no_value_is_named(self, change: dict[str, Any], said: str):
        frame = pd.DataFrame(
            {"e": [0, 1], "x": [1.0, 2.0], "a": [0, 1], "r": [0, 1], "m": ["11", "11"]} | change
        )
        with pytest.raises(CorruptDataError) as raised:
            offrl.Dataset.from_dataframe(
                frame, episode="e", obs="x", action="a", reward="r", ends="truncated",
                action_mask="m",
            )  # fmt: skip
        assert said in str(raised.value)

    def test_an_unknown_role_is_answered_with_the_nearest(self):
        with pytest.raises(ConfigError, match=r"actions means nothing for a data frame\. Did you"):
            offrl.Dataset.from_dataframe(pd.DataFrame({"a": [1]}), actions="a")

    def test_what_is_no_frame_is_refused(self):
        with pytest.raises(ConfigError, match="A list is not a data frame"):
            offrl.Dataset.from_dataframe([1, 2], **ROLES)


class TestOpenBandit:
    """Logs of a shop, with the propensities that it had: figures as its README has them."""

    @pytest.mark.parametrize(("policy", "rate"), [("random", 0.0046), ("bts", 0.0069)])
    def test_clicks_and_propensities(self, realdata: Path, policy: str, rate: float):
        data = offrl.import_file(
            realdata / f"open-bandit-dataset/{policy}/men/men.csv",
            bandit=True,
            obs="position,user_feature_*,user-item_affinity_*",
            categories="position",
            action="item_id",
            action_values="0-33",
            reward="click",
            propensity="propensity_score",
        )
        built = data.transitions
        assert len(data) == len(built) == 10_000
        assert built.reward.mean() == pytest.approx(rate, abs=5e-5)
        assert data.spec.action_dim == 34
        assert built.terminated.all()
        if policy == "random":
            assert np.allclose(np.exp(built.behavior_log_prob), 1 / 34)
            return
        weight = (1 / 34) / np.exp(built.behavior_log_prob)
        assert (weight * built.reward).mean() == pytest.approx(0.00301, abs=5e-6)
        assert weight.sum() ** 2 / (weight**2).sum() == pytest.approx(656, abs=1)
        assert (weight * built.reward).sum() / weight.sum() == pytest.approx(0.00319, abs=5e-6)
