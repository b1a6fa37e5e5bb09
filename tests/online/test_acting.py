"""Acting in numpy in one world: the same actions and log-probabilities as torch gives."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offrl.data.spec import Spec
from offrl.nn import policy_head, set_precision
from offrl.online.acting import alone
from offrl.online.exploring import exploring

LOW, HIGH = np.array([-2, -1], np.float32), np.array([2, 3], np.float32)
SPEC = Spec(gymnasium.spaces.Box(-9, 9, (3,), np.float32), gymnasium.spaces.Box(LOW, HIGH))
HEADS = ("deterministic", "gaussian", "squashed")


def network(head: str, seed: int = 0, scale: float = 1.0) -> torch.nn.Module:
    """A policy whose outputs are `scale` times as large as those of a fresh one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = policy_head(head, 3, 2, 16, 2)
        statistics = {
            "action_low": torch.as_tensor(LOW),
            "action_high": torch.as_tensor(HIGH),
            "normalize.obs_mean": torch.randn(3),
            "normalize.obs_std": 0.5 + torch.rand(3),
        }
        found.load_state_dict(statistics, strict=False)
        with torch.no_grad():
            dict(found.named_parameters())["net.head.weight"].mul_(scale)
    return found


def state(policy: torch.nn.Module) -> dict[str, Any]:
    return {
        "params": {"policy": {name: p.detach() for name, p in policy.named_parameters()}},
        "buffers": {"policy": dict(policy.named_buffers())},
    }


@given(
    head=st.sampled_from(HEADS),
    seed=st.integers(0, 99),
    scale=st.sampled_from([0.1, 1.0, 3.0]),
    far=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_it_acts_as_torch_does_at_the_bounds_too(head: str, seed: int, scale: float, far: float):
    policy = network(head, seed, scale)
    draws = torch.Generator().manual_seed(seed)
    obs, noise = torch.randn(1, 3, generator=draws), far * torch.randn(1, 2, generator=draws)
    acts = alone(policy, SPEC, state(policy), 0.1)
    assert acts is not None
    action, log_prob = acts(state(policy)["params"]["policy"], obs[0].numpy(), noise[0].numpy())
    with torch.no_grad():
        pi = policy.double()(obs.double())
        expected = exploring(pi, 0.1, 0.0)
        assert action.dtype == np.float32
        assert np.allclose(action, expected.sample(noise.double())[0], atol=2e-5)
        scored = expected.log_prob(torch.as_tensor(action[None]))
        assert log_prob == pytest.approx(float(scored), rel=1e-3, abs=1e-3)


def test_it_acts_with_the_parameters_that_it_is_given():
    one, other = network("deterministic", 0), network("deterministic", 1)
    acts = alone(one, SPEC, state(one), 0.1)
    assert acts is not None
    obs, noise = np.ones(3, np.float32), np.zeros(2, np.float32)
    here, _ = acts(state(one)["params"]["policy"], obs, noise)
    there, _ = acts(state(other)["params"]["policy"], obs, noise)
    assert not np.allclose(here, there)


def test_what_only_torch_can_do_is_left_to_it():
    policy = network("deterministic")
    assert alone(policy, SPEC, state(policy), 0.0) is None  # no density without noise
    whole = Spec(SPEC.observation_space, gymnasium.spaces.Box(-3, 3, (2,), np.int32))
    assert alone(policy, whole, state(policy), 0.1) is None
    own = torch.nn.Linear(3, 2)
    assert alone(own, SPEC, state(own), 0.1) is None
    set_precision([policy], "bf16")
    assert alone(policy, SPEC, state(policy), 0.1) is None
