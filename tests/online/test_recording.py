"""Recording: the steps that were lived, their exact log-probabilities, and one fingerprint."""

import math
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import PendulumEnv
from training_runs import killed

import offrl
from offrl import checkpoint as checkpoints
from offrl.errors import ConfigError, CorruptDataError, OffrlError
from offrl.events import Finished, Started
from offrl.online import training
from offrl.online.exploring import exploring, in_double
from offrl.online.plan import resolve
from offrl.online.recording import Recording, recorded_id
from offrl.run import read_result

SMALL: dict[str, Any] = {"hidden_size": 8, "batch_size": 16}
ONLINE: dict[str, Any] = {
    "warmup": 40, "eval_every": 300, "eval_episodes": 1, "log_every": 50, "save_every": 70,
    "record": "me/acting-v0",
}  # fmt: skip
FROZEN = 1e-30  # a learning rate that moves no weight


def plan(out: str = "r", algo: str = "td3", env: str = "Pendulum-v1", n: int = 250, **given: Any):
    small = {**SMALL, **given.pop("hyper", {})}
    seeds, online = given.pop("seeds", None), {**ONLINE, **given}
    return resolve(
        algo, env, n, out=out, hyperparameters=small, online=online, compile="off", seeds=seeds
    )


def acted(out: str = "r", **given: Any) -> Any:
    list(training.train(plan(out, **given)))
    return offrl.load(given.get("record", "me/acting-v0"))


def scores(data: Any) -> np.ndarray:
    return np.concatenate([episode.infos["behavior_log_prob"][1:] for episode in data.episodes])


def test_every_step_is_recorded_and_minari_opens_it():
    data = acted(n=450, n_envs=2)
    assert (data.n_episodes, data.n_steps) == (4, 450)
    theirs = list(minari.load_dataset("me/acting-v0").iterate_episodes())
    assert [len(one.actions) for one in theirs] == [200, 200, 25, 25]
    assert all(one.truncations[-1] for one in theirs)
    assert not any(one.terminations.any() for one in theirs)
    summary = data.summary()
    assert summary["log_prob"] == "logged"
    assert data.env_id == "Pendulum-v1"
    warm, rest = scores(data)[:20], scores(data)[25:200]
    assert np.allclose(warm, -math.log(4))  # any torque from -2 to 2
    assert np.isfinite(rest).all()
    assert offrl.check("me/acting-v0").ok


def test_acting_again_from_what_was_recorded_gives_the_same_observations():
    """An episode holds its reset seed, and actions as they were executed."""
    data = acted()
    env = gymnasium.make("Pendulum-v1")
    for episode in data.episodes:
        obs, _ = env.reset(seed=episode.seed)
        assert np.array_equal(obs, episode.observations[0])
        for action, after in zip(episode.actions, episode.observations[1:], strict=True):
            obs, *_ = env.step(action)
            assert np.array_equal(obs, after)


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("algo", ["sac", "iql"])
def test_a_frozen_policy_is_what_its_own_log_says(algo: str, n_envs: int):
    data = acted(algo=algo, n_envs=n_envs, hyper={"lr": FROZEN})
    policy = offrl.load_policy("r")
    for episode in data.episodes:
        own = policy.log_prob(episode.observations[:-1], episode.actions)
        warm = 40 // n_envs if episode.id < n_envs else 0
        ratio = np.exp(own - episode.infos["behavior_log_prob"][1:])[warm:]
        assert np.abs(ratio - 1).max() < 1e-5


@pytest.mark.parametrize(("algo", "env"), [("td3", "Pendulum-v1"), ("dqn", "CartPole-v1")])
def test_exploration_is_scored_as_it_acted(algo: str, env: str):
    data = acted(algo=algo, env=env, hyper={"lr": FROZEN}, noise=0.3, epsilon=0.2)
    policy = offrl.load_policy("r")
    seen = 0
    for episode in data.episodes:
        with torch.no_grad():
            flat = torch.as_tensor(data.spec.flatten_obs(episode.observations[:-1]))
            acting = exploring(in_double(policy.network(flat)), 0.3, 0.2)
        own = acting.log_prob(torch.as_tensor(data.spec.flatten_actions(episode.actions))).numpy()
        logged = episode.infos["behavior_log_prob"][1:]
        warm = max(0, 40 - seen)
        seen += len(episode)
        assert np.all(np.abs(np.exp(own - logged)[warm:] - 1) < 1e-5)
        assert np.allclose(logged[:warm], -math.log(4 if env == "Pendulum-v1" else 2))


def test_an_action_that_has_no_density_has_no_number():
    logged = scores(acted(noise=0.0))
    assert np.isfinite(logged[:40]).all()
    assert np.isnan(logged[40:]).all()


def newest(out: str, seed: int = 0) -> dict[str, torch.Tensor]:
    found = checkpoints.newest(Path(out, f"seed_{seed}"))
    assert found is not None
    return found.tensors


def test_recording_changes_nothing_of_what_is_learned():
    acted("recorded")
    list(training.train(plan("plain", record="")))
    one, two = newest("recorded"), newest("plain")
    assert set(one) - set(two) == {"worlds/log_prob", "worlds/recorded"}
    assert all(torch.equal(one[k], two[k]) for k in two)


