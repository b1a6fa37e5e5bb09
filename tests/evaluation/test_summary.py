"""What is said of episodes: over what the interval is, and when there is none."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offrl.errors import ConfigError
from offrl.evaluation.references import Reference
from offrl.evaluation.rollouts import Rollouts
from offrl.evaluation.statistics import interval
from offrl.evaluation.summary import SeedEvaluation, seed_evaluation, summarise

KEYS = {
    "n_episodes",
    "n_seeds",
    "interval_over",
    "return_mean",
    "return_std",
    "return_ci",
    "score",
    "score_ci",
    "length_mean",
    "env",
}
REFERENCE = Reference("walk", random=0.0, expert=50.0, source="a test")


def seed(number: int | None, *returns: float) -> SeedEvaluation:
    return SeedEvaluation(number, returns, tuple(range(1, len(returns) + 1)))


def test_one_seeds_interval_is_over_its_episodes() -> None:
    found = summarise([seed(0, 1, 2, 3, 4, 5)], env="Walk-v0", reference=REFERENCE)
    assert found.interval_over == "episodes"
    assert (found.n_seeds, found.n_episodes) == (1, 5)
    assert found.return_mean == 3.0
    assert found.return_ci == pytest.approx((1.0367568385, 4.9632431615), abs=1e-9)
    assert found.score == 6.0
    assert found.score_ci == pytest.approx((2.073513677, 9.926486323), abs=1e-9)
    assert found.length_mean == 3.0


def test_the_interval_of_two_or_more_seeds_is_over_their_means() -> None:
    seeds = [seed(0, 0, 2), seed(1, 1, 3), seed(2, 2, 4), seed(3, 3, 5), seed(4, 4, 6)]
    found = summarise(seeds, env="Walk-v0", reference=REFERENCE)
    assert found.interval_over == "seeds"
    assert (found.n_seeds, found.n_episodes) == (5, 2)
    assert found.return_ci == interval([1, 2, 3, 4, 5])
    assert found.return_ci != interval([0, 2, 1, 3, 2, 4, 3, 5, 4, 6])
    assert found.return_std == pytest.approx(np.std([0, 2, 1, 3, 2, 4, 3, 5, 4, 6], ddof=1))


def test_one_episode_of_one_seed_has_no_interval_and_that_is_said() -> None:
    found = summarise([seed(0, 7.0)], env="Walk-v0", reference=REFERENCE)
    assert (found.return_ci, found.score_ci, found.return_std) == (None, None, None)
    assert found.score == 14.0
    assert any(note.startswith("n=1: no interval") for note in found.notes)


def test_equal_returns_have_an_interval_of_zero_width() -> None:
    found = summarise([seed(0, 500.0, 500.0, 500.0)], env="Walk-v0", reference=REFERENCE)
    assert found.return_ci == (500.0, 500.0)
    assert found.score_ci == (1000.0, 1000.0)
    assert found.return_std == 0.0


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_the_interval_and_the_score_are_in_order_and_json_holds_everything(
    returns: list[float],
) -> None:
    upside_down = Reference("fall", random=10.0, expert=-10.0, source="a test")
    found = summarise([seed(None, *returns)], env="Fall-v0", reference=upside_down)
    for bounds, value in ((found.return_ci, found.return_mean), (found.score_ci, found.score)):
        if bounds is not None:
            assert value is not None
            assert bounds[0] <= value <= bounds[1]
    page = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert page.keys() >= KEYS
    assert page["seeds"][0]["returns"] == returns


def test_without_references_there_is_no_score_and_a_reason() -> None:
    found = summarise([seed(0, 1, 2)], env="Tetris-v0")
    assert (found.score, found.score_ci) == (None, None)
    assert any("No score" in note and "Tetris-v0" in note for note in found.notes)


def test_what_is_known_of_a_reference_is_passed_on() -> None:
    noted = Reference("pen", 0.0, 1.0, "a test", note="twice those of papers")
    found = summarise([seed(0, 1, 2)], env="Pen-v1", reference=noted)
    assert "twice those of papers" in found.notes
    assert found.to_dict()["reference"]["source"] == "a test"


def test_equal_references_are_refused() -> None:
    with pytest.raises(ConfigError, match="are equal"):
        summarise([seed(0, 1, 2)], env="Walk-v0", reference=Reference("walk", 3.0, 3.0, "x"))


@pytest.mark.parametrize("seeds", [[], [SeedEvaluation(0, (), ())]])
def test_no_episodes_are_refused(seeds: list[SeedEvaluation]) -> None:
    with pytest.raises(ConfigError, match="no episode"):
        summarise(seeds, env="Walk-v0")


def test_rollouts_become_a_seed_of_plain_numbers() -> None:
    two = np.zeros(2, np.bool_)
    played = Rollouts(np.array([1.5, 2.5]), np.array([3, 4]), two, two, np.zeros((2, 1)))
    found = seed_evaluation(played, 7, 1000)
    assert found == SeedEvaluation(7, (1.5, 2.5), (3, 4), 1000)
    assert found.to_dict()["return_mean"] == 2.0
