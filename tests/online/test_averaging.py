"""The mean of the last policies: what a run ends with where it is asked for."""

from pathlib import Path
from typing import Any

import pytest
import torch

from offrl import checkpoint as checkpoints
from offrl import load_run
from offrl.errors import ConfigError
from offrl.events import Evaluated
from offrl.online import training
from offrl.online.plan import resolve

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def acting(out: str, algo: str = "td3", env: str = "Pendulum-v1", **schedule: Any) -> Any:
    online = {"warmup": 10, "eval_every": 20, "eval_episodes": 1, "save_every": 20, **schedule}
    config = {"hidden_size": 8, "batch_size": 8}
    return resolve(
        algo, env, 60, out=out, online=online, hyperparameters=config, compile="off", threads=1
    )


def policies(monkeypatch: pytest.MonkeyPatch, plan: Any) -> list[dict[str, torch.Tensor]]:
    """The policy after each gradient step of training."""
    seen = list[dict[str, torch.Tensor]]()
    plain = training.make_update

    def made(*args: Any, **options: Any) -> Any:
        update = plain(*args, **options)

        def watched(state: Any, batch: Any, stage: str) -> Any:
            new, metrics = update(state, batch, stage)
            seen.append(new["params"]["policy"])
            return new, metrics

        return watched

    with monkeypatch.context() as patch:
        patch.setattr(training, "make_update", made)
        list(training.train(plan))
    return seen


def last(out: str) -> dict[str, torch.Tensor]:
    found = checkpoints.newest(Path(out, "seed_0"))
    assert found is not None
    return found.tensors


@pytest.mark.parametrize(
    ("algo", "env"), [("td3", "Pendulum-v1"), ("sac", "Pendulum-v1"), ("dqn", "CartPole-v1")]
)
def test_the_run_ends_with_the_mean_of_the_policies_of_its_last_steps(
    algo: str, env: str, monkeypatch: pytest.MonkeyPatch
):
    plan = acting("mean", algo, env, average_steps=15, updates_per_step=2)
    steps = policies(monkeypatch, plan)
    assert len(steps) == 2 * 50
    ended = checkpoints.under("state/params/policy", last("mean"))
    for name, tensor in ended.items():
        exact = torch.stack([policy[name].double() for policy in steps[-30:]]).mean(0)
        torch.testing.assert_close(tensor.double(), exact, rtol=1e-5, atol=1e-7)
        for n in (29, 31):  # one policy less, or more, is another mean
            other = torch.stack([policy[name].double() for policy in steps[-n:]]).mean(0)
            apart = (tensor.double() - other).abs().max()
            assert float(apart) > 10 * float((tensor.double() - exact).abs().max())


def test_nothing_but_the_last_policy_is_another_for_it():
    list(training.train(acting("plain")))
    list(training.train(acting("mean", average_steps=15)))
    plain, mean = last("plain"), last("mean")
    differ = {k for k in plain if not torch.equal(plain[k], mean[k])}
    assert differ == {k for k in plain if k.startswith("state/params/policy/")}


def test_the_mean_is_what_is_evaluated_at_the_end_and_what_is_loaded():
    events = list(training.train(acting("mean", average_steps=15, eval_episodes=2)))
    told = [e.evaluation["return_mean"] for e in events if isinstance(e, Evaluated)][-1]
    loaded = load_run("mean").policy()
    tensors = checkpoints.under("state/params/policy", last("mean"))
    assert all(torch.equal(p, tensors[n]) for n, p in loaded.network.named_parameters())
    list(training.train(acting("plain", eval_episodes=2)))
    assert told == load_run("mean").result["after"] != load_run("plain").result["after"]


@pytest.mark.parametrize("reports", [5, 8])
def test_a_run_that_averages_is_stopped_and_resumed_to_the_same_bits(reports: int):
    list(training.train(acting("whole", average_steps=40, log_every=5)))
    events = training.train(acting("stopped", average_steps=40, log_every=5))
    for _ in range(reports):
        next(events)
    events.close()
    stopped = checkpoints.newest(Path("stopped", "seed_0"))
    assert stopped is not None
    assert stopped.page["env_step"] < 60
    list(training.train(resolve(out="stopped", resume=True)))
    one, two = last("whole"), last("stopped")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize(
    ("steps", "message"),
    [(51, "the last 51 steps cannot be averaged.*learns in 50"), (-1, "must be 0 or more")],
)
def test_an_average_that_cannot_be_is_told_before_anything_is_written(steps: int, message: str):
    with pytest.raises(ConfigError, match=message):
        acting("no", average_steps=steps)
    assert not Path("no").exists()
