"""What each gradient step of an acting policy sees: half of it logged, and settings that change."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import settings_of

import offrl
from offrl import checkpoint as checkpoints
from offrl.algos import get
from offrl.errors import ConfigError
from offrl.online import training
from offrl.online.plan import resolve

ONLINE: dict[str, Any] = {
    "mix": 0.5, "eval_every": 300, "eval_episodes": 1, "log_every": 20, "save_every": 25,
}  # fmt: skip


def offline(algo: str, **settings: Any) -> None:
    offrl.record(env="Pendulum-v1", policies="random", episodes=4, out="me/swing-v0")
    offrl.fit(algo, "me/swing-v0", out="offline", **{**settings_of(algo), **settings})


def acting(n: int = 60, out: str = "f", hyperparameters: Any = None, **changes: Any) -> Any:
    return resolve(
        env="Pendulum-v1", env_steps=n, run="offline", out=out, online={**ONLINE, **changes},
        hyperparameters=hyperparameters, compile="off",
    )  # fmt: skip


def watch(monkeypatch: pytest.MonkeyPatch, what: Callable[[Any, Any], None]) -> None:
    """Call `what(loop, batch)` for every batch that is made."""
    plain = training.ReplayLoop._batch

    def watched(self: Any, step: int) -> Any:
        batch = plain(self, step)
        what(self, batch)
        return batch

    monkeypatch.setattr(training.ReplayLoop, "_batch", watched)


def test_of_many_gradient_steps_each_has_a_batch_of_its_own_with_half_of_it_logged(
    monkeypatch: pytest.MonkeyPatch,
):
    offline("td3")
    plan = acting(20, updates_per_step=5)
    table, seen = training.logged_table(plan), dict[int, list[torch.Tensor]]()
    obs = table.observations[table.obs_row]

    def look(loop: Any, batch: Any) -> None:
        logged = (batch.obs[:, None] == obs[None]).all(-1).any(1)
        assert logged.tolist() == [True] * 8 + [False] * 8
        seen.setdefault(loop.env_step, []).append(batch.obs)

    watch(monkeypatch, look)
    list(training.train(plan))
    assert [len(batches) for batches in seen.values()] == [5] * 20
    rows = [tuple(map(tuple, batch[:8].tolist())) for batches in seen.values() for batch in batches]
    assert len(set(rows)) == len(rows)


def conservatism(monkeypatch: pytest.MonkeyPatch, plan: Any) -> dict[int, float]:
    """What the losses read of it, at the first gradient step of each env_step."""
    seen = dict[int, float]()
    plain = training.ReplayLoop._annealed

    def watched(self: Any) -> Any:
        state = plain(self)
        seen[self.env_step] = float(state["scalars"]["conservatism"])
        return state

    with monkeypatch.context() as patch:
        patch.setattr(training.ReplayLoop, "_annealed", watched)
        list(training.train(plan))
    return seen


def test_a_setting_falls_in_a_straight_line_after_the_warm_up_and_stays(
    monkeypatch: pytest.MonkeyPatch,
):
    offline("cql", samples=2)
    schedule = {"anneal": "conservatism", "anneal_to": 1.0, "anneal_steps": 20, "warmup": 10}
    plan = acting(40, hyperparameters={"conservatism": 3.0}, **schedule)
    seen = conservatism(monkeypatch, plan)
    exact = {t: max(1.0, 3.0 - 2.0 * (t - 10) / 20) for t in range(11, 41)}
    assert seen == pytest.approx(exact)
    whole = acting(
        40, "g", hyperparameters={"conservatism": 3.0}, **{**schedule, "anneal_steps": 0}
    )
    assert conservatism(monkeypatch, whole)[25] == pytest.approx(2.0)


def test_learning_rates_fall_together_and_keep_their_proportion(monkeypatch: pytest.MonkeyPatch):
    offline("td3-bc")
    monkeypatch.setattr(get("td3-bc"), "rates", lambda self: {"critic": 2 * self.config.lr})
    schedule = {"anneal": "lr", "anneal_to": 1e-4, "anneal_steps": 20, "warmup": 10}
    plan = acting(40, hyperparameters={"lr": 3e-4}, **schedule)
    seen = dict[int, list[float]]()
    plain = training.ReplayLoop._annealed

    def watched(self: Any) -> Any:
        state = plain(self)
        seen[self.env_step] = [float(state["adam"][n]["lr"]) for n in ("policy", "critic")]
        return state

    monkeypatch.setattr(training.ReplayLoop, "_annealed", watched)
    list(training.train(plan))
    exact = {t: max(1e-4, 3e-4 - 2e-4 * (t - 10) / 20) for t in range(11, 41)}
    assert {t: pair[0] for t, pair in seen.items()} == pytest.approx(exact)
    assert {t: pair[1] for t, pair in seen.items()} == pytest.approx(
        {t: 2 * rate for t, rate in exact.items()}
    )


def test_without_annealing_a_setting_stays(monkeypatch: pytest.MonkeyPatch):
    offline("cql", samples=2)
    seen = conservatism(monkeypatch, acting(10, hyperparameters={"conservatism": 3.0}))
    assert set(seen.values()) == {3.0}


@pytest.mark.parametrize(("setting", "last"), [("q_weight", 9.0), ("lr", 1e-5)])
def test_a_run_that_anneals_is_stopped_and_resumed_to_the_same_bits(setting: str, last: float):
    offline("td3-bc")
    schedule = {"anneal": setting, "anneal_to": last, "anneal_steps": 50}
    list(training.train(acting(out="whole", **schedule)))
    events = training.train(acting(out="stopped", **schedule))
    for _ in range(5):
        next(events)
    events.close()
    list(training.train(resolve(out="stopped", resume=True)))
    one, two = (checkpoints.newest(Path(out, "seed_0")) for out in ("whole", "stopped"))
    assert one is not None
    assert two is not None
    assert all(torch.equal(one.tensors[k], two.tensors[k]) for k in one.tensors)
    name = "adam/policy/lr" if setting == "lr" else f"scalars/{setting}"
    assert float(one.tensors[f"state/{name}"]) == pytest.approx(last)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"anneal": "conservatsm"}, "'conservatsm' cannot change.*Did you mean 'conservatism'"),
        ({"anneal": "samples"}, "'samples' cannot change while it acts"),
        ({"anneal": "lr"}, "'lr' must be above 0"),
        ({"anneal": "conservatism", "anneal_to": -1.0}, "'conservatism' must be 0 or more"),
        ({"anneal_to": 1.0}, "'anneal' must be the name of a setting"),
        ({"anneal_steps": 5}, "'anneal' must be the name of a setting"),
        ({"anneal": "conservatism", "anneal_steps": -1}, "'anneal_steps' must be 0 or more"),
    ],
)
def test_what_cannot_be_annealed_is_told_before_anything_is_written(
    schedule: dict[str, Any], message: str
):
    with pytest.raises(ConfigError, match=message):
        resolve("cql", "Pendulum-v1", 60, out="no", online=schedule)
    assert not Path("no").exists()
