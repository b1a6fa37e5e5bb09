"""`offrl finetune` and `offrl train --env`, as they are typed."""

import importlib.util
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from named_tests import ROOT
from training_runs import saved_dataset

import offrl
from offrl import checkpoint as checkpoints
from offrl import load_run

Type = Callable[..., Any]
SMALL = ("--hidden-size", 8, "--batch-size", 16, "--eval-episodes", 1, "--warmup", 10)


def test_acting_from_scratch_answers_with_what_came_of_it(type_: Type):
    words = ("--algo", "dqn", "--env", "CartPole-v1", "--env-steps", 60, "--out", "r", *SMALL)
    found = type_("train", *words, "--epsilon-steps", 30, "--record", "me/a-v0", "--json")
    assert found.status == 0
    assert {"run", "before", "after", "env_steps", "regret"} <= found.json.keys()
    assert json.loads(Path("r/result.json").read_text()) == found.json
    assert found.json["recorded"] == {"0": "me/a-v0"}
    assert offrl.load("me/a-v0").n_steps == 60
    again = type_("train", "--out", "r", "--resume")
    assert again.status == 0
    assert again.next == "offrl eval r"
    assert "recorded, seed 0      me/a-v0" in again.out
    assert type_("eval", "r", "--episodes", 2).status == 0


@pytest.mark.parametrize(
    ("algo", "env"), [("td3", "Pendulum-v1"), ("iwpg", "CartPole-v1"), ("awr", "CartPole-v1")]
)
def test_a_run_that_had_no_log_goes_on_without_one(type_: Type, algo: str, env: str):
    small = (*SMALL[:6], *(SMALL[6:] if algo == "td3" else ("--rollout-steps", 30)))
    words = ("--env", env, "--env-steps", 60, *small)
    assert type_("train", "--algo", algo, *words, "--out", "one").status == 0
    words = words[:4] + small[4:]
    found = type_("finetune", "one", *words, "--out", "two", "--json")
    assert found.status == 0, found.err
    assert (load_run("two").run.online or {})["mix"] == 0
    assert found.json["before"] == load_run("one").result["after"]
    assert type_("finetune", "--out", "two", "--resume").status == 0
    refused = type_("finetune", "two", *words, "--mix", 0.5, "--out", "three")
    assert refused.status == 2
    assert "no logged data to mix in" in refused.err
    assert "had no log" in refused.err
    assert not Path("three").exists()


@pytest.mark.parametrize(
    ("typed", "remedy"),
    [
        ("--steps", "--env-steps\n"),
        ("--total-timesteps", "--env-steps\n"),
        ("--dataset", "leave it out: RUN knows its log"),
        ("--data", "leave it out: RUN knows its log"),
        ("--config", "leave it out: RUN has its settings"),
    ],
)
def test_what_a_run_that_acts_does_not_take_is_answered_with_what_it_does(
    refused: Type, typed: str, remedy: str
):
    err = refused("finetune", "--algo", "td3", "--env", "Pendulum-v1", typed, "3").err
    assert f"There is no option {typed}.\ntry: {remedy}" in err


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("--dataset", "x/y-v0"), "--dataset is for learning from a log"),
        (("--steps", 5), "--steps is for learning from a log"),
        (("--holdout", 0.1), "--holdout is for learning from a log"),
        (("--grid", "lr=1,2"), "--grid is for learning from a log"),
        (("--utd", 2), "--utd"),
        (("--mix", 3), "'mix' must be a share"),
    ],
)
def test_what_belongs_to_a_log_is_refused(type_: Type, words: Any, cause: str):
    found = type_("train", "--algo", "td3", "--env", "Pendulum-v1", "--env-steps", 60, *words)
    assert found.status == 2
    assert cause in found.err
    assert not Path("runs").exists()


def test_a_peers_name_is_answered_with_ours(type_: Type):
    words = ("--algo", "td3", "--env", "Pendulum-v1", "--env-steps", 60)
    assert "--updates-per-step" in type_("train", *words, "--utd-ratio", 2).err
    assert "--warmup" in type_("train", *words, "--learning-starts", 2).err


@pytest.mark.parametrize(
    ("algo", "option", "words"),
    [
        ("iwpg", "--average-steps", "leave it out: iwpg learns from rollouts"),
        ("awr", "--warmup", "leave it out: awr learns from rollouts"),
        ("td3", "--rollout-steps", "leave it out: td3 learns from single transitions"),
    ],
)
def test_a_setting_of_the_other_kind_is_told_from_a_slip(
    type_: Type, algo: str, option: str, words: str
):
    acting = ("--algo", algo, "--env", "Pendulum-v1", "--env-steps", 60)
    refused = type_("train", *acting, option, 5)
    assert refused.status == 2
    assert words in refused.err


def test_what_learns_from_rollouts_has_the_settings_of_rollouts(type_: Type):
    words = ("--algo", "iwpg", "--env", "CartPole-v1", "--env-steps", 40)
    shown = type_("train", *words, "--help").out
    assert "--rollout-steps" in shown
    assert "--epochs" in shown
    assert "--warmup" not in shown
    assert "--rollout-steps" in type_("train", *words, "--n-steps", 2).err
    assert "--epochs" in type_("train", *words, "--n-epochs", 2).err
    assert "--entropy-weight" in type_("train", *words, "--ent-coef", 2).err
    refused = type_("train", *words, "--behavior-steps", 5)
    assert refused.status == 2
    assert "for learning from a log" in refused.err
    sizes = ("--hidden-size", 8, "--eval-episodes", 1, "--rollout-steps", 20, "--epochs", 1)
    found = type_("train", *words, *sizes, "--out", "r", "--json")
    assert found.status == 0
    assert "behavior_steps" not in found.err  # only what is used is told
    assert found.json["steps"] == 4
    assert type_("train", "--out", "r", "--resume").status == 0


