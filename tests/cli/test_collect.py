"""`offrl collect` with policies and environments of the user's own, sound and broken."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import offrl

Type = Callable[..., Any]

POLICY = """
steps = []
def act(obs):
    steps.append(obs)
    if len(steps) > 400 and not __import__('os').path.exists('mended'):
        raise ZeroDivisionError('by nothing')
    return [0.5]
"""
ENV = """
import gymnasium
from gymnasium.envs.classic_control.pendulum import PendulumEnv
class Short(PendulumEnv):
    count = 0
    def step(self, action):
        Short.count += 1
        return super().step(action)[: 4 if Short.count > 450 else 5]
if 'Short-v0' not in gymnasium.registry:
    gymnasium.register('Short-v0', entry_point=Short, max_episode_steps=200)
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(POLICY)
    (tmp_path / "shortenv.py").write_text(ENV)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shortenv", raising=False)
    return tmp_path


def test_a_policy_that_raises_is_named_and_the_recording_goes_on(type_: Type, files: Path) -> None:
    words = ("collect", "--env", "Pendulum-v1", "--policy", "mine.py:act,noise=0.1")
    words = (*words, "--episodes", 4, "--out", "me/mine-v0")
    failed = type_(*words)
    assert (failed.status, failed.out) == (1, "")
    for part in ("mine.py:act", "ZeroDivisionError", "episode 2, step 0", "by nothing"):
        assert part in failed.err
    assert type_("data", "list", "--json").json["datasets"] == []
    (files / "mended").touch()
    resumed = type_(*words, "--resume", "--json")
    assert (resumed.status, resumed.json["episodes"]) == (0, 4)
    whole = type_(*words[:-1], "me/whole-v0", "--json")
    assert whole.json["fingerprint"] == resumed.json["fingerprint"]


def test_an_environment_that_answers_wrongly_is_named(type_: Type, files: Path) -> None:
    words = ("--env", "shortenv:Short-v0", "--policy", "random", "--episodes", 4)
    failed = type_("collect", *words, "--out", "me/short-v0")
    assert (failed.status, failed.out) == (1, "")
    assert "'Short-v0'" in failed.err
    assert "episode 2, step 50" in failed.err


def test_a_module_that_only_a_recipe_names_is_not_imported(type_: Type, files: Path) -> None:
    text = 'id = "me/short-v0"\nenv = "shortenv:Short-v0"\nepisodes = 1\nbehaviors = ["random"]\n'
    (files / "recipe.toml").write_text(text)
    assert type_("collect", "recipe.toml").status == 1
    assert "shortenv" not in sys.modules


def test_code_that_only_a_recipe_names_is_not_run(type_: Type, files: Path) -> None:
    (files / "mine.py").write_text(
        "import pathlib\npathlib.Path('mark').touch()\ndef act(obs): ...\n"
    )
    text = 'env = "Pendulum-v1"\nepisodes = 1\nbehaviors = ["mine.py:act"]\n'
    (files / "recipe.toml").write_text(text)
    refused = type_("collect", "recipe.toml", "--out", "me/mine-v0")
    assert refused.status == 1
    assert "--policy mine.py:act" in refused.err
    assert not (files / "mark").exists()


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_collected(
    type_: Type, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(files / "mine.py"))
    refused = type_("collect", "offrl/cartpole/random-v0")
    assert (refused.status, refused.out) == (1, "")
    assert "Nothing can be written in" in refused.err
    assert (files / "mine.py").read_text() == POLICY


def test_what_is_printed_is_what_is_in_the_data(type_: Type, files: Path) -> None:
    words = ("--env", "CartPole-v1", "--policy", "cartpole-balance,epsilon=0.3")
    made = type_("collect", *words, "--env-steps", 120, "--out", "me/cart-v0", "--json").json
    data = offrl.load("me/cart-v0")
    assert (made["steps"], made["log_prob"]) == (data.n_steps, "logged")
    assert made["fingerprint"] == data.fingerprint
