"""The registry of reference returns, and the score that follows from a row of it."""

import json
import math
from collections.abc import Mapping

import pytest

from offrl.errors import ConfigError, CorruptDataError
from offrl.evaluation.references import (
    Reference,
    lookup,
    references,
    require_apart,
    score,
    tell,
)
from offrl.evaluation.statistics import interval, mean_interval
from offrl_cli import main

ADROIT = {
    "pen": (96.262799, 3076.8331018, 100),
    "door": (-56.512833, 2880.5693087, 200),
    "hammer": (-274.856578, 12794.1348252, 200),
    "relocate": (-6.425911, 4233.8777977, 200),
}
MUJOCO = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
}
MAZES = {
    "maze2d-open-v0": (0.01, 20.66, 150),
    "maze2d-umaze-v1": (23.85, 161.86, 300),
    "maze2d-medium-v1": (13.13, 277.39, 600),
    "maze2d-large-v1": (6.7, 273.99, 800),
    "maze2d-open-dense-v0": (11.17817, 27.1665386, 150),
    "maze2d-umaze-dense-v1": (68.537689, 193.6628564, 300),
    "maze2d-medium-dense-v1": (44.264742, 297.4552548, 600),
    "maze2d-large-dense-v1": (30.569041, 303.4857383, 800),
    "maze2d-eval-umaze-v1": (36.63, 141.4, 300),
    "maze2d-eval-medium-v1": (13.07, 204.93, 600),
    "maze2d-eval-large-v1": (16.4, 302.22, 800),
    "maze2d-eval-umaze-dense-v1": (56.95455, 178.2137313, 300),
    "maze2d-eval-medium-dense-v1": (42.28578, 235.5658957, 600),
    "maze2d-eval-large-dense-v1": (56.95455, 326.0964766, 800),
    "maze2d-umaze-v0": (0.94, 62.6, 150),
    "maze2d-medium-v0": (5.77, 85.14, 250),
    "maze2d-large-v0": (4.83, 191.99, 600),
}


def found(
    env_id: str | None = None,
    dataset_id: str | None = None,
    metadata: Mapping[str, object] | None = None,
) -> Reference:
    reference = lookup(env_id, dataset_id, metadata)
    assert reference is not None
    return reference


