"""`--trust` has Stable-Baselines3 load what offrl cannot read; without it nothing is executed.

The library is stood for by `tests/sb3_double`, so that these tests need no installation of it.
"""

import base64
import importlib
import io
import json
import math
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agent_zips import OBS, OBS_DIM, write_zip
from gymnasium import spaces
from scipy import stats

from offrl.collect.agents import load_agent
from offrl.collect.behaviors import build
from offrl.collect.recorder import record
from offrl.data.catalogue import datasets_root
from offrl.data.recipe import BehaviorSpec
from offrl.errors import ConfigError, OffrlError, UnsafeDataError, WorkError
from offrl_cli import main

TORQUE = spaces.Box(-2.0, 2.0, (1,), np.float32)
THREE = spaces.Discrete(3)
DOUBLE = Path(__file__).parent.parent / "sb3_double"
THEIRS = """
from stable_baselines3.common.policies import ActorCriticPolicy, SACPolicy

class Mine(ActorCriticPolicy):
    pass

class Soft(SACPolicy):
    pass

class Odd(ActorCriticPolicy):
    def _predict(self, obs, deterministic=False):
        return 0.5 * super()._predict(obs, deterministic)

class Broken(ActorCriticPolicy):
    def __init__(self, *args, **options):
        raise RuntimeError("no such network")

class Statistics:
    def normalize_obs(self, obs):
        return obs / 10.0
"""


class _Payload:
    """Makes a file when it is unpickled, and is None then."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return (Path.touch, (self.mark,))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.zip"


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Somebody's module with policies of their own, and the library that they are made for."""
    before = set(sys.modules)
    (tmp_path / "theirs.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(DOUBLE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("theirs")
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("stable_baselines3", "theirs"):
            del sys.modules[name]


@pytest.fixture
def save(path: Path, theirs: Any) -> Callable[..., dict[str, np.ndarray]]:
    """Write an agent with a policy class of `theirs` and return its weights."""

    def write(kind: str, space: spaces.Space[Any] = TORQUE, **kept: Any) -> dict[str, np.ndarray]:
        torch.manual_seed(0)
        made = getattr(theirs, kind if kind != "Broken" else "Mine")(OBS, space, None)
        content = io.BytesIO()
        torch.save(made.state_dict(), content)
        page: dict[str, Any] = {
            "policy_class": quoted(getattr(theirs, kind)) | {"__module__": "theirs"},
            "policy_kwargs": {},
        }
        members = {"data": json.dumps(page | kept).encode(), "policy.pth": content.getvalue()}
        write_zip(path, members)
        return {name: tensor.double().numpy() for name, tensor in made.state_dict().items()}

    return write


def quoted(thing: Any) -> dict[str, Any]:
    return {":serialized:": base64.b64encode(pickle.dumps(thing)).decode()}


def trusted(path: Path, space: spaces.Space[Any] = TORQUE) -> Any:
    return load_agent(f"sb3:{path}", OBS, space, trust=True)


def observations(n: int = 20) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(n, OBS_DIM)) * 3.0


