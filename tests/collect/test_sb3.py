"""Agents of Stable-Baselines3 act and are scored as their weights say, and run nothing."""

import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from agent_zips import BOX, CHOICE, OBS, OBS_DIM, save_agent, trunk, weights_of, write_zip
from gymnasium import spaces
from scipy import special, stats

from offrl.collect.agents import Agent, Sampling, load_agent
from offrl.collect.behaviors import build
from offrl.collect.networks import ACTIVATIONS, Network, layer
from offrl.collect.recorder import record, run_episodes
from offrl.data.catalogue import datasets_root
from offrl.data.dataset import load
from offrl.data.recipe import BehaviorSpec
from offrl.errors import ConfigError, CorruptDataError, NotFoundError, OffrlError, UnsafeDataError

LOW, HIGH = BOX.low.astype(float), BOX.high.astype(float)
WIDTH = HIGH - LOW


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.zip"


def observations(n: int = 20) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(n, OBS_DIM))


def agent(path: Path, space: spaces.Space[Any], observation: spaces.Space[Any] = OBS) -> Agent:
    return load_agent(f"sb3:{path}", observation, space)


def through(weights: dict[str, Any], prefix: str, x: np.ndarray, squash: Any) -> np.ndarray:
    """Two hidden layers in float64."""
    for i in (0, 2):
        x = squash(x @ weights[f"{prefix}.{i}.weight"].T + weights[f"{prefix}.{i}.bias"])
    return x


def head(weights: dict[str, Any], name: str, x: np.ndarray) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.0)


def stretched(u: np.ndarray) -> np.ndarray:
    return LOW + 0.5 * (np.tanh(u) + 1.0) * WIDTH


class TestTheActionOfTheMode:
    """Against the published definition of each kind, in float64 with matrix products."""

    def check(self, path: Path, space: spaces.Space[Any], expected: np.ndarray) -> None:
        found = np.array([agent(path, space).mode(o) for o in observations()])
        np.testing.assert_allclose(found, expected, atol=2e-6)

    @pytest.mark.parametrize("kind", ["ppo", "ppo-sde"])
    def test_of_ppo_is_the_clipped_mean(self, path: Path, kind: str) -> None:
        w = save_agent(path, kind, BOX)
        h = through(w, "mlp_extractor.policy_net", observations(), np.tanh)
        self.check(path, BOX, np.clip(head(w, "action_net", h), LOW, HIGH))

    def test_of_ppo_with_choices_is_the_likeliest(self, path: Path) -> None:
        w = save_agent(path, "ppo", CHOICE)
        h = through(w, "mlp_extractor.policy_net", observations(), np.tanh)
        self.check(path, CHOICE, 1 + head(w, "action_net", h).argmax(-1))

    def test_of_ppo_uses_the_activation_and_shared_layers_that_it_was_saved_with(
        self, path: Path
    ) -> None:
        rng = np.random.default_rng(0)
        w = weights_of("ppo", 2, rng)
        w = {k.replace("policy_net.0", "shared_net.0"): v for k, v in w.items()}
        relu_class = "<class 'torch.nn.modules.activation.ReLU'>"
        save_agent(path, "ppo", BOX, weights=w, policy_kwargs={"activation_fn": relu_class})
        first = relu(head(w, "mlp_extractor.shared_net.0", observations()))
        h = relu(head(w, "mlp_extractor.policy_net.2", first))
        self.check(path, BOX, np.clip(head(w, "action_net", h), LOW, HIGH))

    def test_of_sac_is_the_tanh_of_the_mean(self, path: Path) -> None:
        w = save_agent(path, "sac", BOX)
        h = through(w, "actor.latent_pi", observations(), relu)
        self.check(path, BOX, stretched(head(w, "actor.mu", h)))

    def test_of_sac_with_state_dependent_noise_is_limited_first(self, path: Path) -> None:
        w = save_agent(path, "sac-sde", BOX)
        h = through(w, "actor.latent_pi", observations(), relu)
        self.check(path, BOX, stretched(np.clip(head(w, "actor.mu.0", h), -2.0, 2.0)))

    def test_of_td3_is_a_tanh(self, path: Path) -> None:
        w = save_agent(path, "td3", BOX)
        h = through(w, "actor.mu", observations(), relu)
        self.check(path, BOX, stretched(head(w, "actor.mu.4", h)))

    def test_of_dqn_has_the_greatest_value(self, path: Path) -> None:
        w = save_agent(path, "dqn", CHOICE)
        h = through(w, "q_net.q_net", observations(), relu)
        self.check(path, CHOICE, 1 + head(w, "q_net.q_net.4", h).argmax(-1))

    def test_of_qrdqn_has_the_greatest_mean_of_quantiles(self, path: Path) -> None:
        w = save_agent(path, "qrdqn", CHOICE)
        h = through(w, "quantile_net.quantile_net", observations(), relu)
        values = head(w, "quantile_net.quantile_net.4", h).reshape(-1, 5, 3).mean(1)
        self.check(path, CHOICE, 1 + values.argmax(-1))

    def test_of_ars_is_squashed_unless_it_is_linear(self, path: Path) -> None:
        w = save_agent(path, "ars", BOX)
        last = head(w, "action_net.4", through(w, "action_net", observations(), relu))
        self.check(path, BOX, stretched(last))
        linear = {"action_net.0.weight": np.random.default_rng(0).normal(size=(2, OBS_DIM))}
        described = {"__module__": "sb3_contrib.ars.policies",
                     "__init__": "<function ARSLinearPolicy.__init__ at 0x7f>"}  # fmt: skip
        save_agent(path, "ars", BOX, weights=linear, policy_class=described)
        plain = observations() @ linear["action_net.0.weight"].T
        self.check(path, BOX, np.clip(plain, LOW, HIGH))


