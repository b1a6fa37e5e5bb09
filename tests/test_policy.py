"""A policy takes raw observations and gives raw actions, whatever the spaces are made of."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from offrl import nn
from offrl.data.spec import Spec
from offrl.errors import ConfigError
from offrl.policy import Policy

BOX = gym.spaces.Box(-1, 1, (3,), np.float32)
SHIFTED = gym.spaces.Box(np.array([-2.0, 10.0]), np.array([2.0, 11.0]), dtype=np.float64)
NESTED = gym.spaces.Dict(
    {
        "place": gym.spaces.Discrete(4, start=2),
        "view": gym.spaces.Box(0, 255, (2, 2), np.uint8),
        "words": gym.spaces.Text(20),
    }
)
CHOICE = gym.spaces.Discrete(3, start=5)
GOOD = {"place": 2, "view": np.zeros((2, 2), np.uint8), "words": "a"}  # of NESTED


def policy_of(
    observations: gym.Space[Any], actions: gym.Space[Any], kind: str | None = None
) -> Policy:
    torch.manual_seed(3)
    spec = Spec(observations, actions)
    kind = kind or ("categorical" if spec.discrete else "gaussian")
    network = nn.policy_head(kind, spec.obs_dim, spec.action_dim, 16, 2)
    if not spec.discrete:
        low, high = torch.as_tensor(spec.action_low), torch.as_tensor(spec.action_high)
        nn.fit_statistics([network], {"action_low": low, "action_high": high})
    return Policy(spec, network)


def batch_of(space: gym.Space[Any], n: int) -> Any:
    space.seed(1)
    samples: list[Any] = [space.sample() for _ in range(n)]
    if isinstance(samples[0], dict):
        return {key: np.array([s[key] for s in samples]) for key in samples[0]}
    return np.array(samples)


def row(batch: Any, k: int) -> Any:
    if isinstance(batch, dict):
        return {key: value[k] for key, value in batch.items()}
    return batch[k]


SPACES = [(BOX, SHIFTED), (BOX, CHOICE), (NESTED, SHIFTED), (NESTED, CHOICE)]
STOCHASTIC = [(actions, kind) for actions, kinds in
              ((SHIFTED, ("gaussian", "squashed")), (CHOICE, ("categorical", "greedy")))
              for kind in kinds]  # fmt: skip


@pytest.mark.parametrize(("observations", "actions"), SPACES)
def test_one_observation_gives_an_action_of_the_space_and_a_batch_gives_as_many(
    observations: gym.Space[Any], actions: gym.Space[Any]
):
    policy, batch = policy_of(observations, actions), batch_of(observations, 6)
    together = policy.predict(batch)
    assert len(together) == 6
    for k in range(6):
        alone = policy.predict(row(batch, k))
        assert actions.contains(alone)
        np.testing.assert_allclose(together[k], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("actions", [SHIFTED, CHOICE])
def test_no_observations_give_no_actions_of_the_same_kind(actions: gym.Space[Any]):
    policy = policy_of(BOX, actions)
    none, some = policy.predict(np.zeros((0, 3))), policy.predict(np.zeros((2, 3)))
    assert (none.shape, none.dtype) == ((0, *some.shape[1:]), some.dtype)


def test_a_seed_is_as_good_as_a_generator():
    policy, batch = policy_of(BOX, SHIFTED), batch_of(BOX, 5)
    by_seed, by_generator = policy.sample(batch, 3), policy.sample(batch, np.random.default_rng(3))
    np.testing.assert_array_equal(by_seed[0], by_generator[0])


@pytest.mark.parametrize(("actions", "kind"), STOCHASTIC)
@pytest.mark.parametrize("observations", [BOX, NESTED])
def test_a_sample_has_the_log_probability_that_log_prob_gives_it(
    observations: gym.Space[Any], actions: gym.Space[Any], kind: str
):
    policy, batch = policy_of(observations, actions, kind), batch_of(observations, 40)
    action, log_prob = policy.sample(batch, np.random.default_rng(0))
    assert log_prob.shape == (40,)
    assert log_prob.dtype == np.float64
    np.testing.assert_allclose(policy.log_prob(batch, action), log_prob, rtol=1e-4, atol=1e-4)
    one, its = policy.sample(row(batch, 0), np.random.default_rng(0))
    assert actions.contains(one)
    assert isinstance(its, float)
    assert policy.log_prob(row(batch, 0), one) == pytest.approx(its, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("mean", [-30.0, -8.6, 0.0, 8.6, 30.0])
def test_a_squashed_policy_draws_its_bounds_as_often_as_it_says(mean: float):
    policy = policy_of(BOX, gym.spaces.Box(-1, 3, (1,), np.float32), "squashed")
    head: Any = policy.network
    head.net.head.weight.zero_()
    head.net.head.bias.copy_(torch.tensor([mean, 0.0]))
    action, log_prob = policy.sample(np.zeros((20_000, 3), np.float32), 0)
    assert np.isfinite(log_prob).all()
    for bound in (-1.0, 3.0):
        said = float(np.exp(policy.log_prob(np.zeros(3, np.float32), np.array([bound]))))
        assert float((action == bound).mean()) == pytest.approx(said, abs=0.012)


def test_a_greedy_policy_is_sure_of_its_action():
    policy, obs = policy_of(BOX, CHOICE, "greedy"), np.zeros(3, np.float32)
    best = policy.predict(obs)
    assert policy.sample(obs, 0) == (best, 0.0)
    assert [policy.log_prob(obs, a) for a in (5, 6, 7)] == [
        0.0 if a == best else -np.inf for a in (5, 6, 7)
    ]


def test_discrete_probabilities_add_up_over_the_actions_of_the_environment():
    policy, obs = policy_of(BOX, CHOICE), np.zeros(3, np.float32)
    assert policy.predict(obs) in (5, 6, 7)
    assert isinstance(policy.predict(obs), int)
    total = sum(np.exp(policy.log_prob(obs, action)) for action in (5, 6, 7))
    assert total == pytest.approx(1.0)
    with pytest.raises(ConfigError, match=r"outside 5 \.\. 7"):
        policy.log_prob(obs, 4)


def test_the_same_generator_draws_the_same_actions():
    policy, batch = policy_of(BOX, SHIFTED), batch_of(BOX, 8)
    one, two, other = (policy.sample(batch, np.random.default_rng(s))[0] for s in (4, 4, 5))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_samples_are_spread_as_the_density_says():
    policy, obs = policy_of(BOX, SHIFTED), np.zeros((20_000, 3), np.float32)
    action, log_prob = policy.sample(obs, np.random.default_rng(0))
    values, counts = np.unique(action[:, 0] >= 2.0, return_counts=True)
    at_bound = counts[values][0] / len(action) if values.any() else 0.0
    other = np.tile(policy.predict(np.zeros(3, np.float32)), (1, 1))
    other[0, 0] = 2.0
    said = np.exp(policy.log_prob(obs[:1], other)) / _density(policy, other[0, 1], dimension=1)
    assert at_bound == pytest.approx(float(said[0]), abs=0.01)
    assert np.isfinite(log_prob).all()


def _density(policy: Policy, value: float, dimension: int) -> float:
    pi = policy.network(torch.zeros(1, 3))
    normal = torch.distributions.Normal(pi.mean[0, dimension], pi.std[dimension])
    return float(normal.log_prob(torch.tensor(value)).exp())


def test_act_takes_and_gives_flat_rows():
    policy = policy_of(NESTED, CHOICE)
    batch = batch_of(NESTED, 5)
    flat = policy.spec.flatten_obs(batch)
    assert np.array_equal(policy.act(flat) + 5, policy.predict(batch))
    drawn = policy.act(flat, np.random.default_rng(0))
    assert drawn.shape == (5,)
    assert set(drawn) <= {0, 1, 2}


def test_a_deterministic_policy_acts_and_has_no_density():
    policy = policy_of(BOX, SHIFTED, "deterministic")
    obs = np.zeros(3, np.float32)
    assert SHIFTED.contains(policy.predict(obs))
    for ask in (
        lambda: policy.sample(obs),
        lambda: policy.log_prob(obs, policy.predict(obs)),
        lambda: policy.act(obs[None], np.random.default_rng(0)),
    ):
        with pytest.raises(ConfigError, match=r"deterministic policy has no density.*--head"):
            ask()


@pytest.mark.parametrize(
    ("space", "wrong", "said"),
    [
        (BOX, np.zeros(4), r"shape \(4,\)"),
        (BOX, np.zeros((2, 3, 3)), r"shape \(2, 3, 3\)"),
        (BOX, 1.0, r"shape \(\)"),
        (BOX, None, "The observation"),
        (NESTED, {"place": 2}, "'view' is missing"),
        (NESTED, {"view": np.zeros((2, 2), np.uint8)}, "'place' is missing"),
        (NESTED, {**GOOD, "place": 9}, "'place' holds a choice outside"),
        (NESTED, np.zeros(8), "is missing"),
        (
            NESTED,
            {"place": [2, 3], "view": np.zeros((3, 2, 2), np.uint8), "words": ["a", "b"]},
            r"'view' has the shape \(3, 2, 2\)",
        ),
    ],
)
def test_an_observation_that_does_not_fit_is_one_clear_error(
    space: gym.Space[Any], wrong: Any, said: str
):
    with pytest.raises(ConfigError, match=said) as caught:
        policy_of(space, CHOICE).predict(wrong)
    assert caught.value.remedy


@pytest.mark.parametrize("actions", [SHIFTED, CHOICE])
def test_actions_must_pair_with_observations(actions: gym.Space[Any]):
    policy, obs = policy_of(BOX, actions), batch_of(BOX, 4)
    for n in (1, 3, 5):
        with pytest.raises(ConfigError, match=r"4 observations and actions of the shape .* pair"):
            policy.log_prob(obs, batch_of(actions, n))
    with pytest.raises(ConfigError, match=r"do not pair|have the shape"):
        policy.log_prob(obs, actions.sample())


def test_the_action_of_a_box_has_its_shape_and_type():
    actions = gym.spaces.Box(-1, 1, (2, 3), np.float64)
    policy = policy_of(BOX, actions)
    assert policy.predict(np.zeros(3, np.float32)).shape == (2, 3)
    assert policy.predict(np.zeros((4, 3), np.float32)).shape == (4, 2, 3)
    assert policy.predict(np.zeros(3, np.float32)).dtype == np.float64
    assert np.isfinite(policy.log_prob(np.zeros(3, np.float32), np.zeros((2, 3))))


def test_a_policy_cannot_be_trained_by_accident():
    assert not any(p.requires_grad for p in policy_of(BOX, SHIFTED).network.parameters())
