"""Learning from rollouts: whose probabilities count, what is mixed in, exact resuming."""

import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_runs import killed, settings_of

import offrl
from offrl import checkpoint as checkpoints
from offrl.algos.iwpg import IWPG
from offrl.errors import ConfigError
from offrl.learner import Learner
from offrl.online import training
from offrl.online.loop import Loop
from offrl.online.plan import resolve
from offrl.online.rollout_loop import RolloutLoop
from offrl.run import read_result

SMALL: dict[str, Any] = {"hidden_size": 8, "batch_size": 16}
BRIEF: dict[str, Any] = {"value_steps": 6, "policy_steps": 10}
ONLINE: dict[str, Any] = {
    "rollout_steps": 30, "eval_every": 60, "eval_episodes": 2, "save_every": 60,
}  # fmt: skip


def plan(out: str, algo: str = "iwpg", env: str = "CartPole-v1", n: int = 200, **changes: Any):
    own = {"epochs": 2} if algo == "iwpg" else {}
    settings = {**SMALL, **(BRIEF if algo == "awr" else {}), **changes.pop("settings", {})}
    online = {**ONLINE, **own, **changes}
    return resolve(algo, env, n, out=out, hyperparameters=settings, online=online, compile="off")


def run(out: str, **changes: Any) -> list[Any]:
    return list(training.train(plan(out, **changes)))