@pytest.mark.parametrize(
    ("dataset", "episode_return", "expected"),
    [
        ("mujoco/halfcheetah/expert-v0", 6000, 50.5846832879),
        ("mujoco/hopper/medium-v0", 2000, 62.0748938930),
        ("mujoco/walker2d/simple-v0", 3000, 65.3144387220),
        ("D4RL/pen/human-v2", 1000, 30.3209489860),
    ],
)
def test_a_score_is_where_a_return_lies_between_random_and_expert(
    dataset: str, episode_return: float, expected: float
) -> None:
    assert score(episode_return, lookup(dataset_id=dataset)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("task", MUJOCO)
def test_locomotion_is_known_by_minari_id_by_d4rl_id_and_by_environment(task: str) -> None:
    env = {"halfcheetah": "HalfCheetah", "walker2d": "Walker2d"}.get(task, task.capitalize())
    for reference in (
        found(dataset_id=f"mujoco/{task}/medium-v0"),
        found(dataset_id=f"{task}-medium-replay-v2"),
        found(env_id=f"{env}-v5"),
        found(env_id=f"{env}-v4"),
    ):
        assert (reference.random, reference.expert) == MUJOCO[task]
        assert reference.max_steps == 1000
        assert "v4 and v5" in reference.note


@pytest.mark.parametrize("task", ADROIT)
def test_adroit_is_known_by_minari_id_by_d4rl_id_and_by_environment(task: str) -> None:
    for reference in (
        found(dataset_id=f"D4RL/{task}/cloned-v2"),
        found(dataset_id=f"{task}-expert-v1"),
        found(env_id=f"AdroitHand{task.capitalize()}-v1"),
    ):
        numbers = (reference.random, reference.expert, reference.max_steps)
        assert numbers == pytest.approx(ADROIT[task], abs=1e-6)


@pytest.mark.parametrize("task", MAZES)
def test_every_maze_of_d4rl_has_its_own_row(task: str) -> None:
    reference = found(dataset_id=task)
    numbers = (reference.random, reference.expert, reference.max_steps)
    assert numbers == pytest.approx(MAZES[task], abs=1e-6)


@pytest.mark.parametrize("size", ["open", "umaze", "medium", "large"])
@pytest.mark.parametrize("dense", ["", "-dense"])
def test_minaris_point_mazes_take_the_rows_of_the_mazes_they_rewrite(size: str, dense: str) -> None:
    version = "v0" if size == "open" else "v1"
    expected = MAZES[f"maze2d-{size}{dense}-{version}"]
    env = {"umaze": "UMaze"}.get(size, size.capitalize()) + dense.removeprefix("-").capitalize()
    for reference in (
        found(dataset_id=f"D4RL/pointmaze/{size}{dense}-v2"),
        found(env_id=f"PointMaze_{env}-v3"),
    ):
        assert (reference.random, reference.expert) == pytest.approx(expected[:2], abs=1e-6)
        assert "goal moves" in reference.note


@pytest.mark.parametrize(
    ("dataset", "env", "expected"),
    [
        ("D4RL/antmaze/umaze-diverse-v1", "AntMaze_UMaze-v4", (0.0, 1.0, 700)),
        ("D4RL/antmaze/medium-play-v1", "AntMaze_Medium_Diverse_GR-v4", (0.0, 1.0, 1000)),
        ("D4RL/antmaze/large-diverse-v1", "AntMaze_Large-v5", (0.0, 1.0, 1000)),
        ("D4RL/kitchen/mixed-v2", "FrankaKitchen-v1", (0.0, 4.0, 280)),
        ("D4RL/minigrid/fourrooms-random-v0", "MiniGrid-FourRooms-v0", (0.01442, 2.89685, None)),
    ],
)
def test_the_other_tasks_of_minari_are_known_by_dataset_and_by_environment(
    dataset: str, env: str, expected: tuple[float, float, int | None]
) -> None:
    for reference in (found(dataset_id=dataset), found(env_id=env)):
        assert (reference.random, reference.expert, reference.max_steps) == expected


def test_scores_on_minaris_pen_sets_are_said_to_be_about_twice_those_of_papers() -> None:
    assert "issue 303" in found(dataset_id="D4RL/pen/cloned-v2").note
    carried = {"ref_min_score": 96.262799, "ref_max_score": 3076.8331018}
    assert "issue 303" in found(dataset_id="D4RL/pen/cloned-v2", metadata=carried).note


def test_a_datasets_own_references_go_before_its_id_and_that_before_the_environment() -> None:
    metadata: dict[str, object] = {"ref_min_score": 1.0, "ref_max_score": 3.0}
    own = found("Hopper-v5", "mujoco/ant/medium-v0", metadata)
    assert (own.random, own.expert) == (1.0, 3.0)
    assert "metadata" in own.source
    assert found("Hopper-v5", "mujoco/ant/medium-v0").task == "ant"
    assert found("Hopper-v5", "me/logs-v0").task == "hopper"
    assert found("Hopper-v5", "me/logs-v0", {"ref_min_score": 1.0}).task == "hopper"
    assert found("Hopper-v5", metadata={"ref_min_score": None, "ref_max_score": None}).n is None


def test_an_unknown_environment_has_no_reference_and_no_score() -> None:
    assert lookup("Tetris-v0", "me/tetris-v0", {}) is None
    assert score(12.0, None) is None


def test_equal_references_are_an_error_and_not_a_division_by_zero() -> None:
    equal = lookup("Tetris-v0", "me/tetris-v0", {"ref_min_score": 5.0, "ref_max_score": 5.0})
    assert equal is not None
    with pytest.raises(ConfigError, match=r"me/tetris-v0 are equal") as caught:
        score(7.0, equal)
    assert caught.value.exit_code == 2
    assert "metadata" in caught.value.remedy


@pytest.mark.parametrize("bad", [math.nan, math.inf, "many", [1, 2]])
def test_references_that_are_no_numbers_are_damage(bad: object) -> None:
    with pytest.raises(CorruptDataError, match="ref_max_score"):
        lookup("Tetris-v0", metadata={"ref_min_score": 1.0, "ref_max_score": bad})


def test_every_reference_says_where_it_comes_from_and_divides() -> None:
    assert len({reference.task for reference in references()}) == len(references())
    for reference in references():
        assert reference.source
        assert require_apart(reference).expert > reference.random


@pytest.mark.parametrize(
    ("env", "dataset"),
    [
        ("Pendulum-v1", "offrl/pendulum/medium-v0"),
        ("CartPole-v1", "offrl/cartpole/expert-v0"),
        ("MountainCarContinuous-v0", "offrl/mountaincar-continuous/medium-v0"),
    ],
)
def test_offrls_own_references_tell_how_they_were_measured(env: str, dataset: str) -> None:
    reference = found(env_id=env)
    assert found(dataset_id=dataset) == reference
    assert reference.n == 1000
    assert reference.seed == 0
    assert reference.random_std is not None
    assert reference.random_std > 0
    assert reference.expert_std is not None
    assert reference.policy
    assert reference.versions is not None
    assert "gymnasium" in reference.versions


def test_what_offrl_measured_stands_beside_what_papers_score_by_and_scores_nothing() -> None:
    scoring, own = tell("Hopper-v5")
    assert scoring is not None
    assert own is not None
    assert scoring.source == "D4RL, d4rl/infos.py"
    assert lookup("Hopper-v5") == scoring
    page = own.to_dict()
    low, high = page["random_ci"]
    assert low < page["random"] < high
    assert low > scoring.random  # another version of the environment
    assert page["n"] >= 50
    assert page["expert_ci"][0] > 2000
    assert "rl-baselines3-zoo" in page["policy"]


@pytest.mark.parametrize(
    "env",
    ["Pendulum-v1", "CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1"],
)
def test_classic_control_is_scored_by_what_offrl_measured(env: str) -> None:
    scoring, own = tell(env)
    assert scoring is not None
    assert own is not None
    assert (scoring.random, scoring.expert, scoring.n) == (own.random, own.expert, own.n)
    assert own.n == 1000
    assert own.to_dict()["expert_ci"][0] <= scoring.expert <= own.to_dict()["expert_ci"][1]


def test_an_interval_of_a_measured_mean_is_that_of_its_values() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    found = mean_interval(3.0, math.sqrt(2.5), 5)
    assert found == pytest.approx(interval(values), abs=1e-12)
    with pytest.raises(ConfigError, match="no interval"):
        mean_interval(3.0, 0.0, 1)


def test_a_dataset_is_told_by_its_own_name() -> None:
    scoring, own = tell("D4RL/pen/human-v2")
    assert scoring is not None
    assert scoring.task == "pen"
    assert own is None


def test_the_command_prints_both_and_an_unknown_environment_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["references", "Hopper-v5", "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    assert page["scored_by"]["expert"] == 3234.3
    assert page["measured"]["env"] == "Hopper-v5"
    assert main(["references", "Hopper-v5"]) == 0
    out = capsys.readouterr().out
    assert "D4RL" in out
    assert "benchmarks/references.py" in out
    assert main(["references", "Swimmer-v5"]) == 0
    assert "scored by nothing" in capsys.readouterr().out
    assert main(["references", "Hoper-v5"]) == 2
    assert "Did you mean 'Hopper-v5'?" in capsys.readouterr().err
