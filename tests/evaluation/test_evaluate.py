"""Evaluating runs and policies: what is acted in, what is kept, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import offrl
from offrl import Dataset, TrainedRun
from offrl.data.spec import Spec
from offrl.errors import (
    ConfigError,
    CorruptDataError,
    EnvError,
    IncompatibleVersionError,
    NotFoundError,
    OffrlError,
)
from offrl.evaluation.evaluate import evaluate
from offrl_cli import main

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


def logs(env: str | None = "Pendulum-v1") -> Dataset:
    """Five short episodes of noise in the spaces of Pendulum."""
    rng = np.random.default_rng(0)
    n = 5 * 12
    return Dataset.from_arrays(
        rng.uniform(-1, 1, (n + 5, 3)).astype(np.float32),
        rng.uniform(-2, 2, (n, 1)).astype(np.float32),
        rng.standard_normal(n),
        np.zeros(n, np.bool_),
        np.arange(n) % 12 == 11,
        observation_space=spaces.Box(
            np.array([-1, -1, -8], np.float32), np.array([1, 1, 8], np.float32)
        ),
        action_space=spaces.Box(-2.0, 2.0, (1,), np.float32),
        env=env,
    )


def trained(out: Path, data: Dataset, seeds: tuple[int, ...] = (0, 1)) -> TrainedRun:
    return offrl.fit(
        "bc", data, steps=4, seeds=seeds, out=out, compile="off", hidden_size=16, save_every=2
    )


@pytest.fixture
def run(tmp_path: Path) -> TrainedRun:
    return trained(tmp_path / "run", logs())


class Never(gymnasium.Env[np.ndarray, np.ndarray]):
    """Must not be stepped."""

    observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def reset(self, **given: Any) -> Any:
        raise AssertionError("an episode began")


class Still:
    """A policy of zeros."""

    def __init__(self) -> None:
        self.spec = Spec(Never.observation_space, Never.action_space)

    def act(self, flat_obs: np.ndarray) -> np.ndarray:
        return np.zeros((len(flat_obs), 1), np.float32)


def result(run: TrainedRun) -> dict[str, Any]:
    found = json.loads((run.dir / "result.json").read_text())
    assert isinstance(found, dict)
    return found


def test_a_run_is_evaluated_in_the_environment_of_its_data(run: TrainedRun) -> None:
    found = evaluate(run, episodes=3)
    page = found.to_dict()
    assert page.keys() >= KEYS
    assert (page["env"], page["n_seeds"], page["n_episodes"]) == ("Pendulum-v1", 2, 3)
    assert (page["interval_over"], page["length_mean"]) == ("seeds", 200.0)
    assert page["checkpoint"] == "last"
    assert [seed["checkpoint_step"] for seed in page["seeds"]] == [4, 4]
    assert page["reference"]["policy"] == "pendulum-swing-up"
    means = [seed["return_mean"] for seed in page["seeds"]]
    assert page["return_mean"] == pytest.approx(np.mean(means))
    assert means[0] != means[1]
    assert {"gymnasium", "torch"} <= page["versions"].keys()


def test_the_result_joins_what_the_run_already_says_of_itself(run: TrainedRun) -> None:
    before = result(run)
    found = evaluate(run, episodes=2)
    after = result(run)
    assert after.pop("evaluation") == json.loads(json.dumps(found.to_dict()))
    assert after == before
    assert after["format"] == 1
    assert not list(run.dir.glob("*.tmp*")) + list(run.dir.glob(".*.tmp*"))
    again = evaluate(run, episodes=3)
    assert result(run)["evaluation"]["n_episodes"] == again.n_episodes == 3


def test_a_run_its_folder_its_seeds_and_its_policy_have_the_same_episodes(run: TrainedRun) -> None:
    whole = evaluate(run, episodes=3, seed=9).seeds
    by_path = evaluate(str(run.dir), episodes=3, seed=9, n_envs=1).seeds
    assert by_path == whole
    one = evaluate(run.dir / "seed_1", episodes=3, seed=9)
    assert (one.n_seeds, one.interval_over) == (1, "episodes")
    assert one.seeds == whole[1:]
    alone = evaluate(run.policy(1), "Pendulum-v1", episodes=3, seed=9).seeds[0]
    assert alone.returns == whole[1].returns
    assert alone.seed is None


def test_the_number_of_threads_changes_nothing_and_is_left_alone(run: TrainedRun) -> None:
    policy = run.policy()
    one = evaluate(policy, "Pendulum-v1", episodes=2).seeds
    torch.set_num_threads(2)
    try:
        assert evaluate(policy, "Pendulum-v1", episodes=2).seeds == one
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_an_earlier_checkpoint_is_evaluated_by_its_step(run: TrainedRun) -> None:
    found = evaluate(run, episodes=2, checkpoint=2)
    assert found.checkpoint == "2"
    assert [seed.checkpoint_step for seed in found.seeds] == [2, 2]
    assert found.seeds[0].returns != evaluate(run, episodes=2).seeds[0].returns


def test_a_checkpoint_that_is_not_there_is_refused_and_the_others_named(run: TrainedRun) -> None:
    before = result(run)
    with pytest.raises(NotFoundError, match="no checkpoint '3'") as caught:
        evaluate(run, episodes=2, checkpoint=3)
    assert "2, 4" in caught.value.remedy
    assert result(run) == before


def test_a_function_may_make_the_environment(run: TrainedRun) -> None:
    made = evaluate(run.policy(), lambda: gymnasium.make("Pendulum-v1"), episodes=2)
    typed = evaluate(run.policy(), "Pendulum-v1", episodes=2)
    assert (made.env, made.seeds) == (typed.env, typed.seeds)


def test_data_without_an_environment_needs_one_named(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", logs(env=None), seeds=(0,))
    with pytest.raises(ConfigError, match="names no environment") as caught:
        evaluate(run, episodes=2)
    assert "--env" in caught.value.remedy
    assert evaluate(run, "Pendulum-v1", episodes=2).env == "Pendulum-v1"


def test_a_policy_alone_needs_an_environment_named() -> None:
    with pytest.raises(ConfigError, match="A policy alone names no environment"):
        evaluate(Still(), episodes=2)


def test_something_else_than_a_run_or_a_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match="A list cannot be evaluated"):
        evaluate([1, 2], "Pendulum-v1")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("words", [False, True])
def test_an_environment_with_other_spaces_is_refused_before_its_first_step(
    run: TrainedRun, words: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    before = result(run)
    if words:
        assert main(["eval", str(run.dir), "--env", "CartPole-v1"]) == 1
        assert "CartPole-v1 are not the data's" in capsys.readouterr().err
    else:
        with pytest.raises(EnvError, match="CartPole-v1 are not the data's"):
            evaluate(run, "CartPole-v1")
    assert result(run) == before


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("{", CorruptDataError, "result.json cannot be read"),
        ("[1]", CorruptDataError, "is not a JSON object"),
        ('{"format": 2}', IncompatibleVersionError, "has format 2"),
    ],
)
def test_a_damaged_result_is_told_before_an_episode_begins_and_left_alone(
    run: TrainedRun,
    text: str,
    error: type[OffrlError],
    said: str,
    words: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = run.dir / "result.json"
    path.write_text(text)
    if words:
        assert main(["eval", str(run.dir)]) == 1
        assert said in capsys.readouterr().err
    else:
        with pytest.raises(error, match=said):
            evaluate(run, Never)
    assert path.read_text() == text


def test_a_folder_that_cannot_be_written_is_told_and_the_old_result_stays(
    run: TrainedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = result(run)

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("offrl.data.durable.write_file", full)
    with pytest.raises(OffrlError, match=r"result.json could not be written: No space left"):
        evaluate(run, episodes=1)
    assert result(run) == before


def test_one_episode_has_no_interval_and_the_command_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path / "run", logs(), seeds=(0,))
    capsys.readouterr()
    assert main(["eval", str(run.dir), "--episodes", "1", "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    assert page["return_ci"] is None
    assert any(note.startswith("n=1: no interval") for note in page["notes"])
    assert main(["eval", str(run.dir), "--episodes", "1"]) == 0


def saved(run_folder: Path, **metadata: Any) -> TrainedRun:
    """A run whose data is on the disk, its metadata.json and no manifest, as others write it."""
    data = logs().save("me/pendulum-v0")
    run = trained(run_folder, data, seeds=(0,))
    assert data.path is not None
    (path,) = data.path.glob("**/metadata.json")
    (data.path / "manifest.json").unlink()
    path.write_text(json.dumps(json.loads(path.read_text()) | metadata))
    return run


def test_a_datasets_own_references_make_the_score(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", ref_min_score=-2000.0, ref_max_score=0.0)
    found = evaluate(run, episodes=2)
    assert found.reference is not None
    assert (found.reference.random, found.reference.expert) == (-2000.0, 0.0)
    assert found.score == pytest.approx(100 * (found.return_mean + 2000) / 2000)


@pytest.mark.parametrize("words", [False, True])
def test_equal_references_are_an_error_before_an_episode_begins(
    tmp_path: Path,
    words: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = saved(tmp_path / "run", ref_min_score=5.0, ref_max_score=5.0)
    before = result(run)
    if words:
        assert main(["eval", str(run.dir)]) == 2
        assert "me/pendulum-v0 are equal" in capsys.readouterr().err
    else:
        with pytest.raises(ConfigError, match="me/pendulum-v0 are equal"):
            evaluate(run, episodes=2)
    assert result(run) == before


def test_other_versions_than_the_datas_are_noted(tmp_path: Path) -> None:
    versions = {"python": "3.11.0", "offrl": "0.1.0", "gymnasium": "0.29.1"}
    run = saved(tmp_path / "run", offrl={"format": 1, "versions": versions})
    notes = evaluate(run, episodes=2).notes
    assert any("gymnasium 0.29.1 then" in note for note in notes)


def test_another_version_of_the_datas_environment_is_noted(run: TrainedRun) -> None:
    older = replace(run, run=replace(run.run, env="Pendulum-v0"))
    found = evaluate(older, "Pendulum-v1", episodes=2)
    assert any("logged in Pendulum-v0" in note for note in found.notes)
    assert not evaluate(run, "Pendulum-v1", episodes=2).notes


def test_a_run_is_evaluated_where_its_data_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = saved(tmp_path / "run")
    here = evaluate(run, episodes=2)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "elsewhere"))
    assert evaluate(run, episodes=2).seeds == here.seeds


def test_data_that_is_damaged_is_left_aside_and_that_is_said(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", total_steps=-1)
    found = evaluate(run, episodes=2)
    assert any("dataset is there but was left aside" in note for note in found.notes)


def test_an_entry_point_of_a_dataset_is_not_followed_unless_it_is_trusted(tmp_path: Path) -> None:
    spec = gymnasium.make("Pendulum-v1").spec
    assert spec is not None
    changed = json.loads(spec.to_json()) | {"entry_point": "somewhere.else:Env"}
    run = saved(tmp_path / "run", env_spec=json.dumps(changed))
    with pytest.raises(OffrlError, match=r"somewhere\.else:Env"):
        evaluate(run, episodes=2)
    found = evaluate(run, "Pendulum-v1", episodes=2)
    assert found.env == "Pendulum-v1"


def test_a_seed_whose_training_stopped_early_is_named(run: TrainedRun) -> None:
    path = run.dir / "result.json"
    path.write_text(json.dumps(result(run) | {"diverged": {"1": "policy/loss at step 3"}}))
    (note,) = evaluate(run, episodes=2).notes
    assert note.startswith("Training of seed 1 stopped early")
    assert note.endswith("policy/loss at step 3")


def test_progress_counts_the_episodes_of_all_seeds(run: TrainedRun) -> None:
    heard: list[tuple[int, int]] = []
    evaluate(run, episodes=3, n_envs=2, progress=lambda done, of: heard.append((done, of)))
    assert heard[-1] == (6, 6)
    assert [done for done, _ in heard] == sorted({done for done, _ in heard})
