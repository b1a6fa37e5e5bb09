"""The best checkpoint by a criterion on held-out episodes: which, and the same after any stop."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from training_runs import digest, saved_dataset, settings_of

from offrl import Dataset
from offrl import checkpoint as checkpoints
from offrl.algos import ALGORITHMS, get
from offrl.errors import ConfigError, NotFoundError
from offrl.evaluation.evaluate import evaluate
from offrl.events import Event, Saved, Trained
from offrl.keeping import Keeper
from offrl.logs import read_metrics
from offrl.testing import toy_dataset
from offrl.training import fit
from offrl_cli import main

PICKED = "selected by holdout/loss on held-out episodes, while training"
STATE = {"params": {"policy": {}}}


def keeping(folder: Path, highest: bool = False) -> Keeper:
    return Keeper(folder, "holdout/loss", highest)


def kept(folder: Path) -> list[int]:
    return list(checkpoints.folders(folder, checkpoints.SELECTED))


def selected_bytes(run: Path) -> dict[str, str]:
    return {
        str(path.relative_to(run)): digest(path)
        for path in sorted(run.glob("seed_*/checkpoints/selected_*/state.safetensors"))
    }


def losses(run: Path, seed: int = 0, name: str = "holdout/loss") -> dict[int, float]:
    rows = read_metrics(run / f"seed_{seed}" / "metrics.csv", up_to=10**9)
    return {step: row[name] for step, row in rows if name in row}


def given(**changes: Any) -> dict[str, Any]:
    return settings_of(
        "bc", **{"holdout": 0.25, "select": "loss", "lr": 0.003, "log_every": 2, **changes}
    )


@pytest.mark.parametrize(
    ("highest", "values", "best"),
    [
        (False, [5.0, 3.0, 4.0, 2.5], 4),
        (True, [5.0, 3.0, 4.0, 2.5], 1),
        (False, [5.0, 2.0, 2.0, 3.0], 2),  # the first of equals
        (False, [float("nan"), 4.0, float("nan"), 6.0], 2),
    ],
)
def test_the_best_is_kept_the_first_of_equals_and_never_what_is_not_a_number(
    tmp_path: Path, highest: bool, values: list[float], best: int
) -> None:
    keeper = keeping(tmp_path, highest)
    for step, value in enumerate(values, start=1):
        keeper.see(step, {"holdout/loss": value}, STATE, {})
        keeper.clock(step)
    assert kept(tmp_path) == [best]


def test_the_best_up_to_the_last_save_outlives_a_better_one_until_the_next_save(
    tmp_path: Path,
) -> None:
    keeper = keeping(tmp_path)
    for step, value in [(1, 5.0), (2, 4.0)]:
        keeper.see(step, {"holdout/loss": value}, STATE, {})
    keeper.clock(3)
    for step, value in [(4, 3.0), (5, 2.0)]:
        keeper.see(step, {"holdout/loss": value}, STATE, {})
    assert kept(tmp_path) == [2, 5]
    again = keeping(tmp_path)
    again.go_back(3)
    assert kept(tmp_path) == [2]
    assert again.best == 4.0
    again.see(4, {"holdout/loss": 4.5}, STATE, {})
    assert kept(tmp_path) == [2]


def test_the_selected_checkpoint_is_that_of_the_lowest_held_out_loss_of_all_rows(
    tmp_path: Path,
) -> None:
    saved_dataset()
    run = fit("bc", "toy/box-v0", out=tmp_path / "run", **given(seeds=(0, 1)))
    for seed in (0, 1):
        found = losses(run.dir, seed)
        best = min(found, key=lambda step: found[step])
        assert run.checkpoint(seed, "selected").step == best
        told = run.result["selected"]["seeds"][str(seed)]
        assert (told["step"], told["value"]) == (best, found[best])
    assert run.picked(0, "selected") == PICKED
    # Over-fitted by its end, as the learning rate is meant to have it: else this shows nothing.
    assert any(run.checkpoint(seed, "selected").step < 60 for seed in (0, 1))


def test_what_is_kept_is_the_state_of_its_step_to_the_bit(tmp_path: Path) -> None:
    saved_dataset()
    run = fit("bc", "toy/box-v0", out=tmp_path / "run", **given())
    every = fit("bc", "toy/box-v0", out=tmp_path / "every", **given(save_every=2))
    best = run.checkpoint(0, "selected")
    same = every.checkpoint(0, best.step)
    for name, tensor in best.tensors.items():
        assert np.array_equal(tensor.numpy(), same.tensors[name].numpy()), name
    obs = np.zeros((2, run.policy().spec.obs_dim), np.float32)
    ours, theirs = run.policy(checkpoint="selected"), every.policy(checkpoint=best.step)
    assert np.array_equal(ours.predict(obs), theirs.predict(obs))


def test_cut_off_at_any_event_and_resumed_the_run_ends_with_the_same_selection(
    tmp_path: Path,
) -> None:
    saved_dataset()
    copies: list[Path] = []

    def cut(event: Event) -> None:
        """What a power cut at this event would leave."""
        if isinstance(event, Trained | Saved) and event.step % 5 != 2:
            copies.append(tmp_path / f"cut-{len(copies)}")
            shutil.copytree(tmp_path / "whole", copies[-1])

    whole = fit("bc", "toy/box-v0", out=tmp_path / "whole", on_event=cut, **given())
    assert len(copies) > 12
    assert len({tuple(kept(copy / "seed_0")) for copy in copies}) > 3
    for copy in copies[::3]:
        fit("bc", "toy/box-v0", out=copy, resume=True)
        assert selected_bytes(copy) == selected_bytes(whole.dir)
        assert losses(copy) == losses(whole.dir)


def test_a_damaged_best_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    saved_dataset()
    run = fit("bc", "toy/box-v0", out=tmp_path / "run", **given())
    folder = tmp_path / "run" / "seed_0"
    (kept_one,) = checkpoints.folders(folder, "selected").values()
    (kept_one / "state.safetensors").write_bytes(b"")
    for step in list(checkpoints.folders(folder))[-2:]:
        shutil.rmtree(checkpoints.folders(folder)[step])
    with pytest.warns(UserWarning, match="Selecting among later steps"):
        fit("bc", "toy/box-v0", out=run.dir, resume=True)


def test_a_run_without_select_keeps_nothing_and_says_what_would(tmp_path: Path) -> None:
    saved_dataset()
    run = fit("bc", "toy/box-v0", out=tmp_path / "run", **settings_of("bc", holdout=0.25))
    assert kept(run.dir / "seed_0") == []
    assert "selected" not in run.result
    with pytest.raises(NotFoundError, match="no checkpoint 'selected'") as caught:
        run.policy(checkpoint="selected")
    assert "--select" in caught.value.remedy


@pytest.mark.parametrize(
    ("algo", "select", "holdout", "said"),
    [
        ("td3-bc", "loss", 0.25, "no criterion on held-out episodes"),
        ("bc", "log_prob", 0.25, "bc has no criterion 'log_prob'"),
        ("bc", "loss", 0.0, "No episode is held out"),
    ],
)
def test_what_cannot_be_selected_by_is_refused_before_anything_is_written(
    tmp_path: Path, algo: str, select: str, holdout: float, said: str
) -> None:
    data = toy_dataset(discrete=False, episodes=12)
    with pytest.raises(ConfigError, match=said) as caught:
        fit(algo, data, out=tmp_path / "run", steps=10, select=select, holdout=holdout)
    assert caught.value.remedy
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("discrete", [False, True])
def test_a_declared_criterion_is_a_metric_that_the_algorithm_has(
    tmp_path: Path, discrete: bool
) -> None:
    data = toy_dataset(discrete=discrete, episodes=12)
    for name in ALGORITHMS:
        for criterion, _ in get(name).criteria:
            settings = settings_of(name, holdout=0.25, select=criterion, steps=25)
            run = fit(name, data, out=tmp_path / name, **settings)
            assert run.result["selected"]["seeds"]["0"]["criterion"] == f"holdout/{criterion}"


def test_another_select_is_another_run(tmp_path: Path) -> None:
    saved_dataset()
    fit("bc", "toy/box-v0", out=tmp_path / "run", **settings_of("bc", holdout=0.25))
    with pytest.raises(ConfigError, match="select is 'loss', was None"):
        fit("bc", "toy/box-v0", out=tmp_path / "run", resume=True, select="loss")


def pendulum() -> None:
    rng, n = np.random.default_rng(0), 80
    Dataset.from_arrays(
        rng.normal(size=(n + 8, 3)).astype(np.float32),
        rng.uniform(-2, 2, (n, 1)).astype(np.float32),
        rng.normal(size=n),
        np.zeros(n, bool),
        np.arange(n) % 10 == 9,
        action_space=spaces.Box(-2, 2, (1,), np.float32),
        env="Pendulum-v1",
    ).save("toy/pendulum-v0")


def test_every_score_says_how_its_checkpoint_was_picked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pendulum()
    words = "train --algo bc --dataset toy/pendulum-v0 --steps 20 --log-every 2 --hidden-size 8"
    also = "--holdout 0.25 --select loss --eval-every 10 --eval-episodes 1 --out"
    assert main([*words.split(), *also.split(), str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "selected by holdout/loss, at step by seed 0: " in said
    assert "(best by evaluation, in hindsight)" in said
    page = json.loads((tmp_path / "run" / "result.json").read_text())
    assert page["checkpoint"] == "last"
    tried = page["evaluations"]
    assert (tried["last"]["picked"], tried["last"]["seeds"]["0"]["step"]) == ("last", 20)
    assert tried["best"]["picked"] == "best by evaluation, in hindsight"
    assert tried["best"]["return_mean"] >= tried["last"]["return_mean"]
    for which, picked in [
        ("last", "last"),
        ("selected", PICKED),
        ("20", "step 20"),
    ]:
        found = evaluate(tmp_path / "run", episodes=1, checkpoint=which).to_dict()
        assert (found["checkpoint"], found["picked"]) == (which, picked)
        page = json.loads((tmp_path / "run" / "result.json").read_text())
        assert page["evaluation"]["picked"] == picked
        assert main(["eval", str(tmp_path / "run"), "--episodes", "1", "--checkpoint", which]) == 0
        (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("checkpoint")]
        assert picked in line
    assert main(["eval", str(tmp_path / "run"), "--checkpoint", "best"]) == 2
    assert "neither 'last', 'selected' nor a step" in capsys.readouterr().err
