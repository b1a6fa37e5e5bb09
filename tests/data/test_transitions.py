"""Flat columns against a reference so slow and plain that it is obviously right."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from minari_files import ACTION, OBSERVATION, episode

from offrl.data.episodes import Episode
from offrl.data.spec import Spec
from offrl.data.transitions import Transitions
from offrl.errors import ConfigError, CorruptDataError

DICT = spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Box(0, 9, (2, 2), np.float64)})
SPECS = {
    "box": Spec(OBSERVATION, ACTION),
    "choice": Spec(OBSERVATION, spaces.Discrete(3, start=1)),
    "nested": Spec(DICT, ACTION),
}
ends = st.sampled_from(["terminated", "truncated", "both", "open"])


@st.composite
def logs(draw: st.DrawFn) -> tuple[Spec, list[Episode]]:
    """Episodes of random length and ending, some without log-probabilities."""
    spec = SPECS[draw(st.sampled_from(sorted(SPECS)))]
    made = []
    for number in range(draw(st.integers(1, 5))):
        steps, end = draw(st.integers(1, 6)), draw(ends)
        last = np.arange(steps) == steps - 1
        sound = episode(
            steps,
            number,
            log_prob=draw(st.booleans()),
            observation_space=spec.observation_space,
            action_space=spec.action_space,
        )
        made.append(
            Episode(
                number,
                sound.observations,
                sound.actions,
                sound.rewards,
                last & (end in ("terminated", "both")),
                last & (end in ("truncated", "both")),
                sound.infos,
            )
        )
    return spec, made


def one_by_one(spec: Spec, episodes: list[Episode]) -> list[dict[str, Any]]:
    """Each step as a dictionary, gathered with two loops."""
    steps = []
    for number, one in enumerate(episodes):
        for t in range(len(one)):
            last = t == len(one) - 1
            action = one.actions[t]
            steps.append(
                {
                    "episode": number,
                    "obs": spaces.flatten(spec.observation_space, _at(one.observations, t)),
                    "next_obs": spaces.flatten(
                        spec.observation_space, _at(one.observations, t + 1)
                    ),
                    "action": action - 1 if spec.discrete else action.reshape(-1),
                    "reward": one.rewards[t],
                    "terminated": bool(one.terminations[t]),
                    "truncated": bool(one.truncations[t])
                    or (last and not one.terminations[t] and not one.truncations[t]),
                    "behavior_log_prob": one.infos["behavior_log_prob"][t + 1]
                    if "behavior_log_prob" in one.infos
                    else np.nan,
                }
            )
    return steps


def _at(observations: Any, t: int) -> Any:
    if isinstance(observations, dict):
        return {key: _at(child, t) for key, child in observations.items()}
    return observations[t]


@given(logs())
def test_every_row_is_one_step_of_one_episode(log: tuple[Spec, list[Episode]]) -> None:
    spec, episodes = log
    expected = one_by_one(spec, episodes)
    built = Transitions.build(episodes, spec)
    assert len(built) == len(expected) == sum(len(one.rewards) for one in episodes)
    for name in expected[0]:
        column = np.array([step[name] for step in expected])
        np.testing.assert_array_equal(
            getattr(built, name), column.astype(getattr(built, name).dtype), err_msg=name
        )


@given(logs())
def test_episodes_of_t_steps_keep_t_plus_one_observations(log: tuple[Spec, list[Episode]]) -> None:
    spec, episodes = log
    built = Transitions.build(episodes, spec)
    assert len(built.observations) == len(built) + len(episodes)
    assert built.lengths.tolist() == [len(one) for one in episodes]
    assert built.starts[0] == 0
    assert built.starts[-1] == len(built)
    # The row that ends an episode is where no step starts.
    unused = set(range(len(built.observations))) - set(built.obs_row.tolist())
    assert unused == {int(a) + i for i, a in enumerate(built.starts[1:])}
    np.testing.assert_array_equal(built.returns, [one.episode_return for one in episodes])


@given(logs())
def test_a_cut_is_never_an_end(log: tuple[Spec, list[Episode]]) -> None:
    spec, episodes = log
    built = Transitions.build(episodes, spec)
    last = built.starts[1:] - 1
    assert built.terminated[last].tolist() == [bool(one.terminations[-1]) for one in episodes]
    assert (built.terminated | built.truncated)[last].all()
    inside = np.ones(len(built), bool)
    inside[last] = False
    assert not (built.terminated | built.truncated)[inside].any()


@given(logs(), st.data())
def test_taking_episodes_is_building_from_them(
    log: tuple[Spec, list[Episode]], data: st.DataObject
) -> None:
    spec, episodes = log
    chosen = data.draw(st.lists(st.integers(0, len(episodes) - 1), min_size=1, max_size=6))
    taken = Transitions.build(episodes, spec).take_episodes(chosen)
    again = Transitions.build([episodes[i] for i in chosen], spec)
    for name in ("observations", "action", "reward", "terminated", "truncated", "starts"):
        np.testing.assert_array_equal(getattr(taken, name), getattr(again, name))
    np.testing.assert_array_equal(taken.behavior_log_prob, again.behavior_log_prob)
    np.testing.assert_array_equal(taken.next_obs, again.next_obs)


def test_building_leaves_the_episodes_as_they_were() -> None:
    flags = np.zeros(2, bool)
    one = episode(2)
    open_ended = Episode(0, one.observations, one.actions, one.rewards, flags, flags)
    assert Transitions.build([open_ended], SPECS["box"]).truncated.tolist() == [False, True]
    assert not flags.any()


def test_types_are_those_that_learning_expects() -> None:
    built = Transitions.build([episode(3)], SPECS["box"])
    assert built.observations.dtype == built.action.dtype == np.float32
    assert built.reward.dtype == built.behavior_log_prob.dtype == np.float64
    assert built.terminated.dtype == built.truncated.dtype == np.bool_
    assert built.starts.dtype == built.obs_row.dtype == built.episode.dtype == np.int64
    assert repr(built) == "Transitions(episodes=1, steps=3, obs=[3], action=[2])"


def test_nothing_to_learn_from_says_so() -> None:
    with pytest.raises(ConfigError, match="no episodes"):
        Transitions.build([], SPECS["box"])
    built = Transitions.build([episode(2)], SPECS["box"])
    with pytest.raises(ConfigError, match="No episode was chosen"):
        built.take_episodes([])
    with pytest.raises(ConfigError, match=r"outside 0 \.\. 0"):
        built.take_episodes([1])


def test_an_end_inside_an_episode_is_refused() -> None:
    """Fault N6."""
    one = episode(4)
    early = np.array([False, True, False, False])
    broken = Episode(7, one.observations, one.actions, one.rewards, early, one.truncations)
    with pytest.raises(CorruptDataError, match=r"Episode 7: terminations is true at step 1 of 4"):
        Transitions.build([broken], SPECS["box"])
