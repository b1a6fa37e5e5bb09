"""`offrl collect` with agents and several processes: options, refusals, and what `--json` says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agent_zips import save_agent
from gymnasium import spaces

from offrl.data.catalogue import datasets_root

Type = Callable[..., Any]
TORQUE = spaces.Box(-2.0, 2.0, (1,))


@pytest.fixture
def agents(tmp_path: Path) -> Path:
    save_agent(tmp_path / "ppo.zip", "ppo", TORQUE)
    save_agent(tmp_path / "td3.zip", "td3", TORQUE)
    save_agent(tmp_path / "sde.zip", "ppo-sde", TORQUE)
    save_agent(tmp_path / "mine.zip", "ppo", TORQUE, policy_class={"__module__": "mine"})
    return tmp_path


def words(policy: str, out: str = "me/made-v0") -> tuple[object, ...]:
    return ("collect", "--env", "Pendulum-v1", "--policy", policy, "--episodes", 3, "--out", out)


@pytest.mark.parametrize(
    ("policy", "state"),
    [
        ("sb3:ppo.zip", "none"),
        ("sb3:ppo.zip,stochastic", "logged"),
        ("sb3:ppo,stochastic,epsilon=0.2", "logged"),
        ("sb3:td3.zip,noise=0.2", "logged"),
    ],
)
def test_an_agent_acts_as_its_options_say(
    type_: Type, agents: Path, policy: str, state: str
) -> None:
    made = type_(*words(policy), "--workers", 2, "--json").json
    assert (made["episodes"], made["log_prob"]) == (3, state)
    again = type_(*words(policy, "me/again-v0"), "--json").json
    assert again["fingerprint"] == made["fingerprint"]
    assert made["dataset"] == "me/made-v0"


def test_noise_that_is_drawn_anew_is_said_so_once(spawn: Type, agents: Path) -> None:
    done = spawn(*words("sb3:sde.zip,stochastic"), "--workers", 2)
    assert done.status == 0
    assert done.err.count("drawn anew at every step") == 1


@pytest.mark.parametrize(
    ("policy", "cause", "remedy"),
    [
        ("sb3:pp.zip", "Did you mean 'ppo.zip'", "sb3:FILE.zip"),
        ("sb3:td3.zip,stochastic", "no distribution of its own", "noise=S or epsilon=E"),
        ("sb3:ppo.zip,stochastic,noise=1", "samples its own actions", "not both"),
        ("sb3:ppo.zip,noisy=1", "Unknown 'noisy'", "noise"),
        ("sb3:mine.zip", "a policy class of mine, which is code", "FILE.py:FUNCTION"),
        ("run:nowhere", "There is no run in nowhere", "run.toml"),
    ],
)
def test_what_is_off_is_told_and_nothing_is_written(
    refused: Type, agents: Path, policy: str, cause: str, remedy: str
) -> None:
    typed = refused(*words(policy))
    first, second = typed.err.splitlines()
    assert cause in first
    assert remedy in second
    assert not datasets_root().exists()


def test_an_agent_that_is_cut_off_is_told(type_: Type, agents: Path) -> None:
    content = (agents / "ppo.zip").read_bytes()
    (agents / "ppo.zip").write_bytes(content[:-40])
    typed = type_(*words("sb3:ppo.zip"))
    assert (typed.status, typed.out) == (1, "")
    assert "ppo.zip" in typed.err.splitlines()[0]


@pytest.mark.parametrize("workers", ["0", "-1", "many"])
def test_the_number_of_processes_is_a_number_from_one(
    refused: Type, agents: Path, workers: str
) -> None:
    refused(*words("random"), "--workers", workers)


def test_other_names_for_it_are_answered(refused: Type) -> None:
    assert "--workers" in refused("collect", "--n-envs", 4).err