class TestTheLogProbability:
    """Of executed actions, against scipy's normal and the change of variables."""

    def sampled(self, path: Path, space: spaces.Space[Any]) -> list[tuple[Any, Any, float]]:
        behavior = Sampling(agent(path, space), space)
        rng = np.random.default_rng(0)
        return [(o, *behavior.act(o, rng)) for o in observations(200)]

    def gaussian(self, path: Path, kind: str) -> tuple[np.ndarray, np.ndarray]:
        w = save_agent(path, kind, BOX)
        if kind.startswith("sac"):
            h = through(w, "actor.latent_pi", observations(200), relu)
            sde = kind == "sac-sde"
            mean = head(w, "actor.mu.0" if sde else "actor.mu", h)
            if not sde:
                return mean, np.exp(np.clip(head(w, "actor.log_std", h), -20, 2))
            mean, log_std = np.clip(mean, -2, 2), w["actor.log_std"]
        else:
            h = through(w, "mlp_extractor.policy_net", observations(200), np.tanh)
            mean, log_std = head(w, "action_net", h), w["log_std"]
            if kind == "ppo":
                return mean, np.broadcast_to(np.exp(log_std), mean.shape)
        return mean, np.sqrt(h**2 @ np.exp(log_std) ** 2 + 1e-6)

    @pytest.mark.parametrize("kind", ["ppo", "ppo-sde"])
    def test_is_censored_where_the_agent_clips(self, path: Path, kind: str) -> None:
        mean, std = self.gaussian(path, kind)
        clipped = 0
        for i, (_, action, log_prob) in enumerate(self.sampled(path, BOX)):
            expected = stats.norm.logpdf(action, mean[i], std[i])
            expected = np.where(action <= LOW, stats.norm.logcdf(LOW, mean[i], std[i]), expected)
            expected = np.where(action >= HIGH, stats.norm.logsf(HIGH, mean[i], std[i]), expected)
            clipped += int(((action <= LOW) | (action >= HIGH)).any())
            assert log_prob == pytest.approx(expected.sum(), abs=1e-4)
        assert clipped > 20

    @pytest.mark.parametrize("kind", ["sac", "sac-sde"])
    def test_counts_the_stretch_where_the_agent_squashes(self, path: Path, kind: str) -> None:
        mean, std = self.gaussian(path, kind)
        for i, (_, action, log_prob) in enumerate(self.sampled(path, BOX)):
            x = action.astype(float)
            if ((x - LOW < 1e-3) | (HIGH - x < 1e-3)).any():
                continue  # float64 by hand loses what the agent keeps there
            u = np.arctanh(2 * (x - LOW) / WIDTH - 1)
            slope = WIDTH / 2 * (1 - np.tanh(u) ** 2)
            expected = stats.norm.logpdf(u, mean[i], std[i]) - np.log(slope)
            assert log_prob == pytest.approx(expected.sum(), abs=1e-3)

    def test_of_a_choice_is_that_of_the_softmax(self, path: Path) -> None:
        w = save_agent(path, "ppo", CHOICE)
        h = through(w, "mlp_extractor.policy_net", observations(200), np.tanh)
        expected = special.log_softmax(head(w, "action_net", h), -1)
        for i, (_, action, log_prob) in enumerate(self.sampled(path, CHOICE)):
            assert log_prob == pytest.approx(expected[i, action - 1], abs=1e-5)

    @pytest.mark.parametrize("kind", ["ppo", "ppo-sde", "sac", "sac-sde"])
    def test_of_its_own_log_gives_ratios_of_one(self, path: Path, kind: str) -> None:
        save_agent(path, kind, BOX)
        scorer = agent(path, BOX)
        for obs, action, log_prob in self.sampled(path, BOX):
            assert math.exp(scorer.log_prob(obs, action) - log_prob) == pytest.approx(1, abs=1e-5)

    def test_of_a_mixture_is_the_mixtures(self, path: Path) -> None:
        save_agent(path, "ppo", BOX)
        scorer, mixture = agent(path, BOX), Sampling(agent(path, BOX), BOX, epsilon=0.25)
        rng = np.random.default_rng(0)
        uniform = -float(np.log(WIDTH).sum())
        seen = set[bool]()
        for obs in observations(100):
            action, log_prob = mixture.act(obs, rng)
            at_bound = bool(((action <= BOX.low) | (action >= BOX.high)).any())
            seen.add(at_bound)
            own = math.log(0.75) + scorer.log_prob(obs, action)
            both = np.logaddexp(own, math.log(0.25) + uniform)
            assert log_prob == pytest.approx(own if at_bound else both, abs=1e-9)
            assert log_prob == mixture.log_prob(obs, action)
        assert seen == {True, False}

    def test_of_a_mode_with_noise_is_that_of_the_truncated_normal(self, path: Path) -> None:
        save_agent(path, "td3", BOX)
        behavior = build(BehaviorSpec.parse(f"sb3:{path},noise=0.3"), OBS, BOX)
        mode = agent(path, BOX).mode(observations(1)[0]).astype(float)
        a, b = (LOW - mode) / 0.3, (HIGH - mode) / 0.3
        action, log_prob = behavior.act(observations(1)[0], np.random.default_rng(0))
        expected = stats.truncnorm.logpdf(action, a, b, mode, 0.3).sum()
        assert log_prob == pytest.approx(float(expected), abs=1e-5)


