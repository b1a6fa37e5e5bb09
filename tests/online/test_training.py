"""Online runs end to end: files, exact resuming, what a finetuned run starts from."""

import csv
import json
import math
import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import PendulumEnv
from training_runs import killed, settings_of

import offrl
from offrl import checkpoint as checkpoints
from offrl.errors import ConfigError, NotFoundError, OffrlError
from offrl.events import Evaluated, Started
from offrl.online import plan as planning
from offrl.online import training
from offrl.online.plan import resolve
from offrl.run import read_result

SMALL: dict[str, Any] = {"hidden_size": 8, "batch_size": 16}
ONLINE: dict[str, Any] = {
    "warmup": 40, "eval_every": 100, "eval_episodes": 2, "log_every": 20, "save_every": 70,
}  # fmt: skip


def plan(out: str, algo: str = "td3", env: str = "Pendulum-v1", n: int = 300, **changes: Any):
    online = {**ONLINE, **changes}
    return resolve(algo, env, n, out=out, hyperparameters=SMALL, online=online, compile="off")


def run(out: str, **changes: Any) -> list[Any]:
    return list(training.train(plan(out, **changes)))


def state(out: str, seed: int = 0) -> dict[str, torch.Tensor]:
    found = checkpoints.newest(Path(out, f"seed_{seed}"))
    assert found is not None
    return found.tensors


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def numbers(out: str) -> list[dict[str, str]]:
    """metrics.csv without what the clock says."""
    with Path(out, "seed_0", "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if "per_second" not in k} for row in rows]


def test_a_run_leaves_its_settings_its_curve_and_what_came_of_it():
    run("r")
    page = Path("r", "run.toml").read_text()
    assert "[online]" in page
    result = json.loads(Path("r", "result.json").read_text())
    assert result["env_steps"] == 300
    assert result["steps"] == 260
    assert result["before"] == result["outcome"]["0"]["before"]
    assert result["after"] is not None
    rows = numbers("r")
    assert [int(row["env_step"]) for row in rows if row["eval/return_mean"]] == [0, 100, 200, 300]
    trained = [row for row in rows if row["online/return_mean"]]
    assert sum(float(row["online/episodes"]) for row in trained) == 1  # of 200 steps


def test_every_checkpoint_is_kept_and_its_policy_acts():
    run("r")
    kept = [checkpoints.read(path) for path in checkpoints.folders(Path("r/seed_0")).values()]
    assert [found.page["env_step"] for found in kept] == [0, 70, 140, 210, 280, 300]
    assert [found.step for found in kept] == [0, 30, 100, 170, 240, 260]  # none in the warm-up
    trained, obs = offrl.load_run("r"), [1.0, 0.0, 0.0]
    actions = [float(trained.policy(checkpoint=found.step).predict(obs)[0]) for found in kept]
    assert len(set(actions)) == 6


@pytest.mark.parametrize("changes", [{}, {"n_envs": 3}, {"updates_per_step": 2.5}, {"env": "x"}])
def test_a_run_that_is_stopped_and_resumed_ends_in_the_same_bits(changes: dict[str, Any]):
    if changes == {"env": "x"}:
        changes = {"env": "CartPole-v1", "algo": "dqn", "epsilon_steps": 100}
    run("whole", **changes)
    for stop in (3, 13):
        out = f"stopped-{stop}"
        events = training.train(plan(out, **changes))
        for _ in range(stop):
            next(events)
        events.close()
        list(training.train(resolve(out=out, resume=True)))
        assert same(state("whole"), state(out))
        assert numbers("whole") == numbers(out)


def test_a_run_that_is_killed_ends_in_the_same_bits():
    run("whole", n=400)
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from offrl.online import training; from offrl.online.plan import resolve\n"
        f"list(training.train(resolve('td3', 'Pendulum-v1', 400, out='k', hyperparameters={SMALL},"
        f" online={ONLINE}, compile='off')))"
    )
    killed(code, "k", 2)
    list(training.train(resolve(out="k", resume=True)))
    assert same(state("whole"), state("k"))
    assert numbers("whole") == numbers("k")


def offline(algo: str = "td3-bc", **changes: Any):
    if not Path(os.environ["MINARI_DATASETS_PATH"], "me", "swing-v0").exists():
        offrl.record(env="Pendulum-v1", policies="random", episodes=4, out="me/swing-v0")
    return offrl.fit(algo, "me/swing-v0", out="offline", holdout=0.25, **settings_of(algo))


