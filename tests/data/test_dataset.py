"""A dataset is a sequence of episodes, its flat columns and its figures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from minari_files import ACTION, OBSERVATION, column, episode, replace_column

import offrl
from offrl.data.dataset import Dataset, load
from offrl.errors import ConfigError, CorruptDataError


def dataset(lengths: tuple[int, ...] = (4, 1, 3), **fields: Any) -> Dataset:
    made = [episode(steps, i, terminated=i == 0) for i, steps in enumerate(lengths)]
    made = [replace(one, **fields) for one in made]
    return Dataset.from_episodes(made, OBSERVATION, ACTION)


def test_it_is_a_sequence_of_episodes() -> None:
    data = dataset()
    assert len(data) == data.n_episodes == 3
    assert [len(one) for one in data] == [4, 1, 3]
    assert len(data[-1]) == 3
    assert [len(one) for one in data[1:]] == [1, 3]
    with pytest.raises(IndexError, match="episode 3 of 3"):
        data[3]
    assert repr(data) == "Dataset(in-memory, episodes=3, steps=8)"


def test_the_summary_holds_the_figures_that_scripts_rely_on() -> None:
    data = dataset()
    returns = [one.episode_return for one in data]
    assert data.summary() == {
        "dataset": "in-memory",
        "path": None,
        "episodes": 3,
        "steps": 8,
        "return_mean": pytest.approx(np.mean(returns)),
        "return_std": pytest.approx(np.std(returns, ddof=1)),
        "terminated_episodes": 1,
        "truncated_episodes": 2,
        "log_prob": "logged",
        "fingerprint": data.fingerprint,
    }
    assert dataset((3,)).summary()["return_std"] is None


@pytest.mark.parametrize(
    ("infos", "expected"),
    [
        ({}, "none"),
        ({"behavior_log_prob": np.full(3, np.nan)}, "none"),
        ({"behavior_log_prob": np.array([np.nan, -1.0, np.nan])}, "partial"),
        ({"behavior_log_prob": np.array([np.nan, -1.0, -1.0])}, "logged"),
    ],
)
def test_log_prob_says_how_much_is_logged(infos: dict[str, Any], expected: str) -> None:
    assert dataset((2, 2), infos=infos).log_prob == expected


def test_the_description_maps_the_parts_to_columns() -> None:
    space = spaces.Dict([("say", spaces.Text(3)), ("d", spaces.Discrete(2)), ("x", OBSERVATION)])
    made = [episode(2, observation_space=space)]
    described = Dataset.from_episodes(made, space, ACTION, env="Pendulum-v1").describe()
    assert described["env"] == "Pendulum-v1"
    assert [(part["path"], part["columns"]) for part in described["parts"]] == [
        ("say", None),
        ("d", [0, 2]),
        ("x", [2, 5]),
    ]
    assert described["action"] == "Box [2] in [-1, 1], float32"


def test_columns_and_fingerprint_are_computed_once() -> None:
    data = dataset()
    assert data.transitions is data.transitions
    before = data.fingerprint
    assert data.fingerprint == before == dataset().fingerprint


def test_choosing_episodes_gives_a_smaller_dataset() -> None:
    chosen = dataset().select([2, 0])
    assert [len(one) for one in chosen] == [3, 4]
    assert chosen.n_steps == 7
    assert chosen.select([1])[0].seed == 100
    np.testing.assert_array_equal(
        chosen.transitions.obs, dataset().transitions.take_episodes([2, 0]).obs
    )


def test_minaris_episodes_are_taken_as_they_are() -> None:
    class Foreign:
        def __init__(self) -> None:
            one = episode(2)
            self.observations, self.actions, self.rewards = (
                one.observations,
                one.actions,
                one.rewards,
            )
            self.terminations, self.truncations = one.terminations, one.truncations
            self.infos = None

    assert Dataset.from_episodes([Foreign()], OBSERVATION, ACTION)[0].infos == {}
    with pytest.raises(ConfigError, match="Item 0 is not an episode"):
        Dataset.from_episodes([5], OBSERVATION, ACTION)
    with pytest.raises(ConfigError, match="no episodes"):
        Dataset.from_episodes([], OBSERVATION, ACTION)


def test_a_malformed_episode_is_refused_when_it_is_given() -> None:
    """Fault R9."""
    one = episode(3)
    with pytest.raises(CorruptDataError, match="Episode 1: observations has 3 rows"):
        Dataset.from_episodes(
            [one, replace(one, observations=one.observations[:-1])], OBSERVATION, ACTION
        )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("field", "step", "named"),
    [("observations", 5, "observation"), ("actions", 2, "action"), ("rewards", 1, "reward")],
)
def test_a_value_that_is_not_finite_is_refused_where_it_lies(
    value: float, field: str, step: int, named: str
) -> None:
    """Fault N1: the error names episode, step, field and count."""
    made = [episode(5, i) for i in range(3)]
    broken = np.array(getattr(made[1], field))
    broken[step] = value
    made[1] = replace(made[1], **{field: broken})
    data = Dataset.from_episodes(made, OBSERVATION, ACTION)
    with pytest.raises(CorruptDataError) as refused:
        _ = data.transitions
    assert f"{named} is {np.float32(value)} at episode 1 step {step}" in refused.value.cause
    assert f"(values of {named} that are not finite: {broken[0].size})" in refused.value.cause
    assert "--allow-nonfinite drop-episode" in refused.value.remedy


def test_episodes_with_such_values_can_be_left_out(made: Path) -> None:
    """Fault N1, as asked for."""
    file = made / "data" / "main_data.hdf5"
    rewards = column(file, "episode_1/rewards")
    rewards[0] = np.nan
    replace_column(file, "episode_1/rewards", rewards)
    with pytest.raises(CorruptDataError, match="reward is nan at episode 1 step 0"):
        _ = load("me/made-v0").transitions
    with pytest.warns(UserWarning, match="1 of 3 episodes hold values that are not finite"):
        kept = load("me/made-v0", allow_nonfinite="drop-episode")
    assert kept.n_episodes == 2
    assert kept.n_steps == len(kept.transitions) == 7
    with pytest.raises(ConfigError, match="allow_nonfinite"):
        load("me/made-v0", allow_nonfinite="zero")  # pyright: ignore[reportArgumentType] - the point


def test_leaving_out_every_episode_is_refused(made: Path) -> None:
    file = made / "data" / "main_data.hdf5"
    for number, steps in enumerate((4, 1, 3)):
        replace_column(file, f"episode_{number}/rewards", np.full(steps, np.inf))
    with pytest.raises(CorruptDataError, match="every episode"):
        load("me/made-v0", allow_nonfinite="drop-episode")


def test_actions_outside_their_bounds_are_refused_or_moved_there(made: Path) -> None:
    """Fault N5."""
    file = made / "data" / "main_data.hdf5"
    actions = column(file, "episode_2/actions")
    actions[1] = [1.5, -3.0]
    replace_column(file, "episode_2/actions", actions)
    with pytest.raises(
        CorruptDataError, match=r"outside its bounds at episode 2 step 1 \(actions outside: 1\)"
    ):
        _ = load("me/made-v0").transitions
    clipped = load("me/made-v0", clip_actions=True).transitions.action
    assert clipped[6].tolist() == [1.0, -1.0]
    np.testing.assert_array_equal(clipped[5], actions[0])


def test_actions_at_a_bound_and_rounding_beyond_it_are_fine() -> None:
    """Fault N5: exactly at the bound."""
    edge = np.array([[1.0, -1.0], [1.0000001, -1.0000001]], np.float32)
    data = dataset((2,), actions=edge)
    assert data.transitions.action.tolist() == [[1.0, -1.0], [1.0, -1.0]]


def test_both_flags_mean_terminated() -> None:
    """Fault N6."""
    both = np.array([False, True])
    data = dataset((2,), terminations=both, truncations=both)
    assert data.transitions.terminated.tolist() == [False, True]
    assert data.summary()["terminated_episodes"] == 1
    assert data.summary()["truncated_episodes"] == 0


def test_an_end_that_is_missing_means_truncated() -> None:
    """Fault N6."""
    none = np.zeros(2, bool)
    data = dataset((2,), terminations=none, truncations=none)
    assert data.transitions.truncated.tolist() == [False, True]


def test_one_short_episode_is_a_dataset() -> None:
    """Fault N9."""
    data = dataset((1,))
    assert len(data.transitions) == 1
    assert offrl.check(data).ok


def test_saving_keeps_every_value(root: Path) -> None:
    data = dataset()
    saved = data.save("me/copy-v0")
    assert saved.fingerprint == data.fingerprint
    assert saved.path == root / "me" / "copy-v0"
    assert [one.seed for one in saved] == [100, 101, 102]
    with pytest.raises(ConfigError, match="exists"):
        data.save("me/copy-v0")
    assert data.select([0]).save("me/copy-v0", overwrite=True).n_episodes == 1
