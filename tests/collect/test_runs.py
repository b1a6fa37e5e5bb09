"""Policies that offrl trained act in numpy as they do in torch, and score their own logs alike."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import offrl
from offrl.collect.agents import Sampling, agent_behavior, load_agent
from offrl.collect.recorder import record
from offrl.collect.runs import agent_of
from offrl.data.recipe import BehaviorSpec
from offrl.data.spec import Spec
from offrl.distributions import Gaussian
from offrl.errors import ConfigError, NotFoundError
from offrl.nn import policy_head
from offrl.policy import Policy

OBS = spaces.Dict({"a": spaces.Box(-5.0, 5.0, (3,), np.float32), "b": spaces.Discrete(2)})
BOX = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))
CHOICE = spaces.Discrete(4, start=3)


def policy(head: str, box: spaces.Box = BOX) -> Policy:
    """A policy with statistics and weights that are not those it begins with."""
    space = CHOICE if head in ("categorical", "greedy") else box
    spec = Spec(OBS, space)
    torch.manual_seed(0)
    network = policy_head(head, spec.obs_dim, spec.action_dim, 16, 2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        buffers = dict(network.named_buffers())
        buffers["normalize.obs_mean"].copy_(torch.randn(5))
        buffers["normalize.obs_std"].copy_(torch.rand(5) + 0.5)
        if "return_mean" in buffers:
            buffers["return_mean"].fill_(-800.0)
            buffers["return_std"].fill_(100.0)
        if "action_low" in buffers:
            buffers["action_low"].copy_(torch.tensor(box.low))
            buffers["action_high"].copy_(torch.tensor(box.high))
    return Policy(spec, network)


def observations(n: int = 100) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [{"a": rng.normal(size=3).astype(np.float32), "b": int(i % 2)} for i in range(n)]


class OfMyOwn(nn.Module):
    """A network that offrl knows nothing of."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(5, 2)

    def forward(self, obs: torch.Tensor) -> Gaussian:
        low, high = torch.tensor(BOX.low), torch.tensor(BOX.high)
        return Gaussian(self.net(obs), torch.full((2,), 0.5), low, high)


HEADS = ["gaussian", "squashed", "categorical", "greedy", "deterministic", "mine"]


@pytest.mark.parametrize("head", HEADS)
class TestATrainedPolicy:
    def made(self, head: str) -> Policy:
        torch.manual_seed(0)
        return Policy(Spec(OBS, BOX), OfMyOwn()) if head == "mine" else policy(head)

    def test_acts_by_its_mode_as_it_predicts(self, head: str) -> None:
        trained = self.made(head)
        agent = agent_of(trained)
        for obs in observations():
            found = agent.mode(obs)
            np.testing.assert_allclose(found, trained.predict(obs), atol=1e-6)
            assert trained.spec.action_space.contains(found)

    def test_is_scored_on_its_own_log_with_ratios_of_one(self, head: str) -> None:
        trained = self.made(head)
        agent = agent_of(trained)
        assert agent.stochastic == (head not in ("deterministic", "greedy"))
        if not agent.stochastic:
            return
        behavior, rng = Sampling(agent, trained.spec.action_space), np.random.default_rng(0)
        # float32 networks differ in their last bits, and a narrow squashed policy magnifies them
        within = 1e-4 if head == "squashed" else 1e-5
        for obs in observations():
            action, log_prob = behavior.act(obs, rng)
            ratio = math.exp(trained.log_prob(obs, np.asarray(action)) - log_prob)
            assert ratio == pytest.approx(1.0, abs=within)


def test_a_squashed_policy_of_unbounded_actions_stays_within_those_of_its_data() -> None:
    free = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    network = policy("squashed").network
    trained = Policy(Spec(OBS, free), network)
    agent, rng = agent_of(trained), np.random.default_rng(0)
    for obs in observations(20):
        np.testing.assert_allclose(agent.mode(obs), trained.predict(obs), atol=1e-6)
        assert BOX.contains(agent.at(obs).sample(rng))