def test_a_policy_goes_on_from_exactly_where_the_log_left_it():
    before = offline()
    settings = {"run": "offline", "online": ONLINE, "out": "f", "compile": "off"}
    events = list(training.train(resolve(env="Pendulum-v1", env_steps=120, **settings)))
    first = checkpoints.read(checkpoints.folders(Path("f", "seed_0"))[0]).tensors
    last = before.checkpoint(0).tensors
    kept = [k for k in last if k.startswith("state/")]
    assert all(torch.equal(first[k], last[k]) for k in kept)
    tried = [e.evaluation["return_mean"] for e in events if isinstance(e, Evaluated)]
    again = offrl.evaluate(before, "Pendulum-v1", episodes=2, seed=0)
    assert tried[0] == again.return_mean
    assert same_buffers(state("f"), last)


def same_buffers(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    """Whether what was fitted to the log stayed as it was."""
    names = [k for k in two if k.startswith("state/buffers/")]
    return bool(names) and all(torch.equal(one[k], two[k]) for k in names)


def test_the_optimiser_can_be_reset_and_the_learning_rate_changed():
    offline()
    online = {**ONLINE, "reset_optimizer": True}
    made = resolve(env="Pendulum-v1", env_steps=120, run="offline", out="f", online=online,
                   hyperparameters={"lr": 1e-5}, compile="off")  # fmt: skip
    list(training.train(made))
    first = checkpoints.read(checkpoints.folders(Path("f", "seed_0"))[0]).tensors
    assert float(first["state/adam/policy/t"]) == 0
    assert float(first["state/adam/policy/lr"]) == pytest.approx(1e-5)


def test_a_share_of_every_batch_is_logged_and_never_held_out():
    offline()
    made = resolve(env="Pendulum-v1", env_steps=120, run="offline", out="f",
                   online={**ONLINE, "mix": 0.25}, compile="off")  # fmt: skip
    table = training.logged_table(made)
    held = made.run.held_out
    assert len(held) == 1
    seen = list[tuple[int, int]]()
    plain = training.ReplayLoop._batch

    def watched(self: Any, step: int) -> Any:
        batch = plain(self, step)
        logged = (batch.obs[:, None] == table.observations[table.obs_row][None]).all(-1).any(1)
        seen.append((int(logged.sum()), len(batch.reward)))
        return batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.ReplayLoop, "_batch", watched)
        list(training.train(made))
    assert set(seen) == {(4, 16)}


def test_logged_rows_leave_the_batches_after_mix_steps():
    offline()
    made = resolve(env="Pendulum-v1", env_steps=120, run="offline", out="f",
                   online={**ONLINE, "mix_steps": 1}, compile="off")  # fmt: skip
    assert made.online.mix == 0.5
    list(training.train(made))  # the logged data would be missed if it were drawn from
    result = read_result(Path("f"))
    assert result["parent"] == "offline"


def test_a_seed_of_several_may_go_on_alone():
    offrl.record(env="Pendulum-v1", policies="random", episodes=4, out="me/swing-v0")
    offrl.fit("td3-bc", "me/swing-v0", out="two", seeds=(0, 1), **settings_of("td3-bc"))
    made = resolve(env="Pendulum-v1", env_steps=80, run="two/seed_1", out="f", online=ONLINE,
                   compile="off")  # fmt: skip
    assert made.run.settings.seeds == (1,)
    with pytest.raises(ConfigError, match="has no seed 5"):
        resolve(env="Pendulum-v1", env_steps=80, run="two", seeds=(5,), out="g")


def wrong(match: str, *, error: type[Exception] = ConfigError, **settings: Any) -> str:
    with pytest.raises(error, match=match) as caught:
        resolve(**{"env": "Pendulum-v1", "env_steps": 100, "out": "no", **settings})
    assert not Path("no").exists()
    return str(getattr(caught.value, "remedy", ""))


