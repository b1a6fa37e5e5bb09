"""The final table: means and intervals by hand, and how checkpoints were picked."""

from pathlib import Path

import judged_runs
import pytest

from offrl.evaluation.statistics import interval
from offrl.report.arms import gather
from offrl.report.final import HEADINGS, Final, cells, finals_of


def only(folder: Path) -> Final:
    (arm,) = gather(folder).arms
    (found,) = finals_of(arm)
    return found


def test_an_interval_of_several_seeds_is_over_their_means_wherever_their_folders_are(
    tmp_path: Path,
):
    for seed, returns in enumerate(([-100.0, -300.0], [-400.0, -600.0], [-200.0, -200.0])):
        judged_runs.judged(tmp_path / str(seed), {seed: returns})
    found = only(tmp_path)
    assert found.return_mean == pytest.approx(-300.0)
    assert found.return_ci == interval([-200.0, -500.0, -200.0])
    assert (found.n_seeds, found.n_episodes, found.over) == (3, 2, "seeds")


def test_an_interval_of_one_seed_is_over_its_episodes(tmp_path: Path):
    judged_runs.judged(tmp_path / "a", {4: [-100.0, -300.0, -250.0]})
    found = only(tmp_path)
    assert found.return_ci == pytest.approx(interval([-100.0, -300.0, -250.0]))
    assert found.over == "episodes"


def test_one_episode_has_no_interval_and_the_table_says_none(tmp_path: Path):
    judged_runs.judged(tmp_path / "a", {0: [-100.0]})
    found = only(tmp_path)
    assert found.return_ci is None
    assert cells(found)[HEADINGS.index("95% interval")] == "none"


def test_a_run_that_was_not_evaluated_stands_with_its_last_training_evaluations(tmp_path: Path):
    curves = ({10: -50.0, 20: -90.0}, {10: -70.0, 20: -10.0})
    for seed, curve in enumerate(curves):
        judged_runs.judged(tmp_path / str(seed), None, seeds=[seed], curve=curve)
    found = only(tmp_path)
    assert found.return_mean == pytest.approx(-50.0)
    assert found.picked == "last, evaluated while training"
    assert found.hindsight == pytest.approx(-30.0)  # the mean of -50 and -10


def test_the_best_in_hindsight_is_never_the_headline(tmp_path: Path):
    judged_runs.judged(tmp_path / "a", {0: [-90.0, -90.0]}, curve={10: -1.0, 20: -90.0})
    found = only(tmp_path)
    assert (found.return_mean, found.hindsight) == (-90.0, -1.0)


def test_checkpoints_that_were_picked_otherwise_have_lines_of_their_own(tmp_path: Path):
    judged_runs.judged(tmp_path / "a", {0: [-1.0]})
    judged_runs.judged(
        tmp_path / "b", {1: [-9.0]}, checkpoint="selected", picked="selected by loss"
    )
    (arm,) = gather(tmp_path).arms
    assert {one.picked: one.return_mean for one in finals_of(arm)} == {
        "last": -1.0,
        "selected by loss": -9.0,
    }


def test_a_run_without_any_return_is_there_and_says_so(tmp_path: Path):
    judged_runs.judged(tmp_path / "a", None, reached=50)
    found = only(tmp_path)
    assert found.return_mean is None
    assert found.picked == "not evaluated"
    assert found.state == "1 unfinished"
