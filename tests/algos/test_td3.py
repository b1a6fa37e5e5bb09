"""TD3's targets and schedule against numbers worked out by hand, and its named limit."""

from typing import Any

import pytest
import torch
from torch import Tensor

from offrl import losses
from offrl.algorithm import configure
from offrl.algos import get
from offrl.batch import Batch
from offrl.distributions import Deterministic
from offrl.errors import ConfigError
from offrl.learner import Learner
from offrl.testing import Trial, toy_dataset

TD3: Any = get("td3")
DDPG: Any = get("ddpg")


def numbers(*values: float):
    return torch.tensor(values, dtype=torch.float64)


ONE = numbers(1.0)
NOISE = numbers(3.0, -3.0, 0.1)


def shift(**changes: Any):
    """Target actions around 0.8 from the draws 3, -3 and 0.1, bounds -1 and 1."""
    given = {"noise": NOISE[:, None], "std": numbers(0.2), "limit": numbers(0.5)} | changes
    half = given.pop("half", 1.0)
    action = numbers(0.8, 0.8, 0.8)[:, None] * half
    return losses.smoothed(action, low=-half * ONE, high=half * ONE, **given).squeeze(-1)


def test_target_actions_are_smoothed_clipped_and_kept_in_bounds():
    assert torch.allclose(shift(), numbers(1.0, 0.3, 0.82), atol=1e-12, rtol=0)


def test_smoothing_is_in_units_of_the_half_range():
    assert torch.allclose(shift(half=2.0), 2 * numbers(1.0, 0.3, 0.82), atol=1e-12, rtol=0)


WRONG_SHIFTS = {
    "the noise is not clipped": {"limit": numbers(1e9)},
    "the limit is in standard deviations": {"limit": numbers(0.1)},
    "the noise is not scaled": {"std": numbers(1.0)},
    "no noise": {"std": numbers(0.0)},
    "the sign is turned": {"noise": -NOISE[:, None]},
}


@pytest.mark.parametrize("mistake", WRONG_SHIFTS)
def test_the_numbers_tell_a_wrong_smoothing(mistake: str):
    found = shift(**WRONG_SHIFTS[mistake])
    assert not torch.allclose(found, numbers(1.0, 0.3, 0.82), atol=1e-6, rtol=0)


def test_clipped_noise_has_the_spread_and_the_share_at_its_limit_worked_out():
    noise = torch.randn(1_000_000, 1, generator=torch.Generator().manual_seed(0)).double()
    far = 10 * ONE
    found = losses.smoothed(0 * noise, noise, ONE * 0.02, ONE * 0.05, -far, far)
    assert float(found.std()) == pytest.approx(0.1977432662, abs=1e-3)
    assert float((found.abs() >= 0.5 - 1e-12).double().mean()) == pytest.approx(0.01242, abs=4e-4)


class Nets:
    """Two target critics that say 3 and 4 of whatever they are asked."""

    def __init__(self, values: tuple[float, ...] = (3.0, 4.0)):
        self.values, self.asked = numbers(*values)[:, None], []

    def target_policy(self, obs: Tensor):
        return Deterministic(0.8 * torch.ones(len(obs), 1).double(), -ONE, ONE)

    def target_critic(self, obs: Tensor, action: Tensor, members: None = None):
        self.asked.append(action)
        return self.values.expand(-1, len(obs))

    def critic(self, obs: Tensor, action: Tensor):
        return torch.zeros(2, len(obs), dtype=torch.float64)

    def scalar(self, name: str):
        return {"smoothing": numbers(0.2), "smoothing_clip": numbers(0.5)}[name]


def algorithm(**changes: Any):
    return TD3(configure(TD3.Config, changes), toy_dataset(discrete=False).spec)


def batch(terminated: float = 0.0):
    """Three rows of reward 1."""
    obs, ones = torch.zeros(3, 1).double(), numbers(1, 1, 1)
    return Batch(
        obs, obs, ones, obs, terminated * ones, ones, {}, {"smoothing": NOISE[:, None]}
    )  # fmt: skip


