"""What an episode is, and what makes one malformed."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from minari_files import ACTION, OBSERVATION, episode

from offrl.data.episodes import Episode, digest, faults, fingerprint_of, validate
from offrl.data.spec import Spec
from offrl.errors import CorruptDataError

SPEC = Spec(OBSERVATION, ACTION)


def changed(**fields: Any) -> Episode:
    return replace(episode(4), **fields)


def test_an_episode_shows_its_shapes_and_not_its_numbers() -> None:
    assert repr(episode(2, 3)) == (
        "Episode(id=3, steps=2, observations=float32[3, 3], actions=float32[2, 2],"
        " rewards=float64[2], terminations=bool[2], truncations=bool[2],"
        " infos={behavior_log_prob: float64[3]}, seed=103)"
    )


def test_lists_and_whole_number_rewards_become_arrays() -> None:
    one = Episode(0, [[0.0], [1.0], [2.0]], [[0.0], [1.0]], [1, 2], [False, True], [False, False])  # pyright: ignore[reportArgumentType] - lists, as a user's loop collects them
    assert one.rewards.dtype == np.float64
    assert one.terminations.dtype == np.bool_
    assert one.episode_return == 3.0
    assert one.observations.shape == (3, 1)


@pytest.mark.parametrize(
    ("broken", "code", "fragment"),
    [
        (changed(observations=np.zeros((4, 3), np.float32)), "length-mismatch", "4 rows.*5"),
        (changed(observations=np.zeros((6, 3), np.float32)), "length-mismatch", "6 rows.*5"),
        (changed(observations=np.zeros((5, 2), np.float32)), "shape-mismatch", r"\(5, 2\)"),
        (changed(observations=np.zeros(5, np.float32)), "shape-mismatch", "observations"),
        (changed(observations=np.zeros((5, 3), complex)), "type-mismatch", "complex"),
        (changed(observations={"a": np.zeros((5, 3))}), "missing-column", "observations"),
        (changed(actions=np.zeros((5, 2), np.float32)), "length-mismatch", "actions has 5 rows"),
        (changed(actions=np.zeros((3, 2), np.float32)), "length-mismatch", "actions has 3 rows"),
        (changed(actions=np.zeros((4, 3), np.float32)), "shape-mismatch", "actions"),
        (changed(actions=np.zeros((4, 2), bool)), "type-mismatch", "actions is bool"),
        (changed(rewards=np.zeros(3)), "length-mismatch", "rewards has 3 rows, where 4"),
        (changed(rewards=np.zeros((4, 1))), "shape-mismatch", "rewards"),
        (changed(rewards=np.zeros(4, complex)), "type-mismatch", "rewards is complex"),
        (changed(terminations=np.zeros(3, bool)), "length-mismatch", "terminations has 3 rows"),
        (changed(truncations=np.zeros(5, bool)), "length-mismatch", "truncations has 5 rows"),
        (changed(truncations=np.zeros(4)), "type-mismatch", "truncations is float64"),
        (changed(rewards=np.zeros(0)), "length-mismatch", "rewards has 0 rows, where 4"),
    ],
)
def test_a_malformed_episode_names_itself_and_the_field(
    broken: Episode, code: str, fragment: str
) -> None:
    """Faults R9, R10, R11 and R17."""
    found = list(faults(broken, SPEC))
    assert code in {fault.code for fault in found}
    with pytest.raises(CorruptDataError, match=f"Episode 0: .*{fragment}"):
        validate(broken, SPEC)


def test_a_single_step_is_an_episode() -> None:
    """Fault R17."""
    validate(episode(1), SPEC)


@pytest.mark.parametrize(
    ("actions", "fragment"),
    [
        (np.array([0, 1, 2, 4]), "actions at step 3 is 4, outside 1 .. 3|step 0 is 0"),
        (np.array([1.0, 2, 3, 1]), "actions is float64"),
        (np.array([True, True, True, False]), "actions is bool"),
    ],
)
def test_discrete_actions_must_be_choices(actions: Any, fragment: str) -> None:
    """Fault N11."""
    with pytest.raises(CorruptDataError, match=fragment):
        validate(changed(actions=actions), Spec(OBSERVATION, spaces.Discrete(3, start=1)))


def test_a_choice_that_an_observation_space_lacks_is_refused() -> None:
    space = spaces.Dict({"d": spaces.Discrete(2), "m": spaces.MultiDiscrete([2, 3])})
    one = episode(2, observation_space=space)
    validate(one, Spec(space, ACTION))
    one.observations["m"][1] = [0, 3]
    with pytest.raises(CorruptDataError, match=r"observations/m at step 1 is \[0 3\]"):
        validate(one, Spec(space, ACTION))


def test_text_must_be_text() -> None:
    space = spaces.Dict({"say": spaces.Text(4), "x": OBSERVATION})
    one = episode(2, observation_space=space)
    validate(one, Spec(space, ACTION))
    one.observations["say"][1] = 5
    with pytest.raises(CorruptDataError, match="observations/say holds something"):
        validate(one, Spec(space, ACTION))


def test_log_probabilities_of_t_plus_one_rows_belong_to_the_action_before() -> None:
    rows = np.array([np.nan, -1.0, -2.0, -3.0, -4.0])
    one = changed(infos={"behavior_log_prob": rows})
    assert one.behavior_log_prob.tolist() == [-1.0, -2.0, -3.0, -4.0]


def test_log_probabilities_of_t_rows_belong_to_their_own_action() -> None:
    one = changed(infos={"behavior_log_prob": np.array([-1.0, -2.0, -3.0, -4.0])})
    assert one.behavior_log_prob.tolist() == [-1.0, -2.0, -3.0, -4.0]


def test_absent_log_probabilities_are_not_numbers() -> None:
    assert np.isnan(changed(infos={}).behavior_log_prob).all()


@pytest.mark.parametrize("rows", [np.zeros(3), np.zeros(6), np.zeros((4, 1)), np.array(["a"] * 4)])
def test_log_probabilities_of_another_shape_are_an_error(rows: Any) -> None:
    with pytest.raises(CorruptDataError, match=r"Episode 0: infos/behavior_log_prob"):
        _ = changed(infos={"behavior_log_prob": rows}).behavior_log_prob


@given(st.integers(1, 5), st.integers(0, 50))
def test_equal_contents_have_equal_digests_whatever_the_id(steps: int, number: int) -> None:
    one = episode(steps, number)
    assert digest(one) == digest(replace(one, id=number + 1, seed=None))


def test_the_digest_sees_every_value_type_and_shape() -> None:
    one = episode(3)
    names = ("observations", "actions", "rewards", "terminations", "truncations")
    seen = {digest(one)}
    for name in names:
        column = getattr(one, name).copy()
        column.reshape(-1)[-1] = ~column.reshape(-1)[-1] if column.dtype == bool else 0.25
        seen.add(digest(replace(one, **{name: column})))
    seen.add(digest(replace(one, observations=one.observations.astype(np.float64))))
    seen.add(digest(replace(one, observations=one.observations.reshape(4, 3, 1))))
    seen.add(digest(replace(one, infos={})))
    seen.add(digest(replace(one, infos={**one.infos, "behavior": np.zeros(4, int)})))
    assert len(seen) == len(names) + 5
    assert digest(replace(one, infos={**one.infos, "speed": np.zeros(4)})) == digest(one)


def test_the_digest_does_not_depend_on_the_order_of_bytes() -> None:
    one = episode(3)
    swapped = one.rewards.astype(">f8")
    assert digest(replace(one, rewards=swapped)) == digest(one)


def test_the_fingerprint_depends_on_the_order_of_episodes() -> None:
    a, b = digest(episode(2, 0)), digest(episode(2, 1))
    assert fingerprint_of([a, b]) != fingerprint_of([b, a])
    assert fingerprint_of([a]).startswith("sha256:")