def test_wrong_words_are_told_before_anything_is_written():
    assert "td3" in wrong("bc learns from a log, not while acting", algo="bc")
    assert "td3" in wrong("dqn does not learn on continuous actions", algo="dqn")
    assert "dqn" in wrong("td3 does not learn on discrete", algo="td3", env="CartPole-v1")
    wrong("no environment 'Pendlum-v1'", error=NotFoundError, algo="td3", env="Pendlum-v1")
    assert "finetune" in wrong("no logged data to mix in", algo="td3", online={"mix": 0.5})
    wrong("warm-up of 100 steps leaves none", algo="td3", online={"warmup": 100})
    wrong("'mix' must be a share", algo="td3", online={"mix": 2.0})
    wrong("'updates_per_step' must be above 0 and finite", algo="td3",
          online={"updates_per_step": math.inf})  # fmt: skip
    wrong("'noise' must be 0 or more and finite", algo="td3", online={"noise": math.inf})
    wrong("'replay_size' must be at least n_envs", algo="td3",
          online={"replay_size": 3, "n_envs": 4})  # fmt: skip
    assert "--anneal-to" in wrong("'lr' must be above 0", algo="td3", online={"anneal": "lr"})
    wrong("There is no setting 'utd'", algo="td3", online={"utd": 1})
    wrong("The algorithm is missing")


def test_an_action_with_nothing_to_choose_is_told_before_anything_is_written():
    class Flat(PendulumEnv):
        def __init__(self) -> None:
            super().__init__()
            low, high = np.array([-1.0, 0.5]), np.array([1.0, 0.5])
            self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)

    gymnasium.register("Flat-v0", lambda **given: Flat())
    try:
        for algo in ("td3", "sac", "iwpg"):
            wrong("Coordinate 1 of the actions of Flat-v0 has equal", algo=algo, env="Flat-v0")
    finally:
        del gymnasium.registry["Flat-v0"]


def test_a_finetuned_run_keeps_its_algorithm_its_spaces_and_its_networks():
    offline()
    wrong("was trained by td3-bc, not by td3", run="offline", algo="td3")
    wrong("'hidden_size' is 8 in offline", run="offline", hyperparameters={"hidden_size": 16})
    with pytest.raises(OffrlError, match="observation"):
        resolve(run="offline", env="MountainCarContinuous-v0", env_steps=100, out="no")


def test_changed_data_is_not_mixed_in():
    offline()
    offrl.record(env="Pendulum-v1", policies="random", episodes=4, seed=1, out="me/swing-v0",
                 overwrite=True)  # fmt: skip
    assert "--mix 0" in wrong("has changed since", run="offline")


def test_a_resumed_run_refuses_other_settings():
    run("r")
    with pytest.raises(ConfigError, match=r"was started otherwise: online\.noise"):
        resolve(out="r", resume=True, online={"noise": 0.5})


def test_a_world_that_repeats_otherwise_is_told_when_resuming(monkeypatch: pytest.MonkeyPatch):
    events = training.train(plan("r"))
    for _ in range(9):
        next(events)
    events.close()

    def otherwise(self: Any, tensors: Any) -> str:
        self.begin()
        return "not exact"

    monkeypatch.setattr(training.Worlds, "restore", otherwise)
    told = list(training.train(resolve(out="r", resume=True)))
    started = next(e for e in told if isinstance(e, Started))
    assert "not exact" in started.notes


def test_a_run_of_some_seeds_and_another_precision_resumes_without_a_word():
    offrl.record(env="Pendulum-v1", policies="random", episodes=4, out="me/swing-v0")
    offrl.fit("td3-bc", "me/swing-v0", out="two", seeds=(0, 1), **settings_of("td3-bc"))
    settings = {"run": "two", "seeds": (1,), "precision": "bf16", "online": ONLINE, "out": "f"}
    made = resolve(env="Pendulum-v1", env_steps=60, compile="off", **settings)
    events = training.train(made)
    next(events)
    events.close()
    again = resolve(out="f", resume=True)
    assert again.run == made.run


def test_what_differs_from_where_the_log_or_the_run_began_is_noted(
    monkeypatch: pytest.MonkeyPatch,
):
    offline()
    page = Path("offline", "run.toml")
    page.write_text(page.read_text().replace('env = "Pendulum-v1"', 'env = "Pendulum-v0"'))
    made = resolve(env="Pendulum-v1", env_steps=60, run="offline", online=ONLINE, out="f")
    assert any("The data was logged in Pendulum-v0" in note for note in made.notes)
    events = training.train(made)
    next(events)
    events.close()
    found = planning.current_versions() | {"torch": "9.9"}
    monkeypatch.setattr(planning, "current_versions", lambda: found)
    again = resolve(out="f", resume=True)
    assert any(note.startswith("torch is 9.9, was") for note in again.notes)