class TestWithoutTrust:
    def test_nothing_is_executed_and_the_refusal_says_what_would_be(
        self, path: Path, save: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        mark = tmp_path / "ran"
        save("Mine", policy_kwargs=quoted({"x": _Payload(mark)}))
        words = ["collect", "--env", "Pendulum-v1", "--policy", "sb3:agent", "--episodes", "1"]
        assert main(words) == 2
        told = capsys.readouterr().err
        assert "policy class of theirs, which is code" in told
        assert "FILE.py:FUNCTION" in told
        assert "--trust has stable-baselines3 load it, which executes the Python" in told
        assert not mark.exists()
        assert not datasets_root().exists()
        assert main([*words, "--trust"]) == 0
        assert mark.exists()

    def test_statistics_are_not_unpickled(
        self, path: Path, save: Any, theirs: Any, tmp_path: Path
    ) -> None:
        mark = tmp_path / "ran"
        save("Mine")
        beside = path.with_name("agent.vecnormalize.pkl")
        beside.write_bytes(pickle.dumps([_Payload(mark), theirs.Statistics()]))
        with pytest.raises(UnsafeDataError, match=r"--trust .* executes what it names"):
            load_agent(f"sb3:{path}", OBS, TORQUE)
        assert not mark.exists()

    def test_an_agent_that_can_be_read_is_read_also_with_it(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from agent_zips import save_agent

        mark = tmp_path / "ran"
        save_agent(path, "ppo", TORQUE, lr_schedule=quoted(_Payload(mark)))
        monkeypatch.setitem(sys.modules, "stable_baselines3", None)
        assert trusted(path).stochastic
        assert not mark.exists()


class TestATrustedAgent:
    def test_acts_by_its_own_predict_and_is_scored_as_it_clips(
        self, path: Path, save: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        weights = save("Mine")
        agent, rng = trusted(path), np.random.default_rng(0)
        std = float(np.exp(weights["log_std"][0]))
        edges = 0
        for obs in observations():
            mean = float((weights["action_net.weight"] @ obs + weights["action_net.bias"])[0])
            assert agent.mode(obs) == pytest.approx(np.clip(mean, -2.0, 2.0), abs=1e-5)
            law = agent.at(obs)
            normal: Any = stats.norm(mean, std)
            for action in [law.sample(rng) for _ in range(5)]:
                x = float(action[0])
                masses = {-2.0: normal.logcdf(-2.0), 2.0: normal.logsf(2.0)}
                expected = masses.get(x, normal.logpdf(x))
                edges += x in masses
                assert law.log_prob(action) == pytest.approx(float(expected), abs=1e-4)
        assert 10 < edges < 90
        build(BehaviorSpec(f"sb3:{path}"), OBS, TORQUE, trust=True)
        assert "executed what it pickles (--trust)" in caplog.text

    def test_that_squashes_is_scored_as_it_squashes(self, path: Path, save: Any) -> None:
        weights = save("Soft")
        agent, rng = trusted(path), np.random.default_rng(0)
        assert agent.stochastic
        for obs in observations():
            mean = (weights["action_net.weight"] @ obs + weights["action_net.bias"])[0]
            assert agent.mode(obs)[0] == pytest.approx(2.0 * np.tanh(mean), abs=1e-5)
            law = agent.at(obs)
            x = float(law.sample(rng)[0])
            if abs(x) < 1.99:
                slope = math.log(2.0 * (1.0 - (x / 2.0) ** 2))
                normal: Any = stats.norm(mean, 1.0)
                expected = normal.logpdf(np.arctanh(x / 2.0)) - slope
                assert law.log_prob(np.array([x])) == pytest.approx(float(expected), abs=1e-3)

    def test_of_choices_is_scored_by_its_softmax(self, path: Path, save: Any) -> None:
        weights = save("Mine", THREE)
        agent = trusted(path, THREE)
        for obs in observations():
            logits = weights["action_net.weight"] @ obs + weights["action_net.bias"]
            expected = logits - np.log(np.exp(logits).sum())
            assert int(agent.mode(obs)) == int(logits.argmax())
            found = [agent.at(obs).log_prob(action) for action in range(3)]
            np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_that_acts_in_a_way_of_its_own_has_no_log_probability(
        self, path: Path, save: Any
    ) -> None:
        weights = save("Odd")
        agent, obs = trusted(path), np.full(OBS_DIM, 0.1)
        mean = (weights["action_net.weight"] @ obs + weights["action_net.bias"])[0]
        assert agent.mode(obs)[0] == pytest.approx(0.5 * mean, abs=1e-6)
        assert not agent.stochastic
        assert math.isnan(agent.log_prob(obs, agent.mode(obs)))

    def test_sees_through_statistics_that_are_unpickled(
        self, path: Path, save: Any, theirs: Any
    ) -> None:
        save("Mine")
        plain = trusted(path)
        path.with_name("agent.vecnormalize.pkl").write_bytes(pickle.dumps(theirs.Statistics()))
        seeing = trusted(path)
        for obs in observations():
            np.testing.assert_array_equal(seeing.mode(obs), plain.mode(obs / 10.0))

    def test_executes_no_more_of_the_file_than_it_needs(
        self, path: Path, save: Any, tmp_path: Path
    ) -> None:
        mark = tmp_path / "ran"
        save("Mine", lr_schedule=quoted(_Payload(mark)), action_noise=quoted(_Payload(mark)))
        trusted(path)
        assert not mark.exists()


class TestAnAgentThatCannotBeLoaded:
    def test_names_the_package_that_is_missing(
        self, path: Path, save: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save("Mine")
        monkeypatch.setitem(sys.modules, "stable_baselines3.common.save_util", None)
        monkeypatch.setitem(sys.modules, "stable_baselines3", None)
        with pytest.raises(ConfigError, match=r"pip install stable-baselines3$"):
            trusted(path)

    def test_whose_code_raises_is_named(self, path: Path, save: Any) -> None:
        save("Broken")
        with pytest.raises(WorkError, match="RuntimeError: no such network"):
            trusted(path)

    def test_or_sees_something_else_is_named(self, path: Path, save: Any) -> None:
        save("Mine", observation_space=quoted(OBS))
        with pytest.raises(ConfigError, match="does not act on what the environment shows"):
            load_agent(f"sb3:{path}", spaces.Box(-1.0, 1.0, (5,)), TORQUE, trust=True)


class TestARecording:
    def test_says_that_it_trusted_and_is_the_same_in_several_processes(
        self, path: Path, save: Any
    ) -> None:
        save("Mine")
        words: dict[str, Any] = {
            "env": "Pendulum-v1", "policies": f"sb3:{path},stochastic", "episodes": 3,
        }  # fmt: skip
        one = record(**words, trust=True, out="me/one-v0")
        two = record(**words, trust=True, out="me/two-v0", workers=2)
        assert one.fingerprint == two.fingerprint
        assert one.metadata["offrl"]["recipe"]["trust"] is True
        assert "sha256" in one.metadata["offrl"]["sources"][f"sb3:{path}"]

    def test_goes_on_only_where_trust_is_given_again(
        self, path: Path, save: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save("Mine")
        words: dict[str, Any] = {"env": "Pendulum-v1", "policies": f"sb3:{path}", "episodes": 3}

        def stop(done: int, _: int) -> None:
            if done == 2:
                raise KeyboardInterrupt

        whole = record(**words, trust=True, out="me/whole-v0")
        with pytest.raises(KeyboardInterrupt):
            record(**words, trust=True, out="me/cut-v0", progress=stop)
        with pytest.raises(ConfigError, match="Give --trust"):
            record(out="me/cut-v0", resume=True)
        resumed = record(out="me/cut-v0", resume=True, trust=True)
        assert resumed.fingerprint == whole.fingerprint

    def test_of_a_recipe_that_trusts_needs_somebody_who_does(
        self, path: Path, save: Any, tmp_path: Path
    ) -> None:
        save("Mine")
        recipe = tmp_path / "recipe.toml"
        recipe.write_text(
            f'env = "Pendulum-v1"\nepisodes = 1\ntrust = true\n[[behaviors]]\npolicy = "sb3:{path}"'
        )
        with pytest.raises(UnsafeDataError, match="type --trust"):
            record(recipe, out="me/a-v0")
        assert record(recipe, out="me/a-v0", trust=True).metadata["offrl"]["recipe"]["trust"]

    def test_of_nothing_to_trust_is_refused(self) -> None:
        with pytest.raises(OffrlError, match="nothing to trust"):
            record(env="CartPole-v1", policies="random", episodes=1, out="me/a-v0", trust=True)
