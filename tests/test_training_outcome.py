"""What training says of a run: numbers that fail, features, held-out episodes, evaluations."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from training_runs import (
    digest,
    last_state,
    outcome,
    raise_at,
    saved_dataset,
    settings_of,
    tree,
)

from offrl import checkpoint, training
from offrl.algos import get
from offrl.checkpoint import newest
from offrl.data.dataset import Dataset
from offrl.errors import NumericsError
from offrl.evaluation.evaluate import evaluate
from offrl.events import Diverged, Evaluated, Event, Finished, Started
from offrl.plan import resolve
from offrl.testing import toy_dataset
from offrl.training import fit

REF = "toy/box-v0"


def poison(monkeypatch: pytest.MonkeyPatch, after: int = 9) -> None:
    """The reward scale of seed 1 becomes NaN once its value function took `after` steps."""
    start, awr = training.start, get("awr")
    update = awr.update

    def marked(algorithm: Any, table: Any, seed: int, precision: str) -> Any:
        modules, state = start(algorithm, table, seed, precision)
        state["adam"]["value"]["seed"] = torch.tensor(float(seed))
        return modules, state

    def poisoned(self: Any, learner: Any, batch: Any, stage: str) -> Any:
        adam = learner.state["adam"]["value"]
        if adam["seed"] == 1 and adam["t"] >= after:
            columns = {name: column * torch.nan for name, column in batch.columns.items()}
            batch = batch._replace(columns=columns)
        found, metrics = update(self, learner, batch, stage)
        found.state["adam"]["value"]["seed"] = adam["seed"]
        return found, metrics

    monkeypatch.setattr(training, "start", marked)
    monkeypatch.setattr(awr, "update", poisoned)


def test_a_seed_that_diverges_stops_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved_dataset()
    given, events = settings_of("awr", seeds=(0, 1, 2)), list[Event]()
    with monkeypatch.context() as clean:
        poison(clean, after=10**9)
        whole = fit("awr", REF, out=tmp_path / "whole", **{**given, "save_every": 9})
    poison(monkeypatch)
    said = r"Seed 1 has diverged: value/loss is nan at step 9\."
    with pytest.raises(NumericsError, match=said) as caught:
        fit("awr", REF, out=tmp_path / "run", on_event=events.append, **given)
    assert "Seed 0" not in str(caught.value)
    assert [(e.seed, e.step) for e in events if isinstance(e, Diverged)] == [(1, 9)]
    assert [e.seed for e in events if isinstance(e, Finished)] == [0, 2]
    kept, clean_run = tmp_path / "run" / "seed_1", whole.dir / "seed_1" / "checkpoints"
    assert last_state(kept) == (
        "step_00000009",
        digest(clean_run / "step_00000009" / "state.safetensors"),
    )
    for seed in ("seed_0", "seed_2"):
        assert outcome(tmp_path / "run")[seed] == outcome(whole.dir)[seed]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["diverged"] == {"1": "value/loss is nan at step 9."}


def test_a_diverged_seed_stays_so_when_the_run_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved_dataset()
    with monkeypatch.context() as bad:
        poison(bad)
        with pytest.raises(NumericsError):
            fit("awr", REF, out=tmp_path / "run", **settings_of("awr", seeds=(1, 2)))
    before, events = tree(tmp_path / "run"), list[Event]()
    with pytest.raises(NumericsError, match=r"Seed 1 has diverged: value/loss is nan at step 9"):
        fit("awr", REF, out=tmp_path / "run", resume=True, on_event=events.append)
    assert tree(tmp_path / "run") == before
    assert [type(e) for e in events if e.seed == 1] == [Started, Diverged]


def test_a_loss_that_is_not_finite_at_once_leaves_the_first_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved_dataset()
    poison(monkeypatch, after=0)
    with pytest.raises(NumericsError, match="value/loss is nan at step 0"):
        fit("awr", REF, out=tmp_path / "run", **settings_of("awr", seeds=(1,)))
    assert last_state(tmp_path / "run" / "seed_1")[0] == "step_00000000"


def memory(obs: Callable[[np.ndarray], np.ndarray] = lambda o: o, **changes: Any) -> Dataset:
    data = toy_dataset(discrete=False, **{"episodes": 12, **changes})
    episodes = list(data)
    rows = np.concatenate([episode.observations for episode in episodes])
    ends = np.concatenate([episode.terminations for episode in episodes])
    cuts = np.concatenate([episode.truncations for episode in episodes])
    return Dataset.from_arrays(
        obs(rows).astype(np.float32),
        np.concatenate([episode.actions for episode in episodes]),
        np.concatenate([episode.rewards for episode in episodes]),
        ends,
        cuts,
        action_space=data.spec.action_space,
    )


def notes_of(run: Callable[[Any], Any]) -> list[str]:
    events: list[Event] = []
    run(events.append)
    return [note for event in events if isinstance(event, Started) for note in event.notes]


@pytest.mark.parametrize("value", [0.0, 1.0, 1e6, 0.1])
def test_a_constant_feature_is_reported_and_trains(value: float, tmp_path: Path):
    def with_constant(rows: np.ndarray) -> np.ndarray:
        return np.concatenate([rows[:, :1], np.full_like(rows[:, :1], value)], axis=1)

    data = memory(with_constant)
    notes = notes_of(
        lambda tell: fit("awr", data, out=tmp_path / "run", on_event=tell, **settings_of("awr"))
    )
    assert "obs columns [1] never change: they are centred and not scaled." in notes
    state = getattr(newest(tmp_path / "run" / "seed_0"), "tensors", {})
    assert all(bool(tensor.isfinite().all()) for tensor in state.values())
    assert float(state["state/buffers/policy/normalize.obs_std"][1]) == 1.0


def test_a_feature_in_small_units_is_scaled_like_any_other(tmp_path: Path):
    run = fit("bc", memory(lambda rows: rows * 1e-9), out=tmp_path / "small", **settings_of("bc"))
    tensors = run.checkpoint(0).tensors
    assert float(tensors["state/buffers/policy/normalize.obs_std"].max()) < 1e-8


def test_an_action_without_bounds_that_never_changes_trains(tmp_path: Path):
    ends = np.arange(20) % 5 == 4
    data = Dataset.from_arrays(
        np.random.default_rng(0).normal(size=(24, 2)).astype(np.float32),
        np.full((20, 1), 1000.0, np.float32),
        np.ones(20),
        ends,
        np.zeros(20, bool),
    )
    run = fit("awr", data, out=tmp_path / "run", **settings_of("awr"))
    assert float(run.policy().predict(np.zeros(2, np.float32))[0]) == pytest.approx(
        1000.0, rel=1e-5
    )


@pytest.mark.parametrize("algo", ["bc", "awr"])
def test_one_short_episode_trains_with_a_note(algo: str, tmp_path: Path):
    data = toy_dataset(discrete=True, episodes=1)
    notes = notes_of(
        lambda tell: fit(algo, data, out=tmp_path / "run", on_event=tell, **settings_of(algo))
    )
    assert notes == [
        "5 transitions are fewer than a batch of 16: a batch holds each several times."
    ]


def test_held_out_episodes_enter_no_statistic_and_no_loss(tmp_path: Path):
    clean, spoiled = saved_dataset(), toy_dataset(discrete=False, episodes=12)
    held = resolve("awr", clean, holdout=0.25).run.held_out
    episodes = list(spoiled)
    for number in held:
        episodes[number].observations[:] = 500.0
        episodes[number].rewards[:] = -7.0
    other = Dataset.from_episodes(episodes, clean.spec.observation_space, clean.spec.action_space)
    given = settings_of("awr", holdout=0.25)
    one = fit("awr", clean, out=tmp_path / "one", **given)
    two = fit("awr", other, out=tmp_path / "two", **given)
    assert last_state(one.dir / "seed_0") == last_state(two.dir / "seed_0")
    held_rows = [(run.dir / "seed_0" / "metrics.csv").read_text() for run in (one, two)]
    assert "holdout/log_prob" in held_rows[0]
    assert held_rows[0] != held_rows[1]


def pendulum() -> Dataset:
    rng, n = np.random.default_rng(0), 40
    space = gym.spaces.Box(-2, 2, (1,), np.float32)
    data = Dataset.from_arrays(
        rng.normal(size=(n + 4, 3)).astype(np.float32),
        rng.uniform(-2, 2, (n, 1)).astype(np.float32),
        rng.normal(size=n),
        np.zeros(n, bool),
        np.arange(n) % 10 == 9,
        action_space=space,
        env="Pendulum-v1",
    )
    return data.save("toy/pendulum-v0")


def test_evaluations_while_training_are_logged_and_repeat_when_resumed(tmp_path: Path):
    pendulum()
    given = settings_of("bc", steps=20, eval_every=8, eval_episodes=1)
    events: list[Event] = []
    whole = fit("bc", "toy/pendulum-v0", out=tmp_path / "whole", on_event=events.append, **given)
    assert [e.step for e in events if isinstance(e, Evaluated)] == [8, 16, 20]
    assert "eval/return_mean" in (whole.dir / "seed_0" / "metrics.csv").read_text()
    with pytest.raises(RuntimeError):
        fit(
            "bc",
            "toy/pendulum-v0",
            out=tmp_path / "run",
            **given,
            on_event=raise_at(0, 16, RuntimeError, Evaluated),
        )
    fit("bc", "toy/pendulum-v0", out=tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == outcome(whole.dir)


def test_an_environment_that_fails_while_training_costs_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from offrl.errors import EnvError

    def broken(*_: Any, **__: Any) -> Any:
        raise EnvError("The simulator fell over.", "Restart it.")

    pendulum()
    monkeypatch.setattr(training, "evaluate", broken)
    with pytest.raises(EnvError, match="fell over"):
        fit(
            "bc",
            "toy/pendulum-v0",
            out=tmp_path / "run",
            **settings_of("bc", steps=20, eval_every=11, save_every=20),
        )
    assert last_state(tmp_path / "run" / "seed_0")[0] == "step_00000010"


def test_the_result_says_what_was_done(tmp_path: Path):
    data = saved_dataset()
    run = fit("bc", REF, out=tmp_path / "run", **settings_of("bc", seeds=(0, 1), holdout=0.25))
    result = run.result
    assert result["algo"] == "bc"
    assert result["dataset"] == REF
    assert result["fingerprint"] == data.fingerprint
    assert (result["steps"], result["seeds"], result["held_out_episodes"]) == (60, [0, 1], 3)
    assert result["steps_per_second"] > 0
    assert result["wall_seconds"] > 0
    assert result["format"] == 1
    assert not list(run.dir.rglob("*.tmp*"))


def test_training_leaves_the_callers_random_numbers_alone(tmp_path: Path):
    saved_dataset()
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    fit("bc", REF, out=tmp_path / "run", **settings_of("bc", steps=5))
    assert torch.equal(torch.randn(3), expected)


def test_step_zero_is_a_checkpoint(tmp_path: Path):
    saved_dataset()
    run = fit("bc", REF, out=tmp_path / "run", **settings_of("bc", steps=10))
    assert list(checkpoint.folders(run.dir / "seed_0")) == [0, 7, 10]


def test_a_run_in_bfloat16_is_evaluated_as_its_loaded_policy_acts():
    pendulum()
    seen: list[Evaluated] = []
    given = settings_of("bc", steps=20, eval_every=20, eval_episodes=2, precision="bf16")
    run = fit(
        "bc",
        "toy/pendulum-v0",
        on_event=lambda e: seen.append(e) if isinstance(e, Evaluated) else None,
        **{**given, "hidden_size": 64},
    )
    loaded = evaluate(run, "Pendulum-v1", episodes=2, seed=0)
    assert seen[-1].evaluation["return_mean"] == loaded.return_mean
