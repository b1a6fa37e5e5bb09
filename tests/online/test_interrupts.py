"""A run that is interrupted at any line says, once resumed, all that one left alone says."""

import csv
import json
import os
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from interrupting import Lines

import offrl
from offrl import checkpoint as checkpoints
from offrl.errors import WorkError
from offrl.logs import MetricsFile
from offrl.online import training
from offrl.online.floor import Floor
from offrl.online.loop import Loop
from offrl.online.plan import resolve
from offrl.online.worlds import Worlds

INTERRUPTS = int(os.environ.get("OFFRL_INTERRUPTS", "100"))  # of the slow test, in each case
SMALL: dict[str, Any] = {"hidden_size": 8, "batch_size": 16}
SOON: dict[str, Any] = {"eval_every": 30, "eval_episodes": 1, "save_every": 20}
CASES: dict[str, dict[str, Any]] = {
    "td3": {"average_steps": 25, "updates_per_step": 2.0, "warmup": 20, "log_every": 10},
    "sac": {"record": "me/{out}-v0", "n_envs": 2, "warmup": 20, "log_every": 10},
    "iwpg": {"rollout_steps": 16, "epochs": 2},
    "awr": {"rollout_steps": 15, "replay_size": 40},
}
BRIEF: dict[str, Any] = {"value_steps": 6, "policy_steps": 10}


def go(out: str, algo: str) -> None:
    """Train, or go on."""
    if (Path(out) / "run.toml").exists():
        plan = resolve(out=out, resume=True)
    else:
        shutil.rmtree(out, ignore_errors=True)
        online = {k: v.format(out=out) if k == "record" else v for k, v in CASES[algo].items()}
        settings = SMALL | (BRIEF if algo == "awr" else {})
        plan = resolve(algo, "Pendulum-v1", 60, out=out, hyperparameters=settings,
                       online=SOON | online, compile="off")  # fmt: skip
    with closing(training.train(plan)) as events:
        for _ in events:
            pass


def rows(out: str) -> list[dict[str, str]]:
    """metrics.csv without what the clock says."""
    with Path(out, "seed_0", "metrics.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if "per_second" not in k} for row in found]


def check(out: str, algo: str) -> None:
    """`out` left what `whole` did: tensors, numbers, outcome, recorded data, and nothing else."""
    one, two = (checkpoints.newest(Path(run, "seed_0")) for run in ("whole", out))
    assert one is not None
    assert two is not None
    assert one.tensors.keys() == two.tensors.keys()
    assert all(torch.equal(one.tensors[k], two.tensors[k]) for k in one.tensors)
    assert rows(out) == rows("whole")
    results = [json.loads(Path(run, "result.json").read_text()) for run in ("whole", out)]
    assert results[0]["outcome"] == results[1]["outcome"]
    assert not [path for path in Path(out).rglob("*") if path.name.endswith(".tmp")]
    if "record" in CASES[algo]:
        fingerprints = {offrl.load(f"me/{run}-v0").fingerprint for run in ("whole", out)}
        assert len(fingerprints) == 1


@pytest.mark.parametrize("algo", CASES)
@pytest.mark.parametrize(
    ("cls", "method", "call"),
    [(MetricsFile, "append", 2), (Loop, "_told", 3), (Loop, "_write", 3), (Floor, "judge", -1)],
    ids=["before a row", "before a report", "before a checkpoint", "in the last evaluation"],
)
def test_interrupted_in_a_report_a_run_says_it_once_it_goes_on(
    algo: str, cls: type, method: str, call: int, monkeypatch: pytest.MonkeyPatch
):
    plain, calls = getattr(cls, method), [0]

    def counting(self: Any, *args: Any) -> Any:
        calls[0] += 1
        return plain(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(cls, method, counting)
        go("whole", algo)
    stop, calls[0] = call if call > 0 else calls[0], 0

    def cut(self: Any, *args: Any) -> Any:
        calls[0] += 1
        if calls[0] == stop:
            raise KeyboardInterrupt
        return plain(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(cls, method, cut)
        with pytest.raises(KeyboardInterrupt):
            go("cut", algo)
    go("cut", algo)
    check("cut", algo)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), WorkError("It broke.")])
@pytest.mark.parametrize("world", [0, 1])
@pytest.mark.parametrize("method", ["step", "reset"])
def test_stopped_in_an_environment_a_run_goes_on_from_the_step_before(
    method: str, world: int, error: BaseException, monkeypatch: pytest.MonkeyPatch
):
    """By Ctrl-C, or because it raises, with one world of two a step ahead."""
    monkeypatch.setitem(CASES, "sac", CASES["sac"] | {"save_every": 1000})
    # An episode of either world ends in the 18th step of both.
    monkeypatch.setattr(gymnasium.registry["Pendulum-v1"], "max_episode_steps", 18)
    go("whole", "sac")
    plain, calls = getattr(Worlds, "_act" if method == "step" else "_reset"), [0]

    def cut(self: Worlds, k: int, *args: Any) -> Any:
        found = plain(self, k, *args)
        calls[0] += self.before is not None and k == world
        if self.before is not None and k == world and calls[0] == (20 if method == "step" else 1):
            raise error
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Worlds, plain.__name__, cut)
        with pytest.raises(type(error)):
            go("cut", "sac")
    found = checkpoints.newest(Path("cut", "seed_0"))
    assert found is not None
    assert found.page["env_step"] == (38 if method == "step" else 34)
    go("cut", "sac")
    check("cut", "sac")


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("algo", CASES)
def test_interrupted_at_any_line_a_run_ends_as_if_it_had_not_been(algo: str):
    total, chance = Lines(lambda: go("whole", algo)).count, np.random.default_rng(0)
    for number in range(INTERRUPTS):
        out = f"cut-{number}"
        stopped = Lines(lambda out=out: go(out, algo), int(chance.integers(1, total)))
        go(out, algo)
        try:
            check(out, algo)
        except AssertionError as error:
            raise AssertionError(f"interrupted at {stopped.where}") from error
        shutil.rmtree(out)
