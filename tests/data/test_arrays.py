"""Plain arrays become episodes where the flags say so, or it is said what does not fit."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from minari_files import episode

from offrl import Dataset
from offrl.errors import ConfigError


def arrays(lengths: list[int]) -> dict[str, Any]:
    """Episodes of these lengths as arrays, and the T+1 observations of each in a row."""
    made = [episode(steps, i, terminated=i % 2 == 0) for i, steps in enumerate(lengths)]
    return {
        "obs": np.concatenate([one.observations for one in made]),
        "action": np.concatenate([one.actions for one in made]),
        "reward": np.concatenate([one.rewards for one in made]),
        "terminated": np.concatenate([one.terminations for one in made]),
        "truncated": np.concatenate([one.truncations for one in made]),
        "behavior_log_prob": np.concatenate([one.behavior_log_prob for one in made]),
    }


def paired(lengths: list[int]) -> dict[str, Any]:
    """The same as obs and next_obs of one row per step."""
    given = arrays(lengths)
    starts = np.cumsum([0] + [steps + 1 for steps in lengths])
    rows = np.concatenate([np.arange(a, a + n) for a, n in zip(starts, lengths, strict=False)])
    return given | {"obs": given["obs"][rows], "next_obs": given["obs"][rows + 1]}


lengths = st.lists(st.integers(1, 5), min_size=1, max_size=4)


def test_no_steps_at_all_are_called_so() -> None:
    none = np.zeros(0)
    with pytest.raises(ConfigError, match="there are no steps"):
        Dataset.from_arrays(np.zeros((0, 2)), none.astype(int), none, none, none)


@given(lengths)
def test_both_ways_of_giving_observations_make_the_same_data(steps: list[int]) -> None:
    one, two = Dataset.from_arrays(**arrays(steps)), Dataset.from_arrays(**paired(steps))
    assert one.fingerprint == two.fingerprint
    assert [len(e) for e in one] == steps
    assert one.log_prob == "logged"
    np.testing.assert_array_equal(one.transitions.obs, paired(steps)["obs"])
    np.testing.assert_array_equal(one.transitions.next_obs, paired(steps)["next_obs"])
    np.testing.assert_array_equal(
        one.transitions.behavior_log_prob, arrays(steps)["behavior_log_prob"]
    )


def test_an_open_last_end_is_truncated_with_a_warning() -> None:
    given = paired([2, 3])
    given["terminated"][-1] = given["truncated"][-1] = False
    with pytest.warns(UserWarning, match="last episode has no end"):
        data = Dataset.from_arrays(**given)
    assert data.transitions.truncated[-1]
    assert not data.transitions.terminated[-1]


def test_nested_observations_are_taken_part_by_part() -> None:
    given = paired([2, 3])
    given["obs"] = {"x": given["obs"], "sign": (given["obs"][:, 0] > 0).astype(np.int8)}
    given["next_obs"] = {
        "x": given["next_obs"],
        "sign": (given["next_obs"][:, 0] > 0).astype(np.int8),
    }
    data = Dataset.from_arrays(**given)
    assert data.spec.obs_dim == 4
    assert data[1].observations["sign"].shape == (4,)


def test_the_type_alone_decides_whether_actions_are_discrete() -> None:
    given = arrays([3])
    given["action"] = np.array([0, 2, 1])
    assert Dataset.from_arrays(**given).spec.action_space == spaces.Discrete(3)
    given["action"] = np.array([0.0, 2.0, 1.0])
    assert not Dataset.from_arrays(**given).spec.discrete


@pytest.mark.parametrize(
    "action",
    [np.zeros(3, bool), np.zeros((3, 2), int), np.array([-1, 0, 1]), np.array(list("abc"))],
)
def test_actions_that_could_be_anything_need_a_space(action: Any) -> None:
    with pytest.raises(ConfigError, match="action"):
        Dataset.from_arrays(**{**arrays([3]), "action": action})


@pytest.mark.parametrize(
    ("field", "value", "fragment"),
    [
        ("obs", np.zeros((5, 3)), "obs has 5 rows for 5 steps.*next_obs|observation after"),
        ("obs", np.zeros((6, 3)), "obs has 6 rows, where 7 are expected: 5 steps"),
        ("action", np.zeros((4, 2)), "action has 4 rows, where reward has 5"),
        ("reward", np.zeros((5, 1)), "reward is float64 of the shape"),
        ("reward", np.zeros(0), "reward is empty"),
        ("terminated", np.zeros(4, bool), "terminated has 4 rows"),
        ("terminated", np.full(5, 2), "terminated holds something other"),
        ("truncated", np.zeros((5, 1), bool), "truncated"),
        ("behavior_log_prob", np.zeros(4), "behavior_log_prob has 4 rows"),
        ("next_obs", np.zeros((5, 3)), "obs has 7 rows, where reward has 5"),
    ],
)
def test_what_does_not_fit_is_named(field: str, value: Any, fragment: str) -> None:
    with pytest.raises(ConfigError, match=fragment):
        Dataset.from_arrays(**{**arrays([2, 3]), field: value})


def test_next_obs_must_be_the_following_obs_inside_an_episode() -> None:
    given = paired([2, 3])
    given["next_obs"][3] += 1
    with pytest.raises(ConfigError, match="next_obs of step 3 is not the obs of step 4"):
        Dataset.from_arrays(**given)
    given = paired([2, 3])
    given["next_obs"][1] += 1  # the last step of an episode leads where no step starts
    assert Dataset.from_arrays(**given)[0].observations[-1, 0] == given["next_obs"][1, 0]


def test_next_obs_of_another_shape_is_named() -> None:
    given = paired([2, 3])
    with pytest.raises(ConfigError, match=r"next_obs has the shape \(5, 2\)"):
        Dataset.from_arrays(**{**given, "next_obs": given["next_obs"][:, :2]})


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint8, np.bool_])
def test_observations_of_any_number_type_are_held(dtype: Any) -> None:
    given = {**arrays([3]), "obs": np.ones((4, 2), dtype)}
    data = Dataset.from_arrays(**given)
    assert data.transitions.obs.tolist() == [[1.0, 1.0]] * 3


def test_zeros_and_ones_are_flags_too() -> None:
    given = arrays([2, 3])
    given["terminated"] = given["terminated"].astype(np.float32)
    assert Dataset.from_arrays(**given).n_episodes == 2
