"""Spaces become the columns that gymnasium's own flattening gives."""

import pickle
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from minari_files import stacked

from offrl.data.spec import Spec
from offrl.errors import ConfigError

ACTION = spaces.Box(-1, 1, (2,), np.float32)

boxes = st.builds(
    lambda shape, dtype: spaces.Box(0, 100, tuple(shape), dtype),
    st.lists(st.integers(1, 3), max_size=3),
    st.sampled_from([np.float32, np.float64, np.uint8, np.int16]),
)
discretes = st.builds(
    lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 5), st.integers(-3, 3)
)
multi_discretes = st.builds(
    lambda sizes, start: spaces.MultiDiscrete(sizes, start=[start] * len(sizes)),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.integers(-2, 2),
)
multi_binaries = st.builds(spaces.MultiBinary, st.integers(1, 4))
numbers = boxes | discretes | multi_discretes | multi_binaries
nested = st.recursive(
    numbers,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple)
        | st.dictionaries(st.sampled_from("bac"), inner, min_size=1).map(spaces.Dict)
    ),
    max_leaves=5,
)


@given(nested, st.integers(0, 1000))
def test_flat_observations_are_those_of_gymnasium(space: spaces.Space[Any], seed: int) -> None:
    spec = Spec(space, ACTION)
    space.seed(seed)
    samples = [space.sample() for _ in range(4)]
    expected = np.stack([np.asarray(spaces.flatten(space, x)) for x in samples]).astype(np.float32)
    flat = spec.flatten_obs(stacked(samples))
    assert flat.dtype == np.float32
    assert flat.flags.c_contiguous
    np.testing.assert_array_equal(flat, expected)
    np.testing.assert_array_equal(spec.flatten_obs_one(samples[2]), expected[2])
    assert spec.obs_dim == spaces.flatdim(space)


@given(nested)
def test_the_parts_cover_every_column_once_in_order(space: spaces.Space[Any]) -> None:
    parts = Spec(space, ACTION).obs_parts
    assert parts[0].start == 0
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    assert len({part.path for part in parts}) == len(parts)


@given(nested, st.booleans())
def test_a_spec_survives_its_json_form(space: spaces.Space[Any], discrete: bool) -> None:
    spec = Spec(space, spaces.Discrete(3, start=1) if discrete else ACTION)
    assert Spec.from_json(spec.to_json()) == spec
    assert Spec.from_json(spec.to_json()).obs_parts == spec.obs_parts
    assert pickle.loads(pickle.dumps(spec)) == spec  # noqa: S301 - its own bytes: seeds run in other processes


def test_text_is_a_part_without_columns() -> None:
    space = spaces.Dict(
        [("mission", spaces.Text(9)), ("direction", spaces.Discrete(4)), ("x", ACTION)]
    )
    spec = Spec(space, ACTION)
    assert [(part.path, part.start, part.stop) for part in spec.obs_parts] == [
        ("mission", 0, 0),
        ("direction", 0, 4),
        ("x", 4, 6),
    ]
    obs = {"mission": "go", "direction": 2, "x": np.array([0.5, -0.5], np.float32)}
    np.testing.assert_array_equal(spec.flatten_obs_one(obs), [0, 0, 1, 0, 0.5, -0.5])


def test_the_space_keeps_its_own_order() -> None:
    pairs = [("z", spaces.Discrete(2)), ("a", spaces.Discrete(3))]
    spec = Spec(spaces.Dict(pairs), ACTION)
    assert [part.path for part in spec.obs_parts] == ["z", "a"]
    assert [part.path for part in Spec.from_json(spec.to_json()).obs_parts] == ["z", "a"]


@pytest.mark.parametrize(
    ("space", "named"),
    [
        (spaces.Dict({"ok": ACTION, "graph": spaces.Graph(ACTION, None)}), "'graph'"),
        (spaces.Tuple([ACTION, spaces.Sequence(ACTION)]), "'1'"),
        (spaces.OneOf([ACTION, ACTION]), "OneOf"),
        (spaces.Text(4), "no numbers"),
        (spaces.Dict({"a/b": ACTION}), "'a/b'"),
        (spaces.Dict({"..": ACTION}), "'..'"),
    ],
)
def test_an_unsupported_observation_names_the_part(space: spaces.Space[Any], named: str) -> None:
    with pytest.raises(ConfigError, match=r"Graph|Sequence|OneOf|no numbers|named") as refused:
        Spec(space, ACTION)
    assert named in refused.value.cause


@pytest.mark.parametrize(
    "space", [spaces.MultiDiscrete([2, 2]), spaces.Dict({"a": ACTION}), spaces.Text(3)]
)
def test_an_unsupported_action_names_its_kind(space: spaces.Space[Any]) -> None:
    with pytest.raises(ConfigError, match=type(space).__name__):
        Spec(ACTION, space)


