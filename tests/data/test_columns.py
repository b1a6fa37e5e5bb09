"""Columns: a table's values become numbers and come back, and strangers are named."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from offrl.data.columns import Category, Columns, Number
from offrl.data.spec import Spec
from offrl.errors import ConfigError, CorruptDataError

COLUMNS = Columns(
    obs=(
        Number("age", fill=50.0),
        Category("ward", ("A", "B"), fill="B"),
        Number("lab"),
        Category("level", (1, 2, 5)),
    ),
    action=(Category("drug", ("none", "x")),),
)
ROW = {"age": 61, "ward": "A", "lab": 0.5, "level": 5}


class TestEncoding:
    def test_one_row_and_a_frame_of_rows_agree(self):
        frame = pd.DataFrame([ROW, {**ROW, "age": 40, "ward": "B"}])
        many = COLUMNS.encode_obs(frame)
        assert many["numbers"].tolist() == [[61, 0.5], [40, 0.5]]
        assert many["categories"].tolist() == [[0, 2], [1, 2]]
        for i, one in enumerate([ROW, frame.iloc[0], frame.iloc[0].to_dict()]):
            encoded = COLUMNS.encode_obs(one)
            assert encoded["numbers"].tolist() == [61, 0.5], i
            assert encoded["categories"].tolist() == [0, 2]

    @pytest.mark.parametrize("nothing", [None, float("nan"), "", pd.NA, pd.NaT])
    def test_a_missing_value_is_filled(self, nothing: Any):
        encoded = COLUMNS.encode_obs({**ROW, "age": nothing, "ward": nothing})
        assert encoded["numbers"][0] == 50
        assert encoded["categories"][0] == 1

    def test_columns_that_nobody_asked_for_are_passed_over(self):
        assert COLUMNS.encode_obs({**ROW, "name": "Bo"})["numbers"][0] == 61

    def test_what_is_in_the_form_of_the_space_is_left_as_it_is(self):
        encoded = COLUMNS.encode_obs(ROW)
        assert COLUMNS.encode_obs(encoded) is encoded

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"ward": "C"}, "'ward' holds 'C' in row 0, which is none of its 2 values"),
            ({"level": 3}, "'level' holds 3 in row 0"),
            ({"lab": None}, "'lab' has no value in row 0"),
            ({"level": None}, "'level' has no value in row 0"),
            ({"age": "old"}, "'age' holds 'old' in row 0"),
        ],
    )
    def test_a_value_that_the_data_never_had_is_named(self, change: dict[str, Any], said: str):
        with pytest.raises(ConfigError) as raised:
            COLUMNS.encode_obs({**ROW, **change})
        assert said in str(raised.value)

    def test_a_column_that_is_missing_is_named_with_the_nearest(self):
        row = {("wards" if key == "ward" else key): value for key, value in ROW.items()}
        with pytest.raises(ConfigError, match=r"no column 'ward'\. Did you mean 'wards'"):
            COLUMNS.encode_obs(row)

    def test_columns_of_different_lengths_are_refused(self):
        with pytest.raises(ConfigError, match="have \\[2, 3\\] rows"):
            COLUMNS.encode_obs({"age": [1, 2], "ward": "A", "lab": [1, 2, 3], "level": 1})

    @given(st.lists(st.sampled_from(["none", "x"]), min_size=1))
    def test_actions_come_back(self, actions: list[str]):
        codes = COLUMNS.encode_actions(actions)
        assert COLUMNS.decode_actions(codes).tolist() == actions
        assert COLUMNS.decode_actions(codes[0]) == actions[0]

    @given(
        st.lists(
            st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([1, 2, 5])),
            min_size=1,
        )
    )
    def test_observations_come_back(self, rows: list[tuple[float, int]]):
        frame = {"age": [r[0] for r in rows], "ward": ["A"] * len(rows), "lab": [0.0] * len(rows),
                 "level": [r[1] for r in rows]}  # fmt: skip
        back = COLUMNS.decode_obs(COLUMNS.encode_obs(frame))
        assert {name: column.tolist() for name, column in back.items()} == frame


class TestDescription:
    def test_it_survives_json_inside_a_spec(self):
        spec = Spec(COLUMNS.observation_space(), spaces.Discrete(2), COLUMNS)
        again = Spec.from_json(spec.to_json())
        assert again == spec
        assert again.columns == COLUMNS
        assert spec.obs_dim == 2 + 2 + 3

    def test_a_spec_without_columns_says_nothing_of_them(self):
        spec = Spec(COLUMNS.observation_space(), spaces.Discrete(2))
        assert set(spec.to_json()) == {"observation_space", "action_space"}
        assert spec.encode_obs(ROW) is ROW

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "{",
            json.dumps({"obs": [{"name": 3}], "action": []}),
            json.dumps({"obs": [{"name": "a", "values": []}], "action": []}),
            json.dumps({"obs": [{"name": "a", "values": [True]}], "action": []}),
            json.dumps({"obs": [{"name": "a", "values": [[1]]}], "action": []}),
            json.dumps({"obs": [{"name": "a", "fill": "x"}], "action": []}),
            json.dumps({"obs": [{"name": "numbers"}], "action": []}),
            "[" * 100_000,
            None,
        ],
    )
    def test_a_description_that_is_none_is_damage(self, text: Any):
        with pytest.raises(CorruptDataError, match="cannot be read"):
            Columns.from_json(text)

    def test_a_column_cannot_have_the_name_of_a_part(self):
        with pytest.raises(ConfigError, match="cannot be called 'categories'"):
            Columns((Number("categories"),), ())


def test_choices_of_one_kind_keep_their_type():
    assert Category("a", (1, 2)).decode(np.array([1])).dtype.kind == "i"
    assert Category("a", ("u", 2)).decode(np.array([0])).tolist() == ["u"]
