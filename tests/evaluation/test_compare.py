"""Two groups of runs held against each other: what is said, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judged_runs import judged
from scipy import stats

import offrl
from offrl.errors import ConfigError
from offrl.evaluation.compare import Comparison, compare
from offrl.evaluation.references import lookup, score
from offrl_cli import main

CART = "CartPole-v1"
KEYS = {"measure", "tasks", "a", "b", "difference", "told_apart", "better", "seeds_needed"}


def returns(mean: float, n: int = 5, spread: float = 20.0, seed: int = 0) -> dict[int, list[float]]:
    rng = np.random.default_rng(seed)
    return {s: [float(v)] * 2 for s, v in enumerate(rng.normal(mean, spread, n))}


def scored(value: float) -> float:
    found = score(value, lookup("Pendulum-v1"))
    assert found is not None
    return found


def both(tmp_path: Path, a: dict[int, list[float]], b: dict[int, list[float]]) -> Comparison:
    judged(tmp_path / "a", a, algo="awr")
    judged(tmp_path / "b", b)
    return compare("a", "b", reps=500)


def test_one_task_is_a_paired_t_test_of_the_scores_of_shared_seeds(tmp_path: Path) -> None:
    a, b = returns(-300, seed=1), returns(-320, seed=2)
    found = both(tmp_path, a, b)
    scores = [[scored(v[0]) for v in side.values()] for side in (a, b)]
    expected = stats.ttest_rel(scores[0], scores[1]).confidence_interval(0.95)
    assert found.measure == "score"
    assert found.difference.interval == pytest.approx((expected.low, expected.high))
    assert found.difference.estimate == pytest.approx(np.mean(scores[0]) - np.mean(scores[1]))
    assert found.to_dict()["difference"]["n"] == 5
    welch = stats.ttest_ind(scores[0], scores[1], equal_var=False).confidence_interval(0.95)
    assert found.alone.interval == pytest.approx((welch.low, welch.high))
    side = found.to_dict()["a"]
    t = stats.t.interval(0.95, 4, loc=np.mean(scores[0]), scale=stats.sem(scores[0]))
    assert side["mean_ci"] == pytest.approx(t)
    assert side["picked"] == ("last",)


def test_far_apart_is_told_apart_and_near_is_not_with_the_seeds_it_would_take(
    tmp_path: Path,
) -> None:
    judged(tmp_path / "good", returns(-200, seed=1))
    judged(tmp_path / "poor", returns(-900, seed=2))
    judged(tmp_path / "near", returns(-205, seed=3))
    found = compare("good", "poor", reps=500)
    assert found.better == "a"
    assert compare("poor", "good", reps=500).better == "b"
    assert found.improvement == 1.0
    near = compare("good", "near", reps=500)
    assert near.better is None
    assert near.seeds_needed is not None
    assert near.seeds_needed > 5
    assert near.more_seeds == near.seeds_needed - 5
    large = compare("good", "near", size=50.0, reps=500)
    assert large.seeds_needed is not None
    assert large.seeds_needed < near.seeds_needed


def test_a_run_against_itself_is_a_tie(tmp_path: Path) -> None:
    judged(tmp_path / "a", returns(-300))
    found = compare("a", "a", reps=500)
    assert found.improvement == 0.5
    assert found.difference.interval == (0.0, 0.0)
    assert found.better is None
    assert found.seeds_needed is None


def test_the_same_words_give_the_same_numbers(tmp_path: Path) -> None:
    one = both(tmp_path, returns(-300, seed=1), returns(-320, seed=2)).to_dict()
    assert compare("a", "b", reps=500).to_dict() == one
    assert compare("a", "b", reps=500, seed=1).to_dict()["a"]["iqm_ci"] != one["a"]["iqm_ci"]


def test_several_tasks_count_alike_and_those_of_one_side_are_left_out_and_told(
    tmp_path: Path,
) -> None:
    for side, shift in (("a", 40.0), ("b", 0.0)):
        judged(tmp_path / side / "p", returns(-600 + shift, seed=1))
        judged(
            tmp_path / side / "c",
            returns(100 + shift, seed=2),
            dataset="toy/cart-v0",
            env="CartPole-v1",
        )
    judged(tmp_path / "a" / "more", returns(0), dataset="toy/extra-v0", env=CART)
    found = compare("a/*", "b", reps=500)
    assert found.tasks == ("toy/cart-v0 in CartPole-v1", "toy/pendulum-v0 in Pendulum-v1")
    assert any("toy/extra-v0" in note for note in found.notes)
    scale = [40 / (500 - 21.497) * 100, 40 / (1233.845001 - 150.328050) * 100]
    assert found.difference.estimate == pytest.approx(np.mean(scale))
    assert len(found.profiles["a"]) == len(found.profiles["thresholds"])
    assert found.profiles["a"][-1] == found.profiles["b"][-1] == 0.0


def test_other_data_of_one_environment_compare_unpaired_and_say_so(tmp_path: Path) -> None:
    judged(tmp_path / "a", returns(-300, seed=1), dataset="toy/medium-v0", fingerprint="sha256:1")
    judged(tmp_path / "b", returns(-320, seed=2), dataset="toy/expert-v0", fingerprint="sha256:2")
    found = compare("a", "b", reps=500)
    assert found.tasks == ("Pendulum-v1",)
    assert not found.difference.paired
    assert found.not_paired == "they learned from different data"
    assert any("may be the data" in note for note in found.notes)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"episode_seed": 1}, "different episodes"),
        ({"fingerprint": "sha256:9"}, "different data"),
    ],
)
def test_pairs_that_share_too_little_are_not_paired(
    tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    judged(tmp_path / "a", returns(-300, seed=1))
    judged(tmp_path / "b", returns(-320, seed=2), **change)
    found = compare("a", "b", reps=500)
    assert not found.difference.paired
    assert why in found.not_paired


def test_seeds_of_one_side_alone_are_left_out_of_pairs_and_told(tmp_path: Path) -> None:
    found = both(tmp_path, returns(-300, 5, seed=1), returns(-320, 3, seed=2))
    assert found.to_dict()["difference"]["n"] == 3
    assert any("seed 3, 4" in note for note in found.notes)
    judged(tmp_path / "c", {7: [1.0], 8: [2.0]})
    other = compare("a", "c", reps=500)
    assert "share 0 seeds" in other.not_paired


def test_checkpoints_that_were_not_picked_alike_are_told(tmp_path: Path) -> None:
    judged(tmp_path / "a", returns(-300), checkpoint="selected", picked="selected by holdout/loss")
    judged(tmp_path / "b", returns(-300))
    notes = compare("a", "b", reps=500).notes
    assert any("not picked alike: A selected by holdout/loss; B last" in note for note in notes)


def test_the_best_in_hindsight_is_a_second_number_that_says_what_it_is(tmp_path: Path) -> None:
    curve = {50: -200.0, 100: -800.0}
    judged(tmp_path / "a", returns(-800), curve=curve)
    judged(tmp_path / "b", returns(-800))
    page = compare("a", "b", reps=500).to_dict()
    best = page["a"]["best_while_training"]
    assert best["picked"] == "best by evaluation, in hindsight"
    assert best["mean"] == pytest.approx(score(-200.0, lookup("Pendulum-v1")))
    assert page["b"]["best_while_training"] is None


def test_one_seed_a_side_gives_no_interval_and_no_verdict(tmp_path: Path) -> None:
    found = both(tmp_path, {0: [-100.0, -120.0]}, {0: [-900.0, -910.0]})
    assert found.difference.interval is None
    assert found.better is None
    assert found.improvement_ci is None
    assert found.to_dict()["a"]["iqm_ci"] is None


def test_without_references_one_task_is_compared_by_its_returns(tmp_path: Path) -> None:
    for name, mean in (("a", 10.0), ("b", 0.0)):
        judged(tmp_path / name / "x", returns(mean, spread=1.0), dataset="me/x-v0", env="Mine-v0")
    found = compare("a", "b", reps=500)
    assert found.measure == "return"
    assert found.difference.estimate == pytest.approx(10.0)
    assert "optimality_gap" not in found.to_dict()["a"]
    for name in "ab":
        judged(tmp_path / name / "y", returns(0.0), dataset="me/y-v0", env="Other-v0")
    with pytest.raises(ConfigError, match="no common scale"):
        compare("a", "b", reps=500)


def test_what_cannot_be_compared_is_refused_with_the_next_step(tmp_path: Path) -> None:
    judged(tmp_path / "new", None)
    judged(tmp_path / "old", returns(-300))
    with pytest.raises(ConfigError, match="new was not evaluated") as caught:
        compare("new", "old")
    assert caught.value.remedy == "Run `offrl eval new` first."
    judged(tmp_path / "two" / "x", returns(-300))
    judged(tmp_path / "two" / "y", returns(-300))
    with pytest.raises(ConfigError, match=r"seed 0 of toy/pendulum-v0 twice: in .*x and in .*y"):
        compare("two", "old")
    judged(tmp_path / "cart", returns(100), dataset="toy/cart-v0", env=CART)
    with pytest.raises(ConfigError, match="share no task"):
        compare("cart", "old")
    with pytest.raises(ConfigError, match="above 0"):
        compare("old", "old", size=-1.0)


def test_runs_that_did_not_end_well_are_named(tmp_path: Path) -> None:
    run = judged(tmp_path / "a", returns(-300, 2))
    (run / "seed_1" / "diverged.toml").write_text('format = 1\nstep = 3\nmessage = "nan"\n')
    judged(tmp_path / "more" / "a", returns(-300, 2))
    judged(tmp_path / "more" / "b", None, dataset="toy/b-v0")
    notes = compare("a", "more", reps=500).notes
    assert any("Seed 1 of a is diverged" in note for note in notes)
    assert any("more/b was left out" in note for note in notes)


def test_the_command_prints_both_sides_and_one_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged(tmp_path / "a", returns(-300, seed=1))
    judged(tmp_path / "b", returns(-310, seed=2))
    assert main(["compare", "a", "b", "--resamples", "500"]) == 0
    out = capsys.readouterr().out
    assert "not told apart; were the true difference" in out
    assert "next: offrl train --config a/run.toml --seeds 0-" in out
    assert main(["compare", "a", "b", "--resamples", "500", "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    assert page.keys() >= KEYS
    assert page == json.loads(json.dumps(offrl.compare("a", "b", reps=500).to_dict()))
    assert math.isfinite(page["difference"]["mean"])
    assert main(["compare", "a", "nowhere"]) == 2
    assert "nowhere is not there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "first"),
    [("csv", "side,runs,"), ("latex", "\\begin{tabular}"), ("markdown", "| side")],
)
def test_the_two_sides_print_as_a_table_for_a_paper(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, first: str
) -> None:
    judged(tmp_path / "a_1", returns(-300, seed=1))
    judged(tmp_path / "b", returns(-310, seed=2))
    assert main(["compare", "a_1", "b", "--resamples", "500", "--table", kind]) == 0
    out = capsys.readouterr().out
    assert out.startswith(first)
    assert "next:" not in out
    assert ("a\\_1" in out) == (kind == "latex")
