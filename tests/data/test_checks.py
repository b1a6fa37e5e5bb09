"""The check finds what is wrong, says where, and invents nothing on good data."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from minari_files import (
    ACTION,
    OBSERVATION,
    column,
    episode,
    metadata,
    replace_column,
    write_folder,
)

from offrl import Dataset, Episode, check
from offrl.data.checks import Report
from offrl.data.dataset import load
from offrl.data.rules import RULES
from offrl.errors import NotFoundError

Run = Callable[..., tuple[int, str, str]]


def checked(
    episodes: list[Episode],
    observation_space: spaces.Space[Any] = OBSERVATION,
    action_space: spaces.Space[Any] = ACTION,
) -> dict[str, Any]:
    """The problems of episodes by code."""
    report = check(Dataset.from_episodes(episodes, observation_space, action_space))
    return {problem.code: problem for problem in report.problems}


def sound(*lengths: int) -> list[Episode]:
    return [episode(n, i, terminated=i % 2 == 0) for i, n in enumerate(lengths or (5, 4, 6))]


@given(st.lists(st.integers(2, 8), min_size=2, max_size=6), st.booleans(), st.booleans())
def test_no_problem_is_invented_on_good_data(
    lengths: list[int], discrete: bool, log_prob: bool
) -> None:
    action_space = spaces.Discrete(50, start=1) if discrete else ACTION
    episodes = [
        episode(n, i, terminated=i % 2 == 0, log_prob=log_prob, action_space=action_space)
        for i, n in enumerate(lengths)
    ]
    data = Dataset.from_episodes(episodes, OBSERVATION, action_space)
    report = check(data)
    assert report.ok
    assert [problem for problem in report.problems if problem.severity != "note"] == []
    assert report.fingerprint == data.fingerprint


def test_good_data_on_disk_has_no_problem(made: Path, typed: Run) -> None:
    assert check("me/made-v0") == check(load("me/made-v0"))
    assert check("me/made-v0").problems == ()
    status, out, _ = typed("data", "check", "me/made-v0", "--json")
    assert status == 0
    assert json.loads(out)["ok"] is True
    assert json.loads(out)["problems"] == []


def test_a_report_is_plain_values(made: Path) -> None:
    found = check("me/made-v0").to_dict()
    assert json.loads(json.dumps(found)) == found
    assert set(found) >= {"ok", "problems", "dataset"}


def test_every_rule_has_a_stable_code_a_severity_and_a_sentence() -> None:
    for code, (severity, advice) in RULES.items():
        assert code == code.lower().replace("_", "-").replace(" ", "-")
        assert severity in ("error", "warning", "note")
        assert advice.endswith(".")
        assert advice[0].isupper()


def test_the_page_lists_every_rule() -> None:
    page = Path(__file__).parents[2] / "docs" / "check.md"
    lines = page.read_text().splitlines()
    for code, (severity, advice) in RULES.items():
        assert f"| `{code}` | {severity} | {advice} |" in lines


@pytest.mark.parametrize("field", ["observations", "actions", "rewards"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_counted_and_placed(field: str, value: float) -> None:
    """Fault N1."""
    episodes = sound()
    broken = getattr(episodes[1], field).copy()
    broken.reshape(len(broken), -1)[2, 0] = value
    broken.reshape(len(broken), -1)[3, 0] = value
    episodes[1] = replace(episodes[1], **{field: broken})
    problem = checked(episodes)[f"non-finite-{field.removesuffix('s')}"]
    assert (problem.severity, problem.count) == ("error", 2)
    assert problem.places == ("episode 1 step 2",)


def test_actions_outside_their_bounds_are_an_error() -> None:
    """Fault N5."""
    episodes = sound()
    actions = episodes[2].actions.copy()
    actions[4] = [0.0, 1.25]
    problem = checked([*episodes[:2], replace(episodes[2], actions=actions)])[
        "action-out-of-bounds"
    ]
    assert (problem.severity, problem.count, problem.places) == ("error", 1, ("episode 2 step 4",))
    assert "-1 .. 1" in problem.message


def test_observations_outside_their_space_are_a_warning() -> None:
    episodes = sound()
    observations = episodes[0].observations.copy()
    observations[0, 1] = 99
    problem = checked([replace(episodes[0], observations=observations), *episodes[1:]])[
        "observation-out-of-space"
    ]
    assert (problem.severity, problem.places) == ("warning", ("episode 0 step 0",))


@pytest.mark.parametrize("actions", [np.array([0, 3]), np.array([-1, 0])])
def test_choices_out_of_range_are_an_error(actions: Any) -> None:
    """Fault N11."""
    one = replace(episode(2), actions=actions)
    problem = checked([one], action_space=spaces.Discrete(3))["action-out-of-range"]
    assert problem.severity == "error"
    assert problem.places[0].startswith("episode 0 step ")


def test_choices_that_an_observation_lacks_are_an_error() -> None:
    space = spaces.Dict({"d": spaces.Discrete(3), "x": OBSERVATION})
    one = episode(3, observation_space=space)
    one.observations["d"][2] = 7
    problem = checked([one], space)["choice-out-of-space"]
    assert (problem.severity, problem.places) == ("error", ("episode 0 step 2",))


def test_ends_are_judged_by_what_they_mean() -> None:
    """Fault N6."""
    both, none, inside = sound(3, 3, 4)
    last, never = np.array([False, False, True]), np.zeros(3, bool)
    found = checked(
        [
            replace(both, terminations=last, truncations=last),
            replace(none, terminations=never, truncations=never),
            replace(inside, terminations=np.array([False, True, False, True])),
        ]
    )
    assert (found["both-ends"].severity, found["both-ends"].places) == (
        "note",
        ("episode 0 step 2",),
    )
    assert (found["open-end"].severity, found["open-end"].places) == ("note", ("episode 1 step 2",))
    assert found["end-inside-episode"].severity == "error"
    assert found["end-inside-episode"].places == ("episode 2 step 1",)


def with_log_prob(one: Episode, values: list[float]) -> Episode:
    return replace(one, infos={"behavior_log_prob": np.array(values)})


@pytest.mark.parametrize(
    ("values", "code", "severity", "count"),
    [
        ([np.nan, -1.0, 0.5, 0.25], "log-prob-positive", "error", 2),
        ([np.nan, -1.0, -np.inf, -1.0], "log-prob-infinite", "error", 1),
        ([np.nan, -1.0, np.inf, -1.0], "log-prob-infinite", "error", 1),
        ([np.nan, -1.0, np.nan, -1.0], "log-prob-gap", "warning", 1),
        ([-1.0, -1.0, -2.0, np.nan], "log-prob-shifted", "error", 1),
    ],
)
def test_log_probabilities_that_cannot_be_are_found(
    values: list[float], code: str, severity: str, count: int
) -> None:
    space = spaces.Discrete(3)
    episodes = [with_log_prob(episode(3, i, action_space=space), values) for i in range(1)]
    problem = checked(episodes, action_space=space)[code]
    assert (problem.severity, problem.count) == (severity, count)
    assert problem.places[0].startswith("episode 0")


def test_a_density_may_be_above_one() -> None:
    assert "log-prob-positive" not in checked([with_log_prob(episode(2), [np.nan, 2.0, 1.0])])


def test_episodes_without_log_probabilities_among_others_are_a_note() -> None:
    episodes = sound()
    problem = checked([episodes[0], replace(episodes[1], infos={}), episodes[2]])[
        "log-prob-partial"
    ]
    assert (problem.severity, problem.count, problem.places) == ("note", 1, ("episode 1",))


def test_log_probabilities_of_another_shape_are_an_error() -> None:
    one = replace(episode(3), infos={"behavior_log_prob": np.zeros(9)})
    problem = checked([one])["log-prob-shape"]
    assert "9 rows" in problem.message


def test_an_episode_that_comes_twice_is_found_and_its_rows_are_not_counted_again() -> None:
    episodes = sound()
    found = checked([*episodes, replace(episodes[1], id=3, infos={})])
    assert found["duplicate-episode"].severity == "warning"
    assert found["duplicate-episode"].places == ("episode 3",)
    assert "episode 1" in found["duplicate-episode"].message
    assert "duplicate-row" not in found


def doubled(one: Episode) -> Episode:
    """Every second row is the one before it, logged again."""
    rows = np.arange(len(one)) // 2 * 2
    return replace(
        one,
        observations=one.observations[np.append(rows, len(one))],
        actions=one.actions[rows],
    )


def test_decisions_of_one_step_that_are_alike_are_no_finding() -> None:
    rng = np.random.default_rng(0)
    users = rng.integers(0, 4, 60)  # of few users each comes often
    end, no = np.ones(60, bool), np.zeros(60, bool)
    obs = np.repeat(users, 2).astype(np.float32)[:, None]  # a decision leads nowhere else
    prize = (rng.random(60) < 0.5).astype(np.float64)
    data = Dataset.from_arrays(obs, rng.integers(0, 3, 60), prize, end, no)
    found = codes(check(data))
    assert not found & {"duplicate-episode", "last-observation-repeated"}


def test_rows_that_were_logged_twice_are_a_warning_where_that_is_a_surprise() -> None:
    one = doubled(episode(6))
    problem = checked([one, episode(4, 1)])["duplicate-row"]
    assert (problem.severity, problem.count, problem.places) == (
        "warning",
        3,
        ("episode 0 step 0",),
    )
    choice = replace(one, actions=np.array([1, 1, 0, 0, 1, 1]))
    assert "duplicate-row" not in checked([choice], action_space=spaces.Discrete(2))


def test_a_state_that_a_system_comes_back_to_is_only_a_note() -> None:
    one = episode(30)
    one.observations[3:20:2] = one.observations[1]
    one.actions[3:20:2] = one.actions[1]
    problem = checked([one])["duplicate-row"]
    assert (problem.severity, problem.count) == ("note", 9)


def test_ends_that_look_like_a_time_limit_are_a_note() -> None:
    limited = [episode(20, i, terminated=True) for i in range(5)]
    problem = checked(limited)["ends-at-one-length"]
    assert (problem.severity, problem.count) == ("note", 5)
    assert "exactly 20 steps" in problem.message
    for others in (
        [*limited[:4], episode(20, 4)],
        [*limited[:4], episode(21, 4, terminated=True)],
        [episode(3, i, terminated=True) for i in range(5)],
    ):
        assert "ends-at-one-length" not in checked(others)


def test_columns_that_never_change_are_a_note() -> None:
    episodes = [
        replace(one, observations=one.observations * np.array([1, 0, 1], np.float32))
        for one in sound()
    ]
    episodes = [replace(one, terminations=np.zeros(len(one), bool)) for one in episodes]
    found = checked([replace(one, rewards=np.full(len(one), 2.0)) for one in episodes])
    assert found["constant-observation"].severity == "note"
    assert "column 1" in found["constant-observation"].message
    assert "every reward is 2" in found["constant-reward"].message
    ending = [replace(one, rewards=np.full(len(one), 2.0)) for one in sound()]
    assert "constant-reward" not in checked(ending)
    actions = [replace(one, actions=np.full_like(one.actions, 0.5)) for one in sound()]
    assert checked(actions)["constant-action"].count == 2


@pytest.mark.parametrize("scale", [1e8, 1e-12])
def test_rewards_of_an_odd_scale_are_a_warning(scale: float) -> None:
    found = checked([replace(one, rewards=one.rewards * scale) for one in sound()])
    assert found["reward-scale"].severity == "warning"


def test_last_observations_that_were_made_up_are_a_warning() -> None:
    repeated = sound()
    for one in repeated:
        one.observations[-1] = one.observations[-2]
    assert checked(repeated)["last-observation-repeated"].count == 3
    carried = [episode(4, i, terminated=True) for i in range(4)]
    for one, following in itertools.pairwise(carried):
        one.observations[-1] = following.observations[0]
    assert checked(carried)["last-observation-from-next"].severity == "warning"


def test_a_single_episode_is_a_note() -> None:
    """Fault N9."""
    assert checked([episode(2)])["few-episodes"].severity == "note"


def test_every_structural_fault_of_a_file_is_reported_at_once(root: Path) -> None:
    episodes = sound(4, 3, 5, 2)
    file = write_folder(root / "me/made-v0", episodes, metadata(episodes))
    replace_column(file, "episode_0/observations", column(file, "episode_0/observations")[:-1])
    replace_column(file, "episode_1/actions", None)
    replace_column(file, "episode_2/terminations", np.zeros(5))
    rewards = column(file, "episode_3/rewards")
    rewards[1] = np.nan
    replace_column(file, "episode_3/rewards", rewards)
    report = check("me/made-v0")
    assert not report.ok
    assert {problem.code: problem.places for problem in report.problems} == {
        "length-mismatch": ("episode 0",),
        "missing-column": ("episode 1",),
        "type-mismatch": ("episode 2",),
        "non-finite-reward": ("episode 3 step 1",),
    }
    assert report.fingerprint is None


def test_damage_is_reported_and_not_raised(made: Path) -> None:
    (made / "data" / "metadata.json").write_text("{")
    report = check("me/made-v0")
    assert [problem.code for problem in report.problems] == ["unreadable"]
    assert not report.ok
    with pytest.raises(NotFoundError):
        check("me/none-v0")


def saved(made: Path) -> Path:
    path = load(made).save("me/kept-v0").path
    assert path is not None
    return path


def codes(report: Report) -> set[str]:
    return {problem.code for problem in report.problems}


def test_values_changed_after_writing_are_found_by_file_and_episode(made: Path) -> None:
    """Fault R2: the change keeps every checksum of HDF5 itself right."""
    file = saved(made) / "data" / "main_data.hdf5"
    assert check("me/kept-v0").problems == ()
    import h5py

    with h5py.File(file, "r+") as opened:
        rewards = opened["episode_2/rewards"]
        assert isinstance(rewards, h5py.Dataset)
        rewards[1] = 7.0
    report = check("me/kept-v0")
    found = {problem.code: problem for problem in report.problems}
    assert set(found) == {"file-damaged", "episode-damaged", "fingerprint-mismatch"}
    assert found["episode-damaged"].places == ("episode 2",)
    assert found["file-damaged"].places == (str(file),)


def test_a_file_of_another_size_is_reported_by_the_check(made: Path) -> None:
    file = saved(made) / "data" / "main_data.hdf5"
    with file.open("ab") as opened:
        opened.write(b"junk")
    assert "file-damaged" in codes(check("me/kept-v0"))


def test_a_damaged_manifest_does_not_hide_the_data(made: Path) -> None:
    folder = saved(made)
    (folder / "manifest.json").write_text("[]")
    report = check("me/kept-v0")
    assert codes(report) == {"unreadable"}
    assert report.episodes == 3


def test_the_places_are_the_first_ones_only() -> None:
    episodes = [replace(one, rewards=one.rewards * np.nan) for one in sound(*[2] * 9)]
    problem = checked(episodes)["non-finite-reward"]
    assert problem.count == 18
    assert problem.places == tuple(f"episode {i} step 0" for i in range(5))


def test_errors_come_first() -> None:
    one = replace(episode(3), rewards=np.array([1.0, np.nan, 1.0]))
    report = check(Dataset.from_episodes([one], OBSERVATION, ACTION))
    order = ["error", "warning", "note"]
    severities = [order.index(problem.severity) for problem in report.problems]
    assert severities == sorted(severities)
    assert not report.ok
