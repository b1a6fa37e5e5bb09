"""Choosing among runs by logged episodes: the better one, its checkpoint, who learned what."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from offrl import Dataset, TrainedRun, fit, load_run
from offrl.errors import ConfigError, CorruptDataError, WorkError
from offrl.selection import select
from offrl_cli import main

QUICK: dict[str, Any] = {
    "fqe_steps": 120,
    "fqe_seeds": 1,
    "fqe_hidden_size": 8,
    "fqe_batch_size": 64,
    "fqe_lr": 0.01,
    "replicates": 100,
}


def arms(id: str = "toy/arms-v0", seed: int = 0) -> Dataset:
    """600 episodes of two steps; arm 1 earns 1 a step, arm 0 nothing and is taken 6 times in 10."""
    rng, n = np.random.default_rng(seed), 1200
    action = (rng.random(n) < 0.4).astype(np.int64)
    return Dataset.from_arrays(
        rng.normal(size=(n + n // 2, 2)).astype(np.float32),
        action,
        action.astype(float),
        np.arange(n) % 2 == 1,
        np.zeros(n, bool),
        action_space=spaces.Discrete(2),
        behavior_log_prob=np.log(np.where(action == 1, 0.4, 0.6)),
    ).save(id)


def clone(out: Path, fraction: float, seeds: tuple[int, ...] = (0,), **more: Any) -> TrainedRun:
    """A clone of all episodes, which takes arm 0, or of the best tenth, which takes arm 1."""
    given: dict[str, Any] = {"steps": 60, "hidden_size": 8, "holdout": 0.25, "compile": "off"}
    given |= {"save_every": 20, "log_every": 20, "lr": 0.03, "seeds": seeds, "discount": 0.9}
    return fit("bc", "toy/arms-v0", out=out, **{**given, "keep": fraction, **more})


@pytest.fixture
def both(tmp_path: Path) -> tuple[str, str]:
    arms()
    clone(tmp_path / "runs" / "poor", 1.0)
    clone(tmp_path / "runs" / "good", 0.1)
    return "runs/poor", "runs/good"


@pytest.mark.parametrize("by", [pytest.param("fqe", marks=pytest.mark.slow), "wis"])
def test_the_run_that_takes_the_better_arm_is_chosen_by_episodes_that_nobody_acts_in(
    both: tuple[str, str], by: str
) -> None:
    found = select("runs/*", "toy/arms-v0", by=by, **QUICK)
    assert found.chosen == "runs/good"
    values = {run: value for run, value, _ in found.ranking}
    assert values["runs/good"] == pytest.approx(1.9, abs=0.4)  # 1 + 0.9
    assert values["runs/poor"] == pytest.approx(0.0, abs=0.3)
    assert not found.in_sample
    assert found.n_episodes == 150
    assert found.behavior_value == pytest.approx(0.4 * 1.9, abs=0.15)


def test_the_choice_is_kept_and_eval_says_how_the_checkpoint_was_picked(
    both: tuple[str, str],
) -> None:
    found = select(list(both), "toy/arms-v0", checkpoints="all", by="wis", **QUICK)
    page = json.loads(Path("runs/good/selection.json").read_text())
    assert page == json.loads(json.dumps(found.to_dict()))
    assert not list(Path("runs/good").rglob("ope.json"))  # what offrl ope found stays what it was
    assert not Path("runs/poor/selection.json").exists()
    # 60, 20, 40 of each: what is not trained yet is no candidate.
    assert {(one.run, one.step) for one in found.candidates} == {
        (run, step) for run in both for step in (20, 40, 60)
    }
    run = load_run("runs/good")
    step = page["seeds"]["0"]["step"]
    assert run.checkpoint(0, "selected").step == step
    assert run.picked(0, "selected") == (
        "selected by wis among 6 policies on 150 episodes of toy/arms-v0 not learned from"
    )


def test_a_run_counts_by_the_mean_of_its_seeds_each_at_its_best_checkpoint(tmp_path: Path) -> None:
    arms()
    clone(tmp_path / "runs" / "good", 0.1, seeds=(0, 1, 2))
    found = select("runs/good", "toy/arms-v0", by="wis", checkpoints="all", **QUICK)
    _, value, best = found.ranking[0]
    assert [one.seed for one in best] == [0, 1, 2]
    assert value == pytest.approx(sum(one.value or 0.0 for one in best) / 3)
    for one in best:
        same = [c.value for c in found.candidates if c.seed == one.seed and c.value is not None]
        assert one.value == max(same)


def test_episodes_that_candidates_learned_from_are_labelled(tmp_path: Path) -> None:
    arms()
    clone(tmp_path / "runs" / "a", 0.1, holdout=0.0)
    found = select("runs/a", "toy/arms-v0", by="wis", **QUICK)
    assert found.in_sample
    assert "(in_sample)" in load_run("runs/a").picked(0, "selected")


def test_other_data_are_held_out_whatever_was_learned_from(both: tuple[str, str]) -> None:
    arms("toy/more-v0", seed=5)
    found = select("runs", "toy/more-v0", by="wis", **QUICK)
    assert (found.n_episodes, found.in_sample, found.chosen) == (600, False, "runs/good")


def test_what_cannot_be_told_apart_is_said(both: tuple[str, str], tmp_path: Path) -> None:
    clone(tmp_path / "runs" / "same", 0.1)
    found = select(["runs/good", "runs/same"], "toy/arms-v0", by="wis", **QUICK)
    assert any("have not been told apart" in note for note in found.notes)
    far = select("runs/*", "toy/arms-v0", by="wis", **QUICK).notes
    assert any("those of 1 of 2 others" in note for note in far)


def test_the_command_ranks_and_hands_over_to_eval(
    both: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["select", *both, "--dataset", "toy/arms-v0", "--by", "wis", "--replicates", "100"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.index("runs/good") < out.index("runs/poor")
    assert "next: offrl eval runs/good --checkpoint selected" in out
    assert main([*words, "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    assert (page["chosen"], page["by"]) == ("runs/good", "wis")
    assert main(["eval", "runs/good", "--env", "Nowhere-v0", "--checkpoint", "selected"]) != 0
    assert main(["select", *both]) == 2
    assert "--dataset" in capsys.readouterr().err
    assert main(["select", *both, "--dataset", "toy/arms-v0", "--by", "luck"]) == 2
    assert "luck" in capsys.readouterr().err


def test_candidates_that_are_all_refused_choose_nothing(both: tuple[str, str]) -> None:
    with pytest.raises(WorkError, match="No candidate could be judged"):
        select("runs/*", "toy/arms-v0", by="wis", **{**QUICK, "min_ess": 1000.0})
    assert not Path("runs/good/selection.json").exists()
    with pytest.raises(ConfigError, match="'last' or 'all'"):
        select("runs/*", "toy/arms-v0", checkpoints="first")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"format": 1, "seeds": {"x": {"step": 1}}, "picked": ""}', '{"format": 1}']
)
def test_a_damaged_selection_is_named(both: tuple[str, str], text: str) -> None:
    Path("runs/good/selection.json").write_text(text)
    with pytest.raises(CorruptDataError, match=r"selection\.json cannot be read"):
        load_run("runs/good").policy(checkpoint="selected")
    load_run("runs/good").policy()
