"""AWR against its closed form, its limits, an obvious loop, and the ways to get it wrong."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from offrl import losses
from offrl.algorithm import configure, start
from offrl.algos import get
from offrl.batch import Batch, Table
from offrl.data.dataset import Dataset
from offrl.distributions import Categorical
from offrl.errors import ConfigError
from offrl.learner import Learner
from offrl.testing import Trial, toy_dataset

AWR: Any = get("awr")
BC: Any = get("bc")

# One state, three actions: mu = .5, .3, .2 as exact counts, advantages 1, 0, -1.
ACTION = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
ADVANTAGE = (1.0 - ACTION).double()
PI_STAR = [0.9186723059, 0.0745972660, 0.0067304281]  # temperature .5, no cap
CAPPED = [0.8843087022, 0.1061170443, 0.0095742535]  # temperature .5, cap 5
STANDARDISED = [0.8349615332, 0.1392389097, 0.0257995571]  # (A - .3) / .781025, temperature 1
OBS = torch.zeros(100, 1)


class Table3(torch.nn.Module):
    """A softmax over three actions, with nothing to look at."""

    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def forward(self, obs: Tensor):
        return Categorical(torch.log_softmax(self.logits, -1).expand(len(obs), 3))


def tabular(**changes: Any) -> Any:
    space = gym.spaces.Discrete(3)
    data = Dataset.from_arrays(
        np.zeros((4, 1), np.float32),
        np.zeros(3, np.int64),
        np.zeros(3),
        np.array([False, False, True]),
        np.zeros(3, bool),
        action_space=space,
    )
    return AWR(configure(AWR.Config, {"adv_norm": "none", "weight_cap": 1e9} | changes), data.spec)


def minimiser(loss: Any):
    """The action probabilities at which `loss(policy)` is smallest, by L-BFGS."""
    table = Table3()
    optimizer = torch.optim.LBFGS(
        table.parameters(),
        max_iter=500,
        tolerance_grad=1e-13,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        value = loss(table)
        value.backward()
        return value

    optimizer.step(closure)
    return torch.softmax(table.logits.detach(), -1)


class Nets:
    def __init__(self, policy: Any, config: Any):
        self.policy, self._config = policy, config

    def scalar(self, name: str):
        return torch.tensor(getattr(self._config, name), dtype=torch.float64)


def fixed_point(advantage: Tensor = ADVANTAGE, **changes: Any):
    algorithm = tabular(**changes)
    empty = torch.zeros(100)
    batch = Batch(OBS, ACTION, empty, OBS, empty, empty, {"advantage": advantage}, {})
    return minimiser(lambda policy: algorithm.policy_loss(Nets(policy, algorithm.config), batch)[0])


def close(found: Tensor, expected: list[float]):
    return torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


def test_the_fixed_point_on_exact_counts_is_the_tilted_behaviour():
    assert close(fixed_point(temperature=0.5), PI_STAR)


def test_adding_a_constant_to_the_advantage_changes_nothing():
    assert close(fixed_point(ADVANTAGE + 7, temperature=0.5), PI_STAR)


def test_a_cap_on_the_weight_moves_the_fixed_point_as_worked_out():
    assert close(fixed_point(temperature=0.5, weight_cap=5.0), CAPPED)


def test_standardised_advantages_make_the_temperature_free_of_units():
    for scale in (1.0, 100.0):
        advantage = losses.standardise(scale * ADVANTAGE)
        assert torch.allclose(
            fixed_point(advantage, temperature=1.0), torch.tensor(STANDARDISED).double(), atol=2e-5
        )


def test_infinite_temperature_gives_the_behaviour_itself():
    assert close(fixed_point(temperature=math.inf), [0.5, 0.3, 0.2])


MISTAKES = {
    "temperature multiplied": lambda a, p, mu: -(a * 0.5).exp() * p.log_prob(ACTION),
    "weighted by mu once more": lambda a, p, mu: -mu * (a / 0.5).exp() * p.log_prob(ACTION),
    "advantage for its exponential": lambda a, p, mu: -(a / 0.5).clamp(min=0) * p.log_prob(ACTION),
    "unweighted": lambda a, p, mu: -p.log_prob(ACTION),
    "the gradient flows into the weight": lambda a, p, mu: (
        -((a + p.log_prob(ACTION)) / 0.5).exp() * p.log_prob(ACTION)
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_loss_has_another_fixed_point(mistake: Any):
    mu = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)[ACTION]
    found = minimiser(lambda policy: MISTAKES[mistake](ADVANTAGE, policy(OBS), mu).mean())
    assert not close(found, PI_STAR)


def test_metrics_say_how_many_weights_are_capped_and_how_few_rows_count():
    algorithm = tabular(temperature=0.5, weight_cap=5.0)
    empty = torch.zeros(100)
    batch = Batch(OBS, ACTION, empty, OBS, empty, empty, {"advantage": ADVANTAGE}, {})
    metrics = algorithm.policy_loss(Nets(Table3(), algorithm.config), batch)[1]
    assert float(metrics["policy/weight_capped"]) == 0.5
    assert float(metrics["policy/weight_max"]) == pytest.approx(5.0)
    weight = torch.tensor([5.0] * 50 + [1.0] * 30 + [math.exp(-2)] * 20)
    ess = weight.sum() ** 2 / (100 * (weight**2).sum())
    assert float(metrics["policy/weight_ess"]) == pytest.approx(float(ess), rel=1e-5)
    assert float(metrics["policy/advantage_mean"]) == pytest.approx(0.3)
    assert float(metrics["policy/entropy"].detach()) == pytest.approx(math.log(3))


@pytest.mark.parametrize("space", ["box", "discrete"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_awr_at_infinite_temperature_is_bc(space: str, dtype: torch.dtype):
    gradients = []
    for algorithm, changes in ((AWR, {"temperature": math.inf}), (BC, {})):
        trial: Any = Trial(algorithm, discrete=space == "discrete", settings=changes, dtype=dtype)
        modules, sampler, now = trial.begin()
        batch = trial.batch(modules, sampler, now)
        after, metrics = Learner(modules, now.state).descend(
            "policy", trial.algorithm.policy_loss, batch
        )
        moments = after.state["adam"]["policy"]["m"]
        gradients.append((moments, after.state["params"]["policy"], metrics["policy/loss"]))
    (one, params, loss), (other, others, its_loss) = gradients
    assert torch.equal(loss, its_loss)
    for key in one:
        assert torch.equal(one[key], other[key]), key
        assert torch.equal(params[key], others[key]), key


def test_no_gradient_of_the_policy_loss_reaches_the_value_function():
    trial = Trial(AWR, discrete=False)
    modules, sampler, now = trial.begin()
    batch = trial.batch(modules, sampler, now)
    assert not batch.columns["advantage"].requires_grad
    after, _ = trial.algorithm.update(Learner(modules, now.state), batch, "policy")
    for key, tensor in after.state["params"]["value"].items():
        assert torch.equal(tensor, now.state["params"]["value"][key])


EPISODES = st.lists(
    st.tuples(
        st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.booleans(), st.integers(0, 2**31)
    ),
    min_size=1,
    max_size=5,
)


def dataset_of(episodes: list[tuple[list[float], bool, int]]):
    rewards = [r for r, _, _ in episodes]
    ends = np.concatenate([np.arange(len(r)) == len(r) - 1 for r in rewards])
    terminal = np.concatenate([np.full(len(r), stop) for r, stop, _ in episodes])
    obs = np.concatenate(
        [np.random.default_rng(seed).normal(size=(len(r) + 1, 2)) for r, _, seed in episodes]
    )
    return Dataset.from_arrays(
        obs.astype(np.float32),
        np.zeros(len(ends), np.int64),
        np.concatenate(rewards),
        ends & terminal,
        ends & ~terminal,
        action_space=gym.spaces.Discrete(2),
    )


@given(EPISODES, st.sampled_from([0.0, 0.5, 0.95, 1.0]), st.sampled_from([0, 3]))
@settings(max_examples=40)
def test_columns_are_those_of_an_obvious_loop_over_each_episode(
    episodes: list[tuple[list[float], bool, int]], td_lambda: float, step: int
):
    config = configure(
        AWR.Config, {"td_lambda": td_lambda, "adv_norm": "none", "discount": 0.9, "hidden_size": 8}
    )
    data = dataset_of(episodes)
    algorithm = AWR(config, data.spec)
    table = Table.of(data.transitions, dtype=torch.float64)
    modules, state = start(algorithm, table, 0)
    learner = Learner(modules, state)
    found = algorithm.columns(learner, table, step)
    effective = 1.0 if step == 0 else td_lambda  # the first targets are Monte-Carlo
    target, advantage = [], []
    for episode in data:
        value = learner.nets.value(torch.as_tensor(episode.observations).double()).tolist()
        end = 0.0 if episode.terminations[-1] else value[-1]
        nexts = [*value[1:-1], end]
        ahead, back = end, []
        for t in reversed(range(len(episode))):
            ahead = episode.rewards[t] + 0.9 * ((1 - effective) * nexts[t] + effective * ahead)
            back.append(ahead)
        target += reversed(back)
        advantage += [r - v for r, v in zip(reversed(back), value, strict=False)]
    assert torch.allclose(found["value_target"], torch.tensor(target).double(), atol=1e-9)
    assert torch.allclose(found["advantage"], torch.tensor(advantage).double(), atol=1e-9)


def test_a_time_limit_is_not_an_end():
    data = toy_dataset(discrete=True)
    algorithm = AWR(configure(AWR.Config, {"hidden_size": 8}), data.spec)
    table = Table.of(data.transitions, dtype=torch.float64)
    modules, state = start(algorithm, table, 0)
    learner = Learner(modules, state)
    before = algorithm.columns(learner, table, 1)["value_target"]
    cut = int(table.starts[2]) - 1  # the last row of episode 1, which a time limit ended
    assert float(table.terminated[cut]) == 0
    object.__setattr__(table, "terminated", table.terminated.clone())
    table.terminated[cut] = 1
    moved = algorithm.columns(learner, table, 1)["value_target"] - before
    final = learner.nets.value(table.observations[table.obs_row[cut] + 1][None])
    assert float(moved[cut]) == pytest.approx(-0.99 * float(final))
    rows = torch.nonzero(moved).flatten().tolist()
    assert rows == list(range(int(table.starts[1]), cut + 1))  # its own episode and no other


def test_standardised_columns_have_mean_zero_and_spread_one_over_all_rows():
    trial = Trial(AWR, discrete=False, settings={"adv_norm": "std"})
    modules, _, now = trial.begin()
    advantage = trial.algorithm.columns(Learner(modules, now.state), trial.table, 0)["advantage"]
    assert float(advantage.mean()) == pytest.approx(0, abs=1e-9)
    assert float(advantage.std(correction=0)) == pytest.approx(1, abs=1e-4)


def schedule(value_steps: int, value_refits: int, policy_steps: int):
    config = {
        "value_steps": value_steps,
        "value_refits": value_refits,
        "policy_steps": policy_steps,
    }
    return AWR(configure(AWR.Config, config), toy_dataset(discrete=True).spec)


def test_a_pass_fits_the_value_function_first_and_the_policy_after():
    algorithm = schedule(10, 3, 5)
    stages = "".join(algorithm.stage(step)[0] for step in range(30))
    assert stages == "vvvvvvvvvvppppp" * 2
    assert [step for step in range(30) if algorithm.refreshes(step)] == [
        0,
        3,
        6,
        10,
        15,
        18,
        21,
        25,
    ]


@given(st.integers(1, 60), st.data())
def test_the_value_targets_are_recomputed_as_often_as_asked_and_once_for_the_policy(
    steps: int, data: Any
):
    refits = data.draw(st.integers(1, steps))
    algorithm = schedule(steps, refits, 7)
    found = [step for step in range(steps + 7) if algorithm.refreshes(step)]
    assert found == [steps * k // refits for k in range(refits + 1)]


def test_the_policy_has_moved_after_the_least_number_of_steps_and_not_before():
    trial = Trial(AWR, discrete=True)
    least = trial.algorithm.least_steps()
    _, _, begin = trial.begin()
    first = begin.state["params"]["policy"]
    for n, moves in ((least - 1, False), (least, True)):
        policy = trial.run(n=n).state["params"]["policy"]
        assert any(not torch.equal(first[k], policy[k]) for k in first) == moves


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.0),
        ("temperature", -1.0),
        ("temperature", math.nan),
        ("weight_cap", 0.0),
        ("td_lambda", 1.1),
        ("value_refits", 0),
        ("value_refits", 2000),
        ("policy_steps", 0),
        ("value_steps", 0),
        ("discount", 1.5),
        ("lr", 0.0),
        ("lr", math.nan),
        ("batch_size", 0),
        ("hidden_size", 0),
        ("hidden_layers", -1),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(name: str, value: float):
    with pytest.raises(ConfigError, match=f"'{name}' must be|'value_refits' must be"):
        configure(AWR.Config, {name: value})