def test_continuous_actions_flatten_and_return_to_the_environment() -> None:
    space = spaces.Box(-2, 2, (2, 3), np.float64)
    spec = Spec(ACTION, space)
    actions = np.stack([space.sample() for _ in range(5)])
    flat = spec.flatten_actions(actions)
    assert flat.shape == (5, 6)
    assert flat.dtype == np.float32
    action = spec.env_action(flat[3])
    assert action.shape == (2, 3)
    assert action.dtype == np.float64
    np.testing.assert_allclose(action, actions[3], rtol=1e-6)
    np.testing.assert_array_equal(spec.env_actions(flat)[3], action)


def test_discrete_actions_count_from_zero_inside_and_from_the_start_outside() -> None:
    spec = Spec(ACTION, spaces.Discrete(3, start=5))
    flat = spec.flatten_actions(np.array([5, 7, 6], np.int32))
    assert flat.tolist() == [0, 2, 1]
    assert flat.dtype == np.int64
    assert [spec.env_action(row) for row in flat] == [5, 7, 6]
    assert type(spec.env_action(flat[0])) is int
    assert spec.env_actions(flat).tolist() == [5, 7, 6]


@pytest.mark.parametrize(
    ("actions", "fragment"),
    [
        (np.array([0.0, 1.0]), "float64"),
        (np.array([True, False]), "bool"),
        (np.array([0, 3]), "outside 0 .. 2"),
        (np.array([-1, 0]), "outside 0 .. 2"),
        (np.array([[0], [1]]), "shape"),
    ],
)
def test_discrete_actions_of_another_kind_are_refused(actions: Any, fragment: str) -> None:
    """Fault N11."""
    with pytest.raises(ConfigError, match=fragment):
        Spec(ACTION, spaces.Discrete(3)).flatten_actions(actions)


@pytest.mark.parametrize("actions", [np.zeros((4, 3)), np.zeros(4), np.zeros((4, 2), bool)])
def test_continuous_actions_of_another_shape_or_kind_are_refused(actions: Any) -> None:
    with pytest.raises(ConfigError, match=r"actions|Actions"):
        Spec(ACTION, ACTION).flatten_actions(actions)


def test_whole_number_boxes_round_to_the_nearest_action() -> None:
    spec = Spec(ACTION, spaces.Box(0, 9, (2,), np.int32))
    action = spec.env_action(np.array([2.6, 11.0]))
    assert action.tolist() == [3, 9]
    assert action.dtype == np.int32


def test_bounds_never_round_outwards() -> None:
    space = spaces.Box(np.array([0.1, -np.inf]), np.array([0.3, np.inf]), (2,), np.float64)
    spec = Spec(ACTION, space)
    assert spec.action_low.dtype == np.float32
    assert space.contains(spec.env_action(np.array([spec.action_low[0], 0.0])))
    assert space.contains(spec.env_action(np.array([spec.action_high[0], 0.0])))
    assert np.isneginf(spec.action_low[1])
    with pytest.raises(ConfigError, match="no bounds"):
        _ = Spec(ACTION, spaces.Discrete(2)).action_low


def test_one_observation_is_told_from_a_batch() -> None:
    spec = Spec(spaces.Dict({"text": spaces.Text(4), "x": ACTION}), ACTION)
    assert spec.obs_count({"text": "a", "x": np.zeros(2)}) is None
    assert spec.obs_count({"text": ["a"] * 5, "x": np.zeros((5, 2))}) == 5
    with pytest.raises(ConfigError, match=r"'x'.*shape \(3,\)"):
        spec.obs_count({"text": "a", "x": np.zeros(3)})


@pytest.mark.parametrize(
    ("obs", "fragment"),
    [
        ({"x": np.zeros((2, 2))}, "'d' is missing"),
        ({"x": np.zeros((2, 3)), "d": np.zeros(2, int)}, r"'x' has the shape \(2, 3\)"),
        ({"x": np.zeros((2, 2)), "d": np.zeros(3, int)}, r"'d' has the shape \(3,\)"),
        ({"x": np.zeros((2, 2)), "d": np.array([0, 4])}, "'d' holds a choice outside"),
        ({"x": np.zeros((2, 2)), "d": np.array([0.0, 1.0])}, "'d' is float64"),
        ({"x": np.array([["a", "b"]] * 2), "d": np.zeros(2, int)}, "'x' is <U1"),
        (np.zeros((2, 2)), "is missing"),
    ],
)
def test_an_observation_that_does_not_fit_names_the_part(obs: Any, fragment: str) -> None:
    spec = Spec(spaces.Dict([("x", ACTION), ("d", spaces.Discrete(4))]), ACTION)
    with pytest.raises(ConfigError, match=fragment):
        spec.flatten_obs(obs)