def loss_of(target: float):
    """Both critics say 0, so the loss is twice the square of their common target."""
    return pytest.approx(2 * target**2, abs=1e-9)


def test_the_target_is_the_least_of_the_critics():
    nets = Nets()
    loss, metrics = algorithm().critic_loss(nets, batch())
    assert float(loss) == loss_of(3.97)
    assert float(metrics["critic/td_error"]) == pytest.approx(3.97)
    assert torch.allclose(nets.asked[0].squeeze(-1), numbers(1.0, 0.3, 0.82), atol=1e-12)


def test_the_target_of_a_terminated_row_is_its_reward():
    assert float(algorithm().critic_loss(Nets(), batch(1.0))[0]) == loss_of(1.0)


@pytest.mark.parametrize(
    "wrong", [pytest.param(4.465, id="mean"), pytest.param(4.96, id="max")]
)  # fmt: skip
def test_the_numbers_tell_another_choice_among_the_critics(wrong: float):
    assert float(algorithm().critic_loss(Nets(), batch())[0]) != loss_of(wrong)


def test_after_five_steps_the_policy_has_moved_twice_and_so_have_the_targets():
    trial: Any = Trial(TD3, discrete=False)
    modules, sampler, now = trial.begin()
    rate, learner = 0.005, Learner(modules, now.state)
    target = now.state["params"]["critic"]
    for step in range(5):
        before = learner.state["params"]
        learner, _ = trial.algorithm.update(learner, sampler[step], trial.algorithm.stage(step))
        after = learner.state["params"]
        moved = any(
            not torch.equal(before["policy"][k], after["policy"][k]) for k in after["policy"]
        )
        assert moved == (step in (1, 3))
        if moved:  # towards the critics as they are after their step
            target = {k: torch.lerp(target[k], after["critic"][k], rate) for k in target}
        for key, value in after["target_critic"].items():
            assert torch.allclose(value, target[key], atol=1e-12, rtol=0), (step, key)
    assert float(learner.count("policy")) == 2
    assert float(learner.count("critic")) == 5


def test_without_smoothing_and_delay_it_is_ddpg_with_two_critics():
    same = {"smoothing": 0.0, "policy_period": 1}
    one = Trial(TD3, discrete=False, settings=same).run(n=20).state["params"]
    other = Trial(DDPG, discrete=False, settings={"critics": 2}).run(n=20).state["params"]
    for network, params in one.items():
        for key, value in params.items():
            assert torch.equal(value, other[network][key]), (network, key)


@pytest.mark.parametrize("setting", [{"smoothing": 0.2}, {"policy_period": 2}, {"critics": 1}])
def test_with_either_it_is_not(setting: dict[str, Any]):
    changes = {"smoothing": 0.0, "policy_period": 1} | setting
    one = Trial(TD3, discrete=False, settings=changes).run(n=20).state["params"]["policy"]
    other = Trial(DDPG, discrete=False, settings={"critics": 2}).run(n=20).state["params"]["policy"]
    assert any(not torch.equal(value, other[key]) for key, value in one.items())


def test_the_policy_loss_moves_no_critic():
    trial: Any = Trial(TD3, discrete=False)
    modules, sampler, now = trial.begin()
    after, metrics = Learner(modules, now.state).descend(
        "policy", trial.algorithm.policy_loss, sampler[0]
    )
    assert float(metrics["policy/loss"]) == -float(metrics["policy/q_mean"])
    for key, value in after.state["params"]["critic"].items():
        assert torch.equal(value, now.state["params"]["critic"][key])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("smoothing", -0.1),
        ("smoothing_clip", -0.1),
        ("policy_period", 0),
        ("target_rate", 0.0),
        ("target_rate", 1.5),
        ("critics", 0),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(name: str, value: float):
    with pytest.raises(ConfigError, match=f"'{name}' must be"):
        configure(TD3.Config, {name: value})