@pytest.mark.parametrize("n_envs", [1, 3])
def test_a_run_that_was_stopped_anywhere_records_the_same_data(n_envs: int):
    whole = acted("whole", n_envs=n_envs, record="me/whole-v0").fingerprint
    events = len(list(training.train(plan("count", n_envs=n_envs, record=""))))
    for stop in (events // 3, events - 2):
        out, id = f"stopped-{stop}", f"me/stopped-{stop}-v0"
        run = training.train(plan(out, n_envs=n_envs, record=id))
        for _ in range(stop):
            next(run)
        run.close()
        with pytest.raises(OffrlError, match=id):
            offrl.load(id)
        list(training.train(resolve(out=out, resume=True)))
        assert offrl.load(id).fingerprint == whole
        assert [e for e in training.train(resolve(out=out, resume=True)) if isinstance(e, Finished)]


def test_what_was_not_yet_published_when_a_run_ended_is_when_it_is_resumed():
    run = training.train(plan())
    while not isinstance(next(run), Finished):
        pass
    run.close()
    with pytest.raises(OffrlError, match="me/acting-v0"):
        offrl.load("me/acting-v0")
    list(training.train(resolve(out="r", resume=True)))
    assert offrl.load("me/acting-v0").fingerprint == acted("s", record="me/again-v0").fingerprint


def test_a_run_that_is_killed_records_the_same_data():
    whole = acted("whole", record="me/whole-v0").fingerprint
    given = {**ONLINE, "record": "me/killed-v0"}
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from offrl.online import training; from offrl.online.plan import resolve\n"
        f"list(training.train(resolve('td3', 'Pendulum-v1', 250, out='k', hyperparameters={SMALL},"
        f" online={given}, compile='off')))"
    )
    killed(code, "k", 3)
    list(training.train(resolve(out="k", resume=True)))
    assert offrl.load("me/killed-v0").fingerprint == whole


def test_what_was_recorded_is_learned_from():
    acted()
    run = offrl.fit("td3-bc", "me/acting-v0", steps=8, out="log", compile="off", **SMALL)
    assert math.isfinite(offrl.evaluate(run, episodes=1).return_mean)


def test_every_seed_has_a_dataset_of_its_own():
    list(training.train(plan(n=120, seeds=(0, 3))))
    for seed in (0, 3):
        assert offrl.load(f"me/acting-seed-{seed}-v0").n_steps == 120
    recorded = read_result(Path("r"))["recorded"]
    assert recorded == {"0": "me/acting-seed-0-v0", "3": "me/acting-seed-3-v0"}
    assert recorded_id("me/a-v1-v2", 4, (4,)) == "me/a-v1-v2"


def test_an_id_that_is_taken_or_is_none_is_refused_before_anything_is_written():
    acted(n=120)
    with pytest.raises(ConfigError, match="me/acting-v0 exists already"):
        plan("other")
    with pytest.raises(ConfigError, match="cannot be the id"):
        plan("other", record="acting")
    assert not Path("other").exists()


class Careless(PendulumEnv):
    """Its resets are not reproducible, and its episodes have 20 steps."""

    def reset(self, **given: Any) -> Any:
        return super().reset()


@pytest.fixture
def careless():
    gymnasium.register("Careless-v0", lambda **given: Careless(**given), max_episode_steps=20)
    yield "Careless-v0"
    del gymnasium.registry["Careless-v0"]


def test_a_run_that_cannot_be_repeated_goes_on_and_says_so(careless: str):
    run = training.train(plan(env=careless, n=200))
    for event in run:
        if getattr(event, "step", 0) >= 60:
            break
    run.close()
    told = list(training.train(resolve(out="r", resume=True)))
    started = next(event for event in told if isinstance(event, Started))
    assert started.step > 0
    assert any("the resumed run is not exact" in note for note in started.notes)
    assert isinstance(told[-1], Finished)
    data = offrl.load("me/acting-v0")
    assert data.n_steps >= 180  # but for the episode under way when the run was stopped
    first = [tuple(episode.observations[0]) for episode in data.episodes]
    assert len(set(first)) == len(first)


def test_a_recording_whose_folder_is_gone_is_told():
    env = gymnasium.make("Pendulum-v1")
    recording = Recording("me/lost-v0", env, {}, resume=True)
    kept = {"recorded": torch.tensor(3), "log_prob": torch.zeros(0, dtype=torch.float64)}
    with pytest.raises(CorruptDataError, match="holds 0 of the 3 episodes"):
        recording.restore(kept)
    recording.abandon()


class Typed(PendulumEnv):
    """Pendulum whose actions are of another type."""

    def __init__(self, dtype: Any) -> None:
        super().__init__()
        self.action_space = gymnasium.spaces.Box(-2, 2, (1,), dtype)

    def step(self, u: Any) -> Any:
        return super().step(np.asarray(u, np.float32))


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float64])
def test_log_probabilities_are_those_of_actions_as_they_are_executed(dtype: Any):
    gymnasium.register("Typed-v0", lambda **given: Typed(dtype), max_episode_steps=50)
    try:
        data = acted(env="Typed-v0", n=150, warmup=40, hyper={"lr": FROZEN})
    finally:
        del gymnasium.registry["Typed-v0"]
    assert {episode.actions.dtype for episode in data.episodes} == {np.dtype(dtype)}
    found = scores(data)
    if dtype == np.int8:  # a rounded action has no density
        assert np.isnan(found).all()
        return
    assert found[:40] == pytest.approx(-math.log(4))
    policy = offrl.load_run("r").policy()
    for episode in data.episodes[1:]:
        mean = policy.predict(episode.observations[:-1]).astype(np.float64)[:, 0]
        x = episode.actions.astype(np.float64)[:, 0]
        std = 0.1 * 2
        inside = -0.5 * ((x - mean) / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))
        free = np.abs(x) < 2
        assert free.sum() > 20
        own = episode.infos["behavior_log_prob"][1:]
        tolerance = 0.05 if dtype == np.float16 else 1e-4  # of the mean that `predict` rounds
        assert own[free] == pytest.approx(inside[free], abs=tolerance)