def state(out: str) -> dict[str, Tensor]:
    found = checkpoints.newest(Path(out, "seed_0"))
    assert found is not None
    return found.tensors


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def numbers(out: str) -> list[dict[str, str]]:
    """metrics.csv without what the clock says."""
    with Path(out, "seed_0", "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if "per_second" not in k} for row in rows]


def offline(algo: str = "iwpg", env: str = "CartPole-v1", **changes: Any) -> Any:
    if not Path(os.environ["MINARI_DATASETS_PATH"], "me", "log-v0").exists():
        offrl.record(env=env, policies="random", episodes=8, out="me/log-v0")
    short = {"behavior_steps": 10, "value_steps": 8} if algo == "iwpg" else {}
    settings = {**settings_of(algo), **short, **changes}
    return offrl.fit(algo, "me/log-v0", out="offline", holdout=0.25, **settings)


def tuned(out: str = "f", env: str = "CartPole-v1", n: int = 120, **changes: Any):
    settings = {"batch_size": 16, **changes.pop("settings", {})}
    return resolve(env=env, env_steps=n, run="offline", out=out, hyperparameters=settings,
                   online={**ONLINE, **changes}, compile="off")  # fmt: skip


def test_a_run_leaves_its_settings_its_curve_and_what_came_of_it():
    made = plan("r")
    events = list(training.train(made))
    result = json.loads(Path("r", "result.json").read_text())
    # six rollouts of 30 rows and one of 20, each of one minibatch, 2 epochs for policy and V each
    assert made.run.settings.steps == result["steps"] == 7 * (2 + 2)
    assert events[-1].step == made.run.settings.steps
    assert result["before"] is not None
    assert result["after"] is not None
    rows = numbers("r")
    assert [int(r["env_step"]) for r in rows if r["policy/loss"]] == [*range(30, 200, 30), 200]
    assert [int(r["env_step"]) for r in rows if r["eval/return_mean"]] == [0, 60, 120, 180, 200]
    assert all(r["value/loss"] for r in rows if r["policy/loss"])
    assert "epochs = 2" in Path("r", "run.toml").read_text()


CASES: dict[str, dict[str, Any]] = {
    "iwpg": {},
    "several worlds": {"n_envs": 3, "rollout_steps": 10, "env": "Pendulum-v1"},
    "running statistics": {"settings": {"normalize_obs": True}, "save_every": 30},
    "awr": {"algo": "awr", "replay_size": 70, "env": "Pendulum-v1"},
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_is_stopped_and_resumed_ends_in_the_same_bits(case: str):
    run("whole", **CASES[case])
    for stop in (3, 8):
        out = f"stopped-{stop}"
        events = training.train(plan(out, **CASES[case]))
        for _ in range(stop):
            next(events)
        events.close()
        list(training.train(resolve(out=out, resume=True)))
        assert same(state("whole"), state(out))
        assert numbers("whole") == numbers(out)


@pytest.mark.parametrize(
    ("cls", "method", "call"), [(Loop, "_live", 100), (IWPG, "update", 13)], ids=["act", "learn"]
)
def test_a_run_that_is_interrupted_in_a_rollout_or_a_lesson_ends_in_the_same_bits(
    cls: type, method: str, call: int
):
    run("whole", save_every=1000)
    plain, calls = getattr(cls, method), [0]

    def cut(self: Any, *args: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise KeyboardInterrupt
        return plain(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cls, method, cut)
        with pytest.raises(KeyboardInterrupt):
            run("cut", save_every=1000)
    found = checkpoints.newest(Path("cut", "seed_0"))
    assert found is not None
    assert found.page["env_step"] == 90  # where the last whole rollout and its lesson ended
    list(training.train(resolve(out="cut", resume=True)))
    assert same(state("whole"), state("cut"))
    assert numbers("whole") == numbers("cut")


def test_a_run_that_is_killed_ends_in_the_same_bits():
    changes = {"algo": "awr", "n": 400, "save_every": 30}
    run("whole", **changes)
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from offrl.online import training; from offrl.online.plan import resolve\n"
        f"list(training.train(resolve('awr', 'CartPole-v1', 400, out='k', hyperparameters="
        f"{ {**SMALL, **BRIEF} }, online={ {**ONLINE, 'save_every': 30} }, compile='off')))"
    )
    killed(code, "k", 4)
    list(training.train(resolve(out="k", resume=True)))
    assert same(state("whole"), state("k"))
    assert numbers("whole") == numbers("k")


class Watched:
    """What a loop learned from: every table, with the state that lived it, and every batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop: Any = None
        self.tables: list[tuple[Any, Any, Any]] = []  # table, state before the lesson and after
        self.batches: list[tuple[str, Any]] = []
        learn, batches = RolloutLoop._learn, RolloutLoop._batches

        def learned(loop: Any) -> None:
            self.loop, before = loop, loop.now.state
            learn(loop)
            if loop.now.state is not before:
                self.tables.append((loop.replay.tables[-1], before, loop.now.state))

        def drawn(loop: Any, phase: Any, *args: Any) -> Iterator[Any]:
            for batch in batches(loop, phase, *args):
                self.batches.append((phase.stage, batch))
                yield batch

        monkeypatch.setattr(RolloutLoop, "_learn", learned)
        monkeypatch.setattr(RolloutLoop, "_batches", drawn)

    def log_prob(self, table: Any, state: Any) -> Tensor:
        policy = Learner(self.loop.modules, state).nets.policy
        return policy(table.observations[table.obs_row]).log_prob(table.action)


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_mu_is_the_policy_that_acted_and_not_the_one_that_has_learned(
    env: str, monkeypatch: pytest.MonkeyPatch
):
    seen = Watched(monkeypatch)
    run("r", env=env, n_envs=2, settings={"lr": 0.01})
    assert len(seen.tables) == 4
    for table, before, after in seen.tables:
        mu = table.behavior_log_prob
        assert torch.allclose(seen.log_prob(table, before), mu, atol=1e-6)
        assert not torch.allclose(seen.log_prob(table, after), mu, atol=1e-3)
        assert bool(mu.isfinite().all())


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_a_finetuned_run_starts_at_the_ratio_1(env: str, monkeypatch: pytest.MonkeyPatch):
    offline(env=env)
    seen = Watched(monkeypatch)
    list(training.train(tuned(env=env)))
    stage, first = seen.batches[0]
    assert stage == "rollout"
    nets = Learner(seen.loop.modules, seen.tables[0][1]).nets
    ratio = (nets.policy(first.obs).log_prob(first.action) - first.columns["log_mu"]).exp()
    assert float((ratio - 1).abs().max()) < 1e-6
    _, metrics = seen.loop.algorithm.rollout_loss(nets, first)
    assert float(metrics["policy/ratio_mean"]) == pytest.approx(1, abs=1e-6)
    told = next(row for row in numbers("f") if row["policy/loss"])
    assert int(told["env_step"]) == 30
    assert float(told["online/ratio_error"]) < 1e-6


def test_what_was_fitted_to_the_log_stays_as_it_was():
    before = offline().checkpoint(0).tensors
    list(training.train(tuned()))
    first = checkpoints.read(checkpoints.folders(Path("f", "seed_0"))[0]).tensors
    kept = ("state/params/", "state/buffers/")
    assert all(torch.equal(first[k], before[k]) for k in before if k.startswith(kept))
    last = state("f")
    fitted = [k for k in before if k.startswith("state/buffers/")]
    assert any("obs_mean" in k for k in fitted)
    assert all(torch.equal(last[k], before[k]) for k in fitted)
    assert not torch.equal(last["state/params/policy/net.head.bias"],
                           before["state/params/policy/net.head.bias"])  # fmt: skip
    frozen = [k for k in before if k.startswith("state/params/behavior/")]
    assert all(torch.equal(last[k], before[k]) for k in frozen)


@pytest.mark.parametrize("logged", [True, False])
@pytest.mark.parametrize("algo", ["iwpg", "awr"])
def test_logged_rows_keep_their_own_mu_and_their_own_advantages(
    algo: str, logged: bool, monkeypatch: pytest.MonkeyPatch
):
    how = {"behavior": "logged" if logged else "fitted"} if algo == "iwpg" else {}
    before = offline(algo, **how)
    brief = BRIEF if algo == "awr" else {}
    made, seen = tuned(mix=0.25, settings={**brief, "lr": 0.01}), Watched(monkeypatch)
    list(training.train(made))
    table, loop = training.logged_table(made), seen.loop
    start = checkpoints.restore({"state": loop.now.state}, before.checkpoint(0).tensors)["state"]
    learner = Learner(loop.modules, start)
    advantage = loop.algorithm.advantages.columns(learner, table)["advantage"]
    mu = (
        table.behavior_log_prob
        if logged
        else loop.algorithm.behavior.fitted(learner, table)
        if algo == "iwpg"
        else advantage
    )
    rows, found = table.observations[table.obs_row], 0
    for stage, batch in seen.batches:
        lived = batch.behavior_log_prob[4:]
        assert algo == "awr" or torch.equal(batch.columns["log_mu"][4:], lived)
        here = (batch.obs[:, None] == rows[None]).all(-1)
        assert here.any(1).tolist() == ([True] * 4 if stage != "value" else []) + [False] * (
            12 if stage != "value" else 16
        ), stage
        for k in range(4 if stage != "value" else 0):
            row = int(here[k].nonzero()[0])
            found += 1
            assert float(batch.columns["advantage"][k]) == float(advantage[row])
            if algo == "iwpg":
                assert float(batch.columns["log_mu"][k]) == pytest.approx(float(mu[row]), abs=1e-6)
    assert found > 20


def test_mixed_runs_resume_in_the_same_bits_whatever_became_of_the_parent():
    offline()
    list(training.train(tuned("whole", mix=0.5)))
    events = training.train(tuned("cut", mix=0.5))
    for _ in range(5):
        next(events)
    events.close()
    for folder in list(checkpoints.folders(Path("offline", "seed_0")).values())[2:]:
        shutil.rmtree(folder)  # what is left knows no V yet
    list(training.train(resolve(out="cut", resume=True)))
    assert same(state("whole"), state("cut"))


def test_the_policy_stops_within_a_lesson_once_it_is_far_from_mu_and_goes_on_in_the_next():
    settings = {"stop_kl": 1e-4, "lr": 0.03}
    run("r", epochs=4, settings=settings)
    run("free", epochs=4, settings={**settings, "stop_kl": 0.0})
    told = [r for r in numbers("r") if r["policy/loss"]]
    assert all(float(r["policy/stopped"]) == 1 for r in told)  # in the last of four epochs
    assert not any(float(r["policy/stopped"]) for r in numbers("free") if r["policy/loss"])
    kl = [float(r["policy/kl_forward"]) for r in told]
    free = [float(r["policy/kl_forward"]) for r in numbers("free") if r["policy/loss"]]
    assert sum(kl) < sum(free)
    first = checkpoints.read(next(iter(checkpoints.folders(Path("r", "seed_0")).values())))
    name = "state/params/policy/net.head.bias"
    assert not torch.equal(first.tensors[name], state("r")[name])


def test_the_weight_of_the_divergence_adapts_after_each_lesson():
    settings = {"objective": "kl-forward", "kl_target": 10.0, "stop_kl": 0.0}
    run("r", settings=settings)
    found = [float(r["policy/coefficient"]) for r in numbers("r") if r["policy/loss"]]
    assert found == [0.5**k for k in range(7)]  # halved once a lesson, far below the target


def test_entropy_is_kept_where_it_is_weighed():
    run("plain", n=300, settings={"lr": 0.01})
    run("wide", n=300, settings={"lr": 0.01, "entropy_weight": 1.0})
    plain, wide = (float([r for r in numbers(o) if r["policy/loss"]][-1]["policy/entropy"])
                   for o in ("plain", "wide"))  # fmt: skip
    assert wide > plain


def test_running_statistics_scale_what_the_policy_sees_from_the_next_rollout_on(
    monkeypatch: pytest.MonkeyPatch,
):
    seen = Watched(monkeypatch)
    run("r", settings={"normalize_obs": True})
    (first, before, after), *_ = seen.tables
    name = "normalize.obs_mean"
    assert bool((before["buffers"]["policy"][name] == 0).all())
    for network in ("policy", "value"):
        mean = after["buffers"][network][name]
        assert torch.allclose(mean, first.observations.mean(0), atol=1e-6)
    rows = torch.cat([table.observations for table, _, _ in seen.tables])
    assert torch.allclose(state("r")[f"state/buffers/policy/{name}"], rows.mean(0), atol=1e-5)
    told = [r for r in numbers("r") if r["policy/loss"]]
    assert max(float(r["online/ratio_error"]) for r in told) < 1e-5  # mu is of the same scale


def wrong(match: str, **settings: Any) -> str:
    with pytest.raises(ConfigError, match=match) as caught:
        resolve(**{"algo": "iwpg", "env": "CartPole-v1", "env_steps": 100, "out": "no", **settings})
    assert not Path("no").exists()
    return str(getattr(caught.value, "remedy", ""))


def test_settings_that_would_do_nothing_are_refused():
    assert "Leave --behavior-steps" in wrong(
        "'behavior_steps' is for learning from a log", hyperparameters={"behavior_steps": 5}
    )
    wrong("'q_steps' is for learning", algo="awr", hyperparameters={"q_steps": 5})
    wrong("There is no setting 'warmup'", online={"warmup": 5})
    wrong("There is no setting 'epochs'", algo="awr", online={"epochs": 5})
    wrong("There is no setting 'rollout_steps'", algo="dqn", online={"rollout_steps": 5})
    assert "rollout_steps" in wrong("There is no setting 'n_steps'", online={"n_steps": 5})
    assert "epochs" in wrong("There is no setting 'n_epochs'", online={"n_epochs": 5})
    wrong("no log whose mean", algo="dqn", hyperparameters={"normalize_obs": True})
    wrong("no logged data to mix in", online={"mix": 0.5})


def test_a_run_shorter_than_a_rollout_has_one():
    made = plan("r", n=20, rollout_steps=2048)
    assert vars(made.online)["rollout_steps"] == 20
    list(training.train(made))
    assert len([r for r in numbers("r") if r["policy/loss"]]) == 1


def episodes(out: str, env: str) -> float:
    """The mean return of 50 evaluation episodes whose seed is no other's."""
    return offrl.evaluate(out, env, episodes=50, seed=77).return_mean


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ppo_reaches_500_on_cartpole(seed: int):
    training.fit_online("iwpg", "CartPole-v1", 60_000, out="r", seeds=(seed,), compile="off",
                 hyperparameters={"hidden_size": 64})  # fmt: skip
    assert episodes("r", "CartPole-v1") == 500


@pytest.mark.slow
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_awr_improves_from_scratch(env: str):
    training.fit_online("awr", env, 40_000, out="r", compile="off",
                        hyperparameters={"hidden_size": 64})  # fmt: skip
    result = read_result(Path("r"))
    gain = {"CartPole-v1": 100.0, "Pendulum-v1": 300.0}[env]
    assert episodes("r", env) > result["before"] + gain
