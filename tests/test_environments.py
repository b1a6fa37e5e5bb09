"""Environments are made from what the user typed or has installed, never from what a file says."""

import importlib
import importlib.util
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import RescaleAction

from offrl import environments
from offrl.data.dataset import load
from offrl.data.spec import Spec
from offrl.environments import check_spaces, env_for, make_env, version_note
from offrl.errors import ConfigError, EnvError, NotFoundError, UnsafeDataError

PENDULUM = Spec(
    spaces.Box(np.array([-1, -1, -8], np.float32), np.array([1, 1, 8], np.float32)),
    spaces.Box(-2.0, 2.0, (1,), np.float32),
)


@dataclass
class Described:
    """A dataset, as far as its environment goes."""

    env: dict[str, Any] | None = None
    spec: Spec = PENDULUM
    id: str = "me/data-v0"
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.env is not None:
            self.metadata["env_spec"] = json.dumps(self.env)


def pendulum(**changes: Any) -> dict[str, Any]:
    return json.loads(gymnasium.spec("Pendulum-v1").to_json()) | changes


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module in the working folder that leaves a mark when it is imported."""
    mark = tmp_path / "mark"
    (tmp_path / "trap.py").write_text(
        f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
        "import gymnasium\n"
        "def run(command): pathlib.Path(command).touch()\n"
        "Wrapper = run\n"
        "if 'Trap-v0' not in gymnasium.registry:\n"
        "    gymnasium.register('Trap-v0', entry_point="
        "'gymnasium.envs.classic_control.pendulum:PendulumEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "trap", raising=False)
    return mark


class TestWhatTheUserTypes:
    @pytest.mark.parametrize(
        ("typed", "meant"),
        [
            ("Pendulm-v1", "Pendulum-v1"),
            ("Pendulum-v0", "Pendulum-v1"),
            ("cartpole-v1", "CartPole"),
        ],
    )
    def test_a_slip_suggests_the_nearest_id(self, typed: str, meant: str) -> None:
        with pytest.raises(NotFoundError, match=f"Did you mean '{meant}") as caught:
            make_env(typed)
        assert caught.value.exit_code == 2

    @pytest.mark.parametrize("typed", ["", "no id!", "Nothing-v0", "a/b/c-v0"])
    def test_what_is_no_environment_is_refused(self, typed: str) -> None:
        with pytest.raises(NotFoundError):
            make_env(typed)

    @pytest.mark.parametrize(
        ("env", "package"),
        [("ALE/Pong-v5", "ale-py"), ("BabyAI-GoToObj-v0", "minigrid"), ("cube-x-v0", "ogbench")],
    )
    def test_a_missing_package_is_named(
        self, env: str, package: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(environments.importlib.util, "find_spec", lambda name: None)
        monkeypatch.setattr(gymnasium, "registry", {"Pendulum-v1": None})
        with pytest.raises(EnvError, match=f"pip install {package}"):
            make_env(env)

    @pytest.mark.parametrize(
        ("error", "remedy"),
        [
            (
                gymnasium.error.DependencyNotInstalled(
                    "Box2D is not installed, you can install it by run `pip install swig` "
                    'followed by `pip install "gymnasium[box2d]"`'
                ),
                'pip install "gymnasium[box2d]"',
            ),
            (ModuleNotFoundError("No module named 'mujoco'", name="mujoco"), "gymnasium[mujoco]"),
            (ModuleNotFoundError("No module named 'shop'", name="shop.env"), "pip install shop"),
        ],
    )
    def test_a_missing_dependency_is_named(
        self, error: Exception, remedy: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(gymnasium, "make", fail)
        with pytest.raises(EnvError) as caught:
            make_env("Pendulum-v1")
        assert remedy in caught.value.remedy
        assert caught.value.exit_code == 1

    def test_a_module_is_imported_because_it_was_typed(self, trap: Path) -> None:
        env = make_env("trap:Trap-v0")
        env.close()
        assert trap.exists()
        with pytest.raises(NotFoundError):
            make_env("trap:Tap-v0")
        with pytest.raises(EnvError, match="nosuchmodule"):
            make_env("nosuchmodule:X-v0")

    def test_a_module_that_was_not_typed_is_not(self, trap: Path) -> None:
        with pytest.raises(UnsafeDataError, match="you did not type it"):
            make_env("trap:Trap-v0", trust=False)
        assert not trap.exists()

    def test_packages_on_the_list_are_imported_for_their_ids(self) -> None:
        if importlib.util.find_spec("minigrid") is None:
            pytest.skip("minigrid is not installed")
        env = make_env("BabyAI-GoToRedBallGrey-v0")
        assert isinstance(env.observation_space, spaces.Dict)
        env.close()


class TestWhatADatasetNames:
    def test_its_registered_environment_is_made_with_its_time_limit(self) -> None:
        env = env_for(Described(pendulum(max_episode_steps=50, kwargs={"g": 9.81})))
        assert env.spec is not None
        assert env.spec.max_episode_steps == 50
        assert env.spec.kwargs["g"] == 9.81
        env.close()

    def test_the_evaluation_environment_goes_first(self) -> None:
        data = Described(pendulum(max_episode_steps=100000))
        data.metadata["eval_env_spec"] = json.dumps(pendulum(max_episode_steps=30))
        env = env_for(data)
        assert env.spec is not None
        assert env.spec.max_episode_steps == 30
        env.close()

    def test_without_one_the_user_is_asked(self) -> None:
        with pytest.raises(ConfigError, match="names no environment"):
            env_for(Described())
        with pytest.raises(ConfigError, match="names no environment"):
            env_for(Described(metadata={"env_spec": "{"}))

    @pytest.mark.parametrize(
        "changes",
        [
            {"id": "Evil-v0", "entry_point": "trap:run", "kwargs": {"command": "mark"}},
            {"entry_point": "trap:run", "kwargs": {"command": "mark"}},
            {"entry_point": "os:system", "kwargs": {"command": "touch mark"}},
            {"id": "trap:Trap-v0"},
            {"id": "trap:Trap-v0", "entry_point": None},
            {"additional_wrappers": [{"name": "w", "entry_point": "trap:Wrapper", "kwargs": {}}]},
        ],
    )
    def test_no_code_of_its_choice_is_run(self, changes: dict[str, Any], trap: Path) -> None:
        with pytest.raises(UnsafeDataError, match="dataset") as caught:
            env_for(Described(pendulum(**changes)))
        assert "--env" in caught.value.remedy
        assert "trap" not in sys.modules
        assert not trap.exists()

    def test_an_id_that_is_unknown_is_named(self) -> None:
        with pytest.raises(NotFoundError, match="'Gone-v0'"):
            env_for(Described({"id": "Gone-v0"}))

    def test_what_it_names_is_run_when_it_is_trusted(self, trap: Path) -> None:
        env = env_for(Described(pendulum(id="trap:Trap-v0", entry_point=None)), trust_env=True)
        env.close()
        assert trap.exists()
        with pytest.raises(EnvError):
            env_for(Described(pendulum(entry_point="nosuchmodule:X")), trust_env=True)

    def test_a_window_is_never_opened(self) -> None:
        env = env_for(Described(pendulum(kwargs={"render_mode": "human"})))
        assert env.render_mode is None
        env.close()


class TestSpacesThatDiffer:
    def test_are_an_error_before_the_first_step(self) -> None:
        cartpole = Spec(spaces.Box(-1.0, 1.0, (4,)), spaces.Discrete(2))
        with pytest.raises(EnvError, match=r"observations of Pendulum-v1 are not the data's"):
            env_for(Described(pendulum(), spec=cartpole))

    def test_in_the_bounds_of_actions_are_an_error(self) -> None:
        env = RescaleAction(make_env("Pendulum-v1"), np.float32(-1.0), np.float32(1.0))
        with pytest.raises(EnvError, match="actions"):
            check_spaces(env, PENDULUM)
        env.close()

    def test_in_the_bounds_of_observations_are_none(self) -> None:
        wide = Spec(spaces.Box(-np.inf, np.inf, (3,), np.float64), PENDULUM.action_space)
        env = make_env("Pendulum-v1")
        check_spaces(env, wide)
        env.close()

    def test_in_parts_are_named(self) -> None:
        class Parts(gymnasium.Env[Any, Any]):
            observation_space = spaces.Dict({"a": spaces.Tuple([spaces.Discrete(2)])})
            action_space = spaces.Discrete(2)

        ours = spaces.Dict({"a": spaces.Tuple([spaces.Discrete(3)])})
        with pytest.raises(EnvError, match=r"a: 0: Discrete\(3\) in the data"):
            check_spaces(Parts(), Spec(ours, spaces.Discrete(2)))
        other = spaces.Dict({"b": spaces.Discrete(2)})
        with pytest.raises(EnvError, match=r"parts \['b'\] in the data"):
            check_spaces(Parts(), Spec(other, spaces.Discrete(2)))
        same = Spec(Parts.observation_space, spaces.Discrete(2, start=1))
        with pytest.raises(EnvError, match="actions of Parts"):
            check_spaces(Parts(), same)


class TestPublishedSets:
    """Sets that other people's recipes made."""

    @pytest.mark.parametrize("name", ["pointmaze-large-v0", "babyai-gotoredballgrey-bot-v0"])
    def test_get_the_environment_they_were_made_in(self, name: str, realdata: Path) -> None:
        data = load(realdata / "generated-by-public-recipes" / "minari" / "check" / name)
        package = "minigrid" if "babyai" in name else "gymnasium_robotics"
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
        env = env_for(data)
        obs, _ = env.reset(seed=0)
        assert data.spec.flatten_obs_one(obs).shape == (data.spec.obs_dim,)
        assert env.spec is not None
        assert env.spec.id == data.env_id
        env.close()


class TestVersions:
    def test_that_are_the_same_are_not_worth_a_word(self) -> None:
        here = {"gymnasium": gymnasium.__version__, "numpy": "0.1"}
        assert version_note({"offrl": {"versions": here}}) is None
        assert version_note({}) is None
        assert version_note({"requirements": ["gymnasium>=0.26", "!!"]}) is None

    def test_that_differ_are_told_with_both(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(environments.ENV_PACKAGES, "gone", "nosuchthing")
        note = version_note({"offrl": {"versions": {"gymnasium": "0.1", "nosuchthing": "9.9"}}})
        assert note is not None
        assert f"gymnasium 0.1 then, {gymnasium.__version__} now" in note
        assert "nosuchthing 9.9 then, not installed now" in note

    def test_that_minari_requires_are_checked(self) -> None:
        note = version_note({"requirements": ["gymnasium<0.5", "nosuchthing>=1"]})
        assert note is not None
        assert "gymnasium<0.5" in note
        assert "nosuchthing>=1, not installed now" in note