class TestARun:
    @pytest.fixture
    def run(self, tmp_path: Path) -> str:
        data = record("offrl/pendulum/medium-v0", episodes=2, out="me/pendulum-v0")
        offrl.fit("bc", data, steps=20, seeds=(0, 1), out=tmp_path / "run", hidden_size=8)
        return str(tmp_path / "run")

    def test_acts_in_an_environment_by_its_mode_or_by_chance(self, run: str) -> None:
        options: dict[str, Any] = {"env": "Pendulum-v1", "episodes": 2}
        mode = record(**options, policies=f"run:{run}", out="me/mode-v0")
        assert mode.log_prob == "none"
        chance = record(**options, policies=f"run:{run},stochastic", out="me/chance-v0")
        assert chance.log_prob == "logged"
        trained = offrl.load_policy(run)
        for episode in chance:
            logged = episode.behavior_log_prob
            scored = trained.log_prob(episode.observations[:-1], episode.actions)
            np.testing.assert_allclose(np.exp(scored - logged), 1.0, atol=1e-5)
        source = chance.metadata["offrl"]["sources"][f"run:{run}"]
        assert (source["seed"], source["step"]) == (0, 20)
        again = record(**options, policies=f"run:{run},stochastic", out="me/b-v0", workers=2)
        assert again.fingerprint == chance.fingerprint
        other = record(**options, policies=f"run:{run}/seed_1,stochastic", out="me/c-v0")
        assert other.fingerprint != chance.fingerprint

    def test_of_another_environment_is_told(self, run: str) -> None:
        with pytest.raises(ConfigError, match=r"observations of run:.* are not the environment's"):
            record(env="CartPole-v1", policies=f"run:{run}", episodes=1, out="me/a-v0")
        with pytest.raises(NotFoundError, match="There is no run"):
            load_agent("run:nowhere", OBS, BOX)

    @pytest.mark.parametrize(
        ("algo", "recipe", "env", "option"),
        [
            ("td3-bc", "offrl/pendulum/medium-v0", "Pendulum-v1", "noise=0.1"),
            ("dqn", "offrl/cartpole/medium-v0", "CartPole-v1", "epsilon=0.1"),
        ],
    )
    def test_without_a_distribution_of_its_own_is_logged_with_noise(
        self, algo: str, recipe: str, env: str, option: str, tmp_path: Path
    ) -> None:
        data = record(recipe, episodes=2, out="me/log-v0")
        offrl.fit(algo, data, steps=4, out=tmp_path / "run", hidden_size=8)
        name = f"run:{tmp_path / 'run'}"
        found = record(env=env, episodes=1, policies=f"{name},{option}", out="me/a-v0")
        assert found.log_prob == "logged"
        with pytest.raises(ConfigError, match="no distribution of its own"):
            record(env=env, episodes=1, policies=f"{name},stochastic", out="me/b-v0")
        trained = offrl.load_policy(str(tmp_path / "run"))
        for episode in record(env=env, episodes=1, policies=name, out="me/c-v0"):
            predicted = trained.predict(episode.observations[:-1])
            np.testing.assert_allclose(episode.actions, predicted, atol=1e-5)


WHOLE = spaces.Box(-3, 4, (2,), np.int8)


@pytest.mark.parametrize("head", ["gaussian", "squashed", "deterministic"])
def test_whole_numbers_are_rounded_as_everywhere_else(head: str) -> None:
    trained = policy(head, WHOLE)
    agent, seen = agent_of(trained), observations()
    ours = np.array([agent.mode(obs) for obs in seen])
    theirs = np.array([trained.predict(obs) for obs in seen])
    assert ours.dtype == np.int8
    assert len(np.unique(ours)) > 3
    np.testing.assert_array_equal(ours, theirs)


def test_a_density_of_whole_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rounded to int8") as caught:
        agent_behavior(
            BehaviorSpec.parse(f"run:{trained_on_whole_numbers(tmp_path)},stochastic"),
            spaces.Box(-1, 1, (2,), np.float32),
            WHOLE,
        )
    assert "epsilon" in caught.value.remedy


def trained_on_whole_numbers(folder: Path) -> Path:
    rng, n = np.random.default_rng(0), 40
    data = offrl.Dataset.from_arrays(
        obs=rng.uniform(-1, 1, (n, 2)).astype(np.float32), reward=rng.normal(size=n),
        next_obs=rng.uniform(-1, 1, (n, 2)).astype(np.float32), terminated=np.ones(n, bool),
        action=rng.integers(-3, 5, (n, 2)).astype(np.int8), truncated=np.zeros(n, bool),
        observation_space=spaces.Box(-1, 1, (2,), np.float32), action_space=WHOLE,
    )  # fmt: skip
    return offrl.fit("bc", data, out=folder / "whole", steps=3, compile="off", hidden_size=8).dir