class TestStateDependentNoise:
    def test_is_said_to_be_drawn_anew_where_it_is_drawn(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        save_agent(path, "ppo-sde", BOX)
        build(BehaviorSpec.parse(f"sb3:{path}"), OBS, BOX)
        assert not caplog.text
        build(BehaviorSpec.parse(f"sb3:{path},stochastic"), OBS, BOX)
        assert "drawn anew at every step" in caplog.text


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_torch(name: str) -> None:
    x = np.linspace(-4, 4, 41, dtype=np.float32)
    expected = getattr(torch.nn, name)()(torch.from_numpy(x)).numpy()
    found = Network((layer(np.eye(41), None, name),))(x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


class TestWhatDoesNotFit:
    @pytest.mark.parametrize(
        ("kind", "saved", "world", "observation", "fragment"),
        [
            ("ppo", BOX, CHOICE, OBS, "gives 2 numbers"),
            ("td3", BOX, CHOICE, OBS, "continuous actions"),
            ("dqn", CHOICE, BOX, OBS, "chooses among actions"),
            ("ppo", BOX, BOX, spaces.Box(-1, 1, (4,)), "takes 3 observation numbers .* gives 4"),
            ("dqn", CHOICE, spaces.Discrete(4), OBS, "gives 3 numbers"),
            ("sac", BOX, spaces.Box(-np.inf, np.inf, (2,)), OBS, "no bounds"),
        ],
    )
    def test_is_told(
        self, path: Path, kind: str, saved: Any, world: Any, observation: Any, fragment: str
    ) -> None:
        save_agent(path, kind, saved)
        with pytest.raises(ConfigError, match=fragment):
            agent(path, world, observation)

    def test_images_are_told(self, path: Path) -> None:
        save_agent(path, "ppo", BOX)
        with pytest.raises(ConfigError, match="looks at images"):
            agent(path, BOX, spaces.Box(0, 255, (4, 4, 3), np.uint8))

    def test_other_bounds_are_told(self, path: Path) -> None:
        save_agent(path, "td3", BOX, action_space={"low": "[-2.  0.]", "high": "[2. 3.]"})
        with pytest.raises(ConfigError, match="other bounds: 'high'"):
            agent(path, BOX)

    @pytest.mark.parametrize(
        ("data", "fragment"),
        [
            ({"policy_class": {"__module__": "mine.policies"}}, "mine.policies, which is code"),
            ({"policy_class": None}, "unknown origin"),
            ({"policy_kwargs": {"activation_fn": "<class 'mine.Swish'>"}}, "mine.Swish"),
            (
                {"policy_kwargs": {"features_extractor_class": "<class 'mine.Wide'>"}},
                "extracts features by",
            ),
        ],
    )
    def test_code_of_somebodys_own_is_not_run(
        self, path: Path, data: dict[str, Any], fragment: str
    ) -> None:
        save_agent(path, "ppo", BOX, **data)
        with pytest.raises(ConfigError, match=fragment) as caught:
            agent(path, BOX)
        assert "FILE.py:FUNCTION" in caught.value.remedy

    @pytest.mark.parametrize("extra", ["features_extractor.cnn.0.weight", "lstm_actor.weight"])
    def test_networks_of_another_form_are_named(self, path: Path, extra: str) -> None:
        weights = weights_of("ppo", 2, np.random.default_rng(0)) | {extra: np.zeros((2, 2))}
        save_agent(path, "ppo", BOX, weights=weights)
        with pytest.raises(ConfigError, match=extra):
            agent(path, BOX)

    @pytest.mark.parametrize(
        ("words", "fragment"),
        [(",stochastic", "deterministic and has no distribution"), (",noise=0.1", "discrete")],
    )
    def test_options_are_told(self, path: Path, words: str, fragment: str) -> None:
        save_agent(path, "dqn", CHOICE)
        with pytest.raises(ConfigError, match=fragment):
            build(BehaviorSpec.parse(f"sb3:{path}{words}"), OBS, CHOICE)

    def test_noise_on_top_of_chance_is_refused(self, path: Path) -> None:
        save_agent(path, "ppo", BOX)
        with pytest.raises(ConfigError, match="stochastic or noise, not both"):
            build(BehaviorSpec.parse(f"sb3:{path},stochastic,noise=1"), OBS, BOX)


class TestAFileThatIsOff:
    def test_is_named_when_it_is_missing(self, path: Path) -> None:
        save_agent(path, "ppo", BOX)
        with pytest.raises(NotFoundError, match=r"Did you mean .*agent\.zip"):
            agent(path.with_name("agnt.zip"), BOX)
        assert agent(path.with_suffix(""), BOX).stochastic

    @pytest.mark.parametrize("share", [0.999, 0.9, 0.5, 0.1, 0.0])
    def test_is_told_when_it_is_cut_off(self, path: Path, share: float) -> None:
        save_agent(path, "ppo", BOX)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(CorruptDataError, match=r"agent\.zip"):
            agent(path, BOX)

    def test_is_told_wherever_a_bit_flips_or_acts_the_same(self, path: Path) -> None:
        save_agent(path, "ppo", BOX)
        content, rng = path.read_bytes(), np.random.default_rng(0)
        before = agent(path, BOX).mode(observations(1)[0])
        for at in rng.integers(len(content), size=60):
            changed = bytearray(content)
            changed[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(changed)
            try:
                after = agent(path, BOX).mode(observations(1)[0])
            except OffrlError:
                continue
            np.testing.assert_array_equal(after, before)

    def test_with_weights_that_are_not_finite_is_told(self, path: Path) -> None:
        weights = weights_of("ppo", 2, np.random.default_rng(0))
        weights["action_net.bias"][1] = np.nan
        save_agent(path, "ppo", BOX, weights=weights)
        with pytest.raises(CorruptDataError, match=r"action_net\.bias' are not all finite"):
            agent(path, BOX)

    @pytest.mark.parametrize("data", [b"[]", b"{", b"\xff", b"[" * 100_000])
    def test_with_a_page_that_is_no_object_is_told(self, path: Path, data: bytes) -> None:
        write_zip(path, {"data": data, "policy.pth": b""})
        with pytest.raises(CorruptDataError, match=r"agent\.zip"):
            agent(path, BOX)

    def test_with_layers_that_do_not_follow_each_other_is_told(self, path: Path) -> None:
        weights = weights_of("ppo", 2, np.random.default_rng(0))
        weights["mlp_extractor.policy_net.2.weight"] = np.zeros((8, 5))
        save_agent(path, "ppo", BOX, weights=weights)
        with pytest.raises(CorruptDataError, match="takes 5 of 8"):
            agent(path, BOX)

    def test_that_expands_beyond_its_budget_is_refused(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from offrl.collect import zips

        save_agent(path, "ppo", BOX)
        monkeypatch.setitem(zips._BUDGET, "data", 50)
        with pytest.raises(UnsafeDataError, match="50 is the limit"):
            agent(path, BOX)

    def test_with_many_members_or_one_twice_is_refused(self, path: Path) -> None:
        write_zip(path, {f"m{i}": b"" for i in range(100)})
        with pytest.raises(UnsafeDataError, match="100 members"):
            agent(path, BOX)


class TestRecording:
    def test_keeps_what_identifies_the_agent_and_goes_on_by_the_id_alone(self, path: Path) -> None:
        space = spaces.Box(-2.0, 2.0, (1,), np.float32)
        save_agent(path, "ppo", space)
        options: dict[str, Any] = {
            "env": "Pendulum-v1", "policies": f"sb3:{path},stochastic", "episodes": 4
        }  # fmt: skip

        def stop(done: int, total: int) -> None:
            if done == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            record(**options, out="me/agent-v0", progress=stop)
        before = path.read_bytes()
        weights = weights_of("ppo", 1, np.random.default_rng(99))
        save_agent(path, "ppo", space, weights=weights)
        with pytest.raises(ConfigError, match="other settings"):
            record(out="me/agent-v0", resume=True)
        path.write_bytes(before)
        data = record(out="me/agent-v0", resume=True, workers=2)
        whole = record(**options, out="me/whole-v0")
        assert (data.fingerprint, data.log_prob) == (whole.fingerprint, "logged")
        assert len(data.metadata["offrl"]["sources"][f"sb3:{path}"]["sha256"]) == 64
        assert load("me/agent-v0").n_episodes == 4

    def test_of_an_agent_that_does_not_fit_writes_nothing(self, path: Path) -> None:
        save_agent(path, "dqn", CHOICE)
        with pytest.raises(ConfigError):
            record(env="Pendulum-v1", policies=f"sb3:{path}", episodes=1, out="me/a-v0")
        assert not datasets_root().exists()


REAL = {
    # agent: environment, its return here over many episodes, from the README beside the agents
    "ppo/Pendulum-v1": ("Pendulum-v1", -210.0),
    "ppo/CartPole-v1": ("CartPole-v1", 500.0),
}


class TestPublishedAgents:
    def test_act_as_an_independent_reading_of_their_weights(self, realdata: Path) -> None:
        folder = realdata / "rl-trained-agents"
        zips = sorted(folder.glob("zips/*/*.zip"))
        assert len(zips) >= 11
        for path in zips:
            with np.load(folder / "actors_npz" / f"{path.parent.name}-{path.stem}.npz") as z:
                reference = dict(z)
            discrete = "n_actions" in reference
            space = (
                spaces.Discrete(int(reference["n_actions"]))
                if discrete
                else spaces.Box(reference["low"], reference["high"], dtype=np.float32)
            )
            n = reference["w0"].shape[1]
            found = agent(path, space, spaces.Box(-np.inf, np.inf, (n,), np.float64))
            obs = np.random.default_rng(0).normal(size=(50, n))
            ours = np.array([found.mode(o) for o in obs])
            np.testing.assert_allclose(
                ours, _reference(reference, obs), atol=5e-5, err_msg=path.name
            )

    @pytest.mark.parametrize("name", REAL)
    def test_reach_the_returns_they_are_published_with(self, realdata: Path, name: str) -> None:
        env, expected = REAL[name]
        path = realdata / "rl-trained-agents" / "zips" / f"{name}.zip"
        returns = [
            e.episode_return for e in run_episodes(env=env, policies=f"sb3:{path}", episodes=15)
        ]
        error = np.std(returns, ddof=1) / math.sqrt(15)
        assert abs(np.mean(returns) - expected) <= 3.0 * math.hypot(error, error * 1.3) + 1e-9

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "env", "expected"),
        [("trpo/Hopper-v3", "Hopper-v5", 3468.0), ("sac/HalfCheetah-v3", "HalfCheetah-v5", 9442.0)],
    )
    def test_reach_them_in_mujoco(
        self, realdata: Path, name: str, env: str, expected: float
    ) -> None:
        pytest.importorskip("mujoco")
        path = realdata / "rl-trained-agents" / "zips" / f"{name}.zip"
        returns = [
            e.episode_return for e in run_episodes(env=env, policies=f"sb3:{path}", episodes=20)
        ]
        error = np.std(returns, ddof=1) / math.sqrt(20)
        # The published mean is over ten episodes: its own error is larger by sqrt(2).
        assert abs(np.mean(returns) - expected) <= 3.0 * math.hypot(error, error * math.sqrt(2))


def _reference(z: dict[str, np.ndarray], obs: np.ndarray) -> np.ndarray:
    x = obs
    if "obs_mean" in z:
        x = (x - z["obs_mean"]) / np.sqrt(z["obs_var"] + z["obs_eps"])
        x = np.clip(x, -z["obs_clip"], z["obs_clip"])
    for step in str(z["layers"]).split(","):
        if step.startswith("linear"):
            i = step.removeprefix("linear")
            x = x @ z[f"w{i}"].T.astype(float) + z[f"b{i}"]
        elif step == "hardtanh":
            x = np.clip(x, -z["hardtanh"], z["hardtanh"])
        else:
            x = np.tanh(x) if step == "tanh" else np.maximum(x, 0)
    output = str(z["output"])
    if output == "clip":
        return np.clip(x, z["low"], z["high"])
    if output == "unscale":
        return z["low"] + 0.5 * (x + 1) * (z["high"] - z["low"])
    return x.argmax(-1)


def test_an_environment_with_flat_parts_is_seen_as_its_parts(path: Path) -> None:
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(2)})
    weights = trunk("q_net.q_net", np.random.default_rng(0)) | {
        "q_net.q_net.4.weight": np.eye(3, 8), "q_net.q_net.4.bias": np.zeros(3)
    }  # fmt: skip
    weights["q_net.q_net.0.weight"] = np.random.default_rng(1).normal(size=(8, 4))
    save_agent(path, "dqn", CHOICE, weights=weights)
    found = agent(path, CHOICE, space)
    assert found.mode({"a": np.zeros(2, np.float32), "b": 1}) in (1, 2, 3)


def test_a_seeded_environment_sees_the_same_agent_again(path: Path) -> None:
    env = gymnasium.make("Pendulum-v1")
    save_agent(path, "sac", env.action_space)
    found = agent(path, env.action_space, env.observation_space)
    obs, _ = env.reset(seed=0)
    np.testing.assert_array_equal(found.mode(obs), found.mode(obs))
    env.close()