def test_a_run_goes_on_with_its_algorithm_and_takes_its_settings(type_: Type):
    saved_dataset()
    offrl.fit("cql", "toy/box-v0", steps=4, out="log", hidden_size=8, batch_size=16, samples=2)
    shown = type_("finetune", "log", "--help").out
    assert "--conservatism" in shown
    assert "--mix" in shown
    found = type_("finetune", "log", "--env", "Pendulum-v1", "--env-steps", 60)
    assert found.status == 1
    assert "observation" in found.err
    assert type_("finetune", "--env", "Pendulum-v1", "--env-steps", 5).status == 2
    assert "There is no run" in type_("finetune", "nowhere", "--env", "x", "--env-steps", 5).err


@pytest.fixture
def swung() -> str:
    """A run that has learned a little of a log of Pendulum, as `log`."""
    offrl.record(env="Pendulum-v1", policies="random", episodes=2, out="me/swing-v0")
    offrl.fit("td3-bc", "me/swing-v0", out="log", steps=4, hidden_size=8, batch_size=16)
    return "log"


def test_a_policy_below_its_floor_ends_the_command_with_one_sentence(type_: Type, swung: str):
    words = ("--env", "Pendulum-v1", "--env-steps", 60, "--out", "acting", "--eval-episodes", 1)
    found = type_("finetune", swung, *words, "--floor", -1)
    for typed in (found, type_("finetune", "--out", "acting", "--resume")):
        assert typed.status == 1
        error, remedy = typed.err.splitlines()[-2:]
        assert error.startswith("error: Seed 0 was stopped: The policy returned -")
        assert error.endswith("below the floor of -1; none before did better.")
        assert remedy.startswith("try: Its best policy is the last checkpoint in acting")
    told = json.loads(Path("acting/result.json").read_text())["rolled_back"]["0"]
    assert told["rolled_back_to"] == 0


@pytest.mark.parametrize(
    "words",
    [
        ("finetune", "log", "--env", "stuck_worlds:Stuck-v0", "--env-steps", 60),
        ("train", "--algo", "td3", "--env", "stuck_worlds:Stuck-v0", "--env-steps", 60),
        ("eval", "log", "--env", "stuck_worlds:Stuck-v0"),
        ("collect", "--env", "stuck_worlds:Stuck-v0", "--policy", "random", "--episodes", 2),
    ],
)
def test_an_environment_that_hangs_ends_the_command_with_one_sentence(
    type_: Type, swung: str, words: Any, monkeypatch: pytest.MonkeyPatch
):
    Path("code").mkdir()
    shutil.copy(Path(__file__).parent.parent / "stuck_worlds.py", "code")
    monkeypatch.syspath_prepend(str(Path("code").resolve()))
    monkeypatch.setenv("STUCK_WORLDS", str(Path("hang").resolve()))
    Path("hang").write_text("lock 8")
    found = type_(*words, "--step-timeout", 3)
    assert found.status == 1
    assert found.out == ""
    error, remedy = found.err.splitlines()[-2:]
    assert error.startswith("error: The environment 'Stuck-v0' at step 7 after reset(seed=")
    assert error.endswith("took longer than 3 s, and was ended.")
    assert remedy.startswith("try: ")
    assert "--step-timeout" in remedy


def test_a_time_for_steps_is_above_zero_and_for_what_acts(type_: Type):
    words = ("--algo", "td3", "--env", "Pendulum-v1", "--env-steps", 60)
    assert type_("train", *words, "--step-timeout", 0).status == 2
    found = type_("train", "--algo", "bc", "--dataset", "me/a-v0", "--step-timeout", 3)
    assert found.status == 2
    assert "--step-timeout is for a run that acts" in found.err


@pytest.mark.skipif(importlib.util.find_spec("panda_gym") is not None, reason="it is installed")
def test_the_package_that_an_environment_lacks_is_named_before_anything_is_written(type_: Type):
    found = type_("train", "--algo", "td3", "--env", "PandaReach-v3", "--env-steps", 60)
    assert found.status == 1
    assert "try: pip install panda-gym" in found.err
    assert not Path("runs").exists()


def recipe() -> list[list[str]]:
    """The command lines of the RLPD section of docs/online.md."""
    section = (ROOT / "docs" / "online.md").read_text().partition("\n## RLPD")[2]
    section = section.partition("\n## ")[0]
    return [shlex.split(line) for line in re.findall(r"^    (offrl .*)$", section, re.MULTILINE)]


def test_the_recipe_of_rlpd_runs_as_it_is_written_but_smaller(type_: Type):
    offrl.record("offrl/pendulum/medium-v0", env_steps=400)
    first, second = recipe()
    small = ("--hidden-size", 8, "--batch-size", 16)
    assert type_(*first[1:], *small).status == 0
    online = ("--env-steps", 60, "--warmup", 50, "--eval-episodes", 1, "--batch-size", 16, "--json")
    found = type_(*second[1:], *online)
    assert found.status == 0, found.err
    assert found.json["steps"] == 200
    config = offrl.load_run("runs/rlpd").run.config
    asked = {"critics": 10, "target_critics": 2, "follow_mean": True, "layer_norm": True}
    assert asked.items() <= config.items()
    newest = checkpoints.newest(Path("runs/rlpd/seed_0"))
    assert newest is not None
    assert float(newest.tensors["state/adam/policy/t"]) == 200 / 20 + 1
    assert float(newest.tensors["state/adam/critic/t"]) == 200 + 1
