"""TD3+BC's policy loss against numbers worked out by hand, and its limits: BC and TD3."""

from typing import Any

import pytest
import torch
from torch import Tensor

from offrl.algorithm import configure
from offrl.algos import get
from offrl.batch import Batch
from offrl.distributions import Deterministic
from offrl.errors import ConfigError
from offrl.learner import Learner
from offrl.testing import Trial, toy_dataset

TD3BC: Any = get("td3-bc")
TD3: Any = get("td3")
BC: Any = get("bc")
Q = torch.tensor([2.0, -4.0], dtype=torch.float64)  # of the policy's actions in two rows
WEIGHT = 2.5 / 3
ONE = torch.ones(1, dtype=torch.float64)


class Nets:
    """A critic that is linear in the action, a policy that says 0.5, and says 2 and -4 of it."""

    def __init__(self, half: float = 1.0):
        self.action = torch.full((2, 1), 0.5 * half, dtype=torch.float64, requires_grad=True)
        self.half = half

    def policy(self, obs: Tensor):
        return Deterministic(self.action, -self.half * ONE, self.half * ONE)

    def critic(self, obs: Tensor, action: Tensor, members: int | None = None):
        assert members == 1
        return (Q + (action - action.detach()).squeeze(-1))[None]

    def scalar(self, name: str):
        return {"q_weight": torch.tensor(2.5, dtype=torch.float64)}[name]


def loss_and_gradient(nets: Nets, logged: float = 0.5):
    """The policy's loss and its gradient with respect to the two actions."""
    algorithm = TD3BC(configure(TD3BC.Config, {}), toy_dataset(discrete=False).spec)
    rows, empty = torch.zeros(2, 1).double(), torch.zeros(2).double()
    batch = Batch(rows, rows + logged, empty, rows, empty, empty, {}, {})
    loss, metrics = algorithm.policy_loss(nets, batch)
    (gradient,) = torch.autograd.grad(loss, nets.action)
    return float(loss.detach()), gradient.squeeze(-1), metrics


def test_the_critic_counts_in_units_of_its_mean_size_which_is_a_number():
    loss, gradient, _ = loss_and_gradient(Nets())
    assert loss == pytest.approx(0.8333333333333334, abs=1e-12)  # -2.5 / 3 * mean(2, -4)
    # Through a weight with a gradient these would be -0.28 and -0.97.
    assert torch.allclose(gradient, -WEIGHT * torch.tensor([0.5, 0.5]).double(), atol=1e-12)


@pytest.mark.parametrize(
    "wrong", [pytest.param(2.5, id="size of the mean"), pytest.param(-0.8333333, id="sign")]
)
def test_the_number_tells_a_wrong_weight(wrong: float):
    assert loss_and_gradient(Nets())[0] != pytest.approx(wrong, abs=1e-3)


def test_a_weight_that_carries_a_gradient_would_be_told():
    q = Q.clone().requires_grad_()
    (wrong,) = torch.autograd.grad(-2.5 * q.mean() / q.abs().mean(), q)
    _, gradient, _ = loss_and_gradient(Nets())
    assert not torch.allclose(gradient, wrong, atol=1e-3)


def test_the_distance_is_a_mean_of_squares_in_half_ranges():
    for half in (1.0, 10.0):
        loss, _, metrics = loss_and_gradient(Nets(half), logged=0.1 * half)
        assert loss == pytest.approx(0.8333333333333334 + 0.16)
        assert float(metrics["policy/action_distance"].detach()) == pytest.approx(0.4)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]):
    return all(torch.equal(value, other[key]) for key, value in one.items())


def test_without_weight_on_the_critic_it_is_behaviour_cloning_to_the_bit():
    settings = {"q_weight": 0.0, "policy_period": 1}
    ours = Trial(TD3BC, discrete=False, settings=settings).run(n=30).state["params"]["policy"]
    bc = Trial(BC, discrete=False, settings={"head": "deterministic"}).run(n=30)
    assert equal(ours, bc.state["params"]["policy"])
    settings["q_weight"] = 0.1
    other = Trial(TD3BC, discrete=False, settings=settings).run(n=30).state["params"]["policy"]
    assert not equal(other, ours)


def test_its_critics_take_the_first_step_of_td3s():
    both = [Trial(kind, discrete=False).run(n=1).state["params"] for kind in (TD3BC, TD3)]
    assert equal(both[0]["critic"], both[1]["critic"])


def test_a_large_weight_climbs_as_td3_does():
    def direction(kind: Any, **settings: Any):
        trial: Any = Trial(kind, discrete=False, settings=settings)
        modules, sampler, now = trial.begin()
        after, _ = Learner(modules, now.state).descend(
            "policy", trial.algorithm.policy_loss, sampler[0]
        )
        moments = after.state["adam"]["policy"]["m"]
        flat = torch.cat([m.flatten() for m in moments.values()])
        return flat / flat.norm()

    climb = direction(TD3)
    assert torch.allclose(direction(TD3BC, q_weight=1e9), climb, atol=1e-6)
    assert not torch.allclose(direction(TD3BC, q_weight=0.5), climb, atol=1e-2)


def test_a_weight_below_nothing_is_refused():
    with pytest.raises(ConfigError, match="'q_weight' must be"):
        configure(TD3BC.Config, {"q_weight": -1.0})


def test_the_peers_name_of_the_weight_is_answered_with_ours():
    with pytest.raises(ConfigError) as caught:
        configure(TD3BC.Config, {"alpha": 2.5})
    assert "q_weight" in caught.value.remedy
