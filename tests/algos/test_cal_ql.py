"""Cal-QL's calibration and its reference returns against closed forms, its limits, and acting."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from training_runs import settings_of

import offrl
from offrl import checkpoint as checkpoints
from offrl import losses
from offrl.algorithm import configure
from offrl.algos import get
from offrl.errors import ConfigError
from offrl.learner import Learner
from offrl.online import training
from offrl.online.plan import resolve
from offrl.run import read_result
from offrl.testing import Trial

CALQL: Any = get("cal-ql")
CQL: Any = get("cql")


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Of one uniform action with Q = 1, one of pi(.|s) with -5 and one of pi(.|s') with 2; V = 0.
DENSITY = numbers(-math.log(2), 0.0, 0.0)
RIGHT = 2.6265233750364456, numbers(0.3932238664829637, 0.0, 0.534446645388523)
PLAIN = 2.5519699265810076, numbers(0.42366054491386096, 0.0005250747489364442, 0.5758143803372027)


def penalty(raise_: Any, q: tuple[float, ...] = (1.0, -5.0, 2.0)) -> tuple[float, Tensor]:
    """The logarithm of the sum over three actions, and its gradient in their values."""
    values = numbers(*q).requires_grad_()
    raised = raise_(values[None, :, None], numbers(0.0))[0, :, 0]
    found = losses.conservative_gap(raised - DENSITY, numbers(0.0)[0])
    return float(found.detach()), torch.autograd.grad(found, values)[0]


def agrees(found: tuple[float, Tensor], expected: tuple[float, Tensor], within: float) -> bool:
    close = torch.allclose(found[1], expected[1], atol=within, rtol=0)
    return math.isclose(found[0], expected[0], abs_tol=within) and close


def test_values_of_the_policys_actions_are_raised_to_the_return_and_lose_their_gradient():
    assert agrees(penalty(lambda q, v: losses.calibrated(q, v, 1)), RIGHT, 1e-9)
    assert agrees(penalty(lambda q, v: q), PLAIN, 1e-9)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda q, v: q, id="plain cql"),
        pytest.param(lambda q, v: torch.minimum(q, v), id="minimum"),
        pytest.param(lambda q, v: losses.calibrated(q - DENSITY[None, :, None], v, 1), id="after"),
        pytest.param(lambda q, v: losses.calibrated(q, v, 2), id="the next state's alone"),
        pytest.param(lambda q, v: q + (torch.maximum(q, v) - q).detach(), id="gradient kept"),
        pytest.param(lambda q, v: losses.calibrated(q, v + 1.5, 0), id="uniform ones too"),
    ],
)
def test_the_numbers_tell_a_wrong_calibration(wrong: Any):
    assert not agrees(penalty(wrong), RIGHT, 1e-3)


def test_a_value_below_the_return_may_be_any():
    def raised(q: Tensor, v: Tensor) -> Tensor:
        return losses.calibrated(q, v, 1)

    assert penalty(raised, (1.0, -1.0, 2.0))[0] == penalty(raised)[0]
    assert penalty(lambda q, v: q, (1.0, -1.0, 2.0))[0] != PLAIN[0]


def returns(*rewards: float, terminated: bool = True, failure: float | None = None) -> list[float]:
    """Returns-to-go of one episode at 0.99, behind an episode of another kind."""
    reward = numbers(5.0, *rewards)
    last = torch.zeros(len(reward), dtype=torch.bool)
    last[[0, -1]] = True
    ends = numbers(1.0, *[0.0] * (len(rewards) - 1), float(terminated))
    return losses.returns_to_go(reward, ends, last, 0.99, failure).tolist()[1:]


FAILING = [-100.0, -100.0, -100.0]


def test_a_return_stops_where_its_episode_does():
    assert returns(-1, -1, 0) == pytest.approx([-1.99, -1, 0], abs=1e-12)
    assert returns(-1, -1, -1) == pytest.approx([-2.9701, -1.99, -1], abs=1e-12)
    assert returns(-1, -1, -1, terminated=False) == returns(-1, -1, -1)


@pytest.mark.parametrize("terminated", [True, False])
def test_without_any_success_an_episode_fails_for_ever_however_it_ended(terminated: bool):
    found = returns(-1, -1, -1, terminated=terminated, failure=-1.0)
    assert found == pytest.approx(FAILING, abs=1e-9)


def test_a_success_ends_well_where_the_episode_ends_and_goes_on_failing_where_it_is_cut_off():
    assert returns(-1, -1, 0, failure=-1.0) == pytest.approx([-1.99, -1, 0], abs=1e-12)
    cut = returns(-1, 0, -1, terminated=False, failure=-1.0)
    assert cut == pytest.approx([-1 + 0.99 * -99, -99, -100], abs=1e-9)


def test_one_success_is_enough_whatever_the_last_reward_is():
    # Other code looks at the last reward alone, and calls this episode a failure.
    found = returns(-1, 0, -1, failure=-1.0)
    assert found == pytest.approx([-1 - 0.99**2, -0.99, -1], abs=1e-9)
    assert found != pytest.approx(FAILING, abs=1)


@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    seed=st.integers(0, 99),
    failure=st.sampled_from([None, 0.0, -1.0]),
)
def test_episodes_side_by_side_are_worth_what_each_is_alone(
    lengths: list[int], seed: int, failure: float | None
):
    generator = torch.Generator().manual_seed(seed)
    episodes = [
        -(torch.rand(n, generator=generator, dtype=torch.float64) > 0.3).double() for n in lengths
    ]
    last = torch.cat([torch.arange(n) == n - 1 for n in lengths])
    ends = last & (torch.rand(len(last), generator=generator) > 0.5)

    def worth(reward: Tensor, terminated: Tensor, last: Tensor) -> Tensor:
        return losses.returns_to_go(reward, terminated.double(), last, 0.9, failure)

    together = worth(torch.cat(episodes), ends, last)
    apart = [
        worth(*parts)
        for parts in zip(episodes, ends.split(lengths), last.split(lengths), strict=True)
    ]
    assert torch.allclose(together, torch.cat(apart), atol=1e-12)


@pytest.mark.parametrize("discrete", [False, True])
def test_with_returns_below_every_value_it_is_cql_to_the_bit(discrete: bool):
    def run(algorithm: Any, columns: dict[str, Tensor]) -> dict[str, Any]:
        trial: Any = Trial(algorithm, discrete=discrete)
        modules, sampler, now = trial.begin()
        state = now.state
        for step in range(5):
            batch = sampler.with_columns(columns)[step]
            learner, _ = trial.algorithm.update(Learner(modules, state), batch, "update")
            state = learner.state
        return state["params"]

    lowest = {"return_to_go": torch.full((200,), -math.inf, dtype=torch.float64)}
    one, other = run(CALQL, lowest), run(CQL, {})
    for network, params in other.items():
        for key, value in params.items():
            assert torch.equal(value, one[network][key]), (network, key)
    real = run(CALQL, {"return_to_go": torch.full((200,), 50.0, dtype=torch.float64)})
    critic = "policy" if discrete else "critic"
    assert not all(torch.equal(v, real[critic][k]) for k, v in other[critic].items())


@pytest.mark.parametrize(("earned", "share"), [(1e6, 1.0), (-1e6, 0.0)])
@pytest.mark.parametrize("discrete", [False, True])
def test_the_share_of_values_below_the_return_is_told(discrete: bool, earned: float, share: float):
    trial: Any = Trial(CALQL, discrete=discrete)
    modules, sampler, now = trial.begin()
    column = torch.full((200,), earned, dtype=torch.float64)
    batch = sampler.with_columns({"return_to_go": column})[0]
    _, metrics = trial.algorithm.update(Learner(modules, now.state), batch, "update")
    assert float(metrics["critic/below_return"]) == share


def test_values_above_every_return_are_held_down_and_those_below_are_not():
    trial: Any = Trial(CALQL, discrete=False)
    modules, sampler, now = trial.begin()

    def size(earned: float) -> float:
        column = torch.full((200,), earned, dtype=torch.float64)
        batch = sampler.with_columns({"return_to_go": column})[0]
        _, metrics = trial.algorithm.update(Learner(modules, now.state), batch, "update")
        return float(metrics["critic/gap"])

    assert size(-1e6) < size(5.0) < size(9.0)  # the penalty is larger, and its gradient gone


def test_an_episode_cut_off_is_warned_of_unless_rewards_only_tell_success():
    for settings, told in (({}, True), ({"sparse": True}, False)):
        trial: Any = Trial(CALQL, discrete=False, settings=settings)
        modules, _, _ = trial.begin()
        learner = Learner(modules, trial.run(n=2).state)
        warned = trial.algorithm.warnings(learner)
        assert bool(warned) is told
        assert all("A time limit cut off 50% of the episodes" in w for w in warned)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"failure_reward": math.inf}, "failure_reward"),
        ({"sparse": True, "discount": 1.0}, "discount"),
        ({"conservatism": -1.0}, "conservatism"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(settings: dict[str, Any], name: str):
    with pytest.raises(ConfigError, match=f"'{name}' must be"):
        configure(CALQL.Config, settings)
    assert configure(CALQL.Config, {"discount": 1.0}).discount == 1


ONLINE: dict[str, Any] = {
    "mix": 0.5, "updates_per_step": 0.1,
    "eval_every": 300, "eval_episodes": 1, "log_every": 50, "save_every": 70,
}  # fmt: skip


def finetuned(out: str, n: int = 450, **changes: Any) -> Any:
    return resolve(
        env="Pendulum-v1", env_steps=n, run="offline", out=out, online={**ONLINE, **changes},
        compile="off",
    )  # fmt: skip


@pytest.fixture
def offline() -> None:
    offrl.record(env="Pendulum-v1", policies="random", episodes=2, out="me/swing-v0")
    settings = {**settings_of("cal-ql"), "samples": 2}
    offrl.fit("cal-ql", "me/swing-v0", out="offline", **settings)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("n_envs", [1, 2])
def test_while_it_acts_rows_are_calibrated_by_their_own_episode_once_that_is_over(
    monkeypatch: pytest.MonkeyPatch, n_envs: int
):
    seen = dict[int, Tensor]()
    loops = list[Any]()
    plain = training.ReplayLoop._batch

    def watched(self: Any, step: int) -> Any:
        batch = plain(self, step)
        seen[self.env_step], loops[:] = batch.columns["return_to_go"], [self]
        return batch

    monkeypatch.setattr(training.ReplayLoop, "_batch", watched)
    list(training.train(finetuned("f", n_envs=n_envs, n=450 * n_envs)))
    replay = loops[0].replay
    batch = replay.gather(torch.arange(len(replay)), {}, {})
    found = batch.columns["return_to_go"].reshape(-1, n_envs)
    reward = batch.reward.reshape(-1, n_envs)
    for world in range(n_envs):
        for start in (0, 200):  # two episodes of 200 steps, and 50 of one that is running
            weight = 0.99 ** torch.arange(200)
            for t in (0, 57, 199):
                rest = reward[start + t : start + 200, world]
                exact = float((rest * weight[: 200 - t]).sum())
                assert float(found[start + t, world]) == pytest.approx(exact, rel=1e-4)
        assert (found[400:, world] == -math.inf).all()
    for env_step, column in seen.items():
        logged, lived = column.chunk(2)
        assert logged.isfinite().all()  # of the log, from the first step on
        assert lived.isfinite().any() == (env_step >= 200 * n_envs)


@pytest.mark.usefixtures("offline")
def test_a_memory_that_has_made_room_keeps_the_returns_of_the_rows_that_are_left():
    list(training.train(finetuned("f", replay_size=150, n=260)))
    found = checkpoints.newest(Path("f/seed_0"))
    assert found is not None
    replay = {k: v for k, v in found.tensors.items() if k.startswith("replay/")}
    column, reward = replay["replay/return_to_go"], replay["replay/reward"]
    rows = torch.arange(110, 260) % 150  # numbers of the transitions that are left
    kept, rest = column[rows], reward[rows]
    assert (kept[90:] == -math.inf).all()
    exact = (rest[:90] * 0.99 ** torch.arange(90)).sum()
    assert float(kept[0]) == pytest.approx(float(exact), rel=1e-4)


@pytest.mark.usefixtures("offline")
def test_stopped_while_an_episode_runs_it_ends_in_the_same_bits():
    list(training.train(finetuned("whole")))
    events = training.train(finetuned("stopped"))
    for _ in range(8):
        next(events)
    events.close()
    list(training.train(resolve(out="stopped", resume=True)))
    one, two = (checkpoints.newest(Path(out, "seed_0")) for out in ("whole", "stopped"))
    assert one is not None
    assert two is not None
    assert one.tensors.keys() == two.tensors.keys()
    assert all(torch.equal(one.tensors[k], two.tensors[k]) for k in one.tensors)


def test_from_scratch_it_acts_without_a_log():
    online = {**ONLINE, "mix": 0.0, "warmup": 10, "eval_every": 30}
    small = {"hidden_size": 8, "batch_size": 16}
    made = resolve("cal-ql", "CartPole-v1", 60, out="s", online=online, hyperparameters=small,
                   compile="off")  # fmt: skip
    list(training.train(made))
    assert read_result(Path("s"))["after"] is not None
