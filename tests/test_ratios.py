"""Ratios against hand-worked numbers, and the mistakes that are made in them."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from offrl import losses, ratios


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


MU, PI = f64(0.5, 0.3, 0.2), f64(0.6, 0.3, 0.1)

# ratio, A, low, high: value and d value / d ratio of the naive clip, then of the minimum
CLIPS = [
    (0.5, 1, 0.2, 0.2, (0.8, 0), (0.5, 1)),
    (0.5, -1, 0.2, 0.2, (-0.8, 0), (-0.8, 0)),
    (1.5, 1, 0.2, 0.2, (1.2, 0), (1.2, 0)),
    (1.5, -1, 0.2, 0.2, (-1.2, 0), (-1.5, -1)),
    (1.25, 1, 0.2, 0.28, (1.25, 1), (1.25, 1)),
    (1.25, 1, 0.2, 0.2, (1.2, 0), (1.2, 0)),
    (1.25, -1, 0.2, 0.28, (-1.25, -1), (-1.25, -1)),
    (0.85, -1, 0.1, 0.2, (-0.9, 0), (-0.9, 0)),
    (0.85, -1, 0.2, 0.2, (-0.85, -1), (-0.85, -1)),
    (1.0, 1, 0.2, 0.2, (1.0, 1), (1.0, 1)),
    (1.0, -1, 0.2, 0.2, (-1.0, -1), (-1.0, -1)),
]


def value_and_slopes(
    function: Any, ratio: float, advantage: float, *ends: float
) -> tuple[float, float, float]:
    """Value, d value / d ratio and d value / d log pi, as an algorithm computes the ratio."""
    log_prob = f64(math.log(ratio)).requires_grad_()
    rho = ratios.log_ratio(log_prob, f64(0.0)).exp()
    value = function(rho, f64(advantage), *ends).sum()
    by_ratio, by_log = torch.autograd.grad(value, (rho, log_prob), allow_unused=False)
    return float(value.detach()), float(by_ratio), float(by_log)


def right(function: Any, which: int) -> bool:
    """Whether a clip has all the values and slopes that were worked out by hand."""
    for ratio, advantage, low, high, *expected in CLIPS:
        try:
            found = value_and_slopes(function, ratio, advantage, low, high)
        except RuntimeError:  # no gradient at all
            return False
        value, slope = expected[which]
        if not all(map(math.isclose, found, (value, slope, slope * ratio))):
            return False
    return True


def test_the_naive_clip_has_no_slope_out_of_range_whatever_the_sign_of_the_advantage():
    assert right(ratios.naive_clip, 0)


def test_the_minimum_keeps_the_slope_of_good_actions_gone_rare_and_bad_ones_gone_common():
    assert right(ratios.min_clip, 1)


WRONG_CLIPS = {
    "maximum for minimum": lambda r, a, low, high: torch.maximum(
        r * a, ratios.naive_clip(r, a, low, high)
    ),
    "the naive clip": ratios.naive_clip,
    "a loss for an objective": lambda r, a, low, high: -ratios.min_clip(r, a, low, high),
    "low and high swapped": lambda r, a, low, high: ratios.min_clip(r, a, high, low),
    "the log ratio clipped": lambda r, a, low, high: torch.minimum(
        r * a, r.log().clamp(-low, high).exp() * a
    ),
    "the ratio detached": lambda r, a, low, high: ratios.min_clip(r.detach(), a, low, high),
    "no clip": lambda r, a, low, high: r * a,
}


@pytest.mark.parametrize("mistake", WRONG_CLIPS)
def test_the_numbers_tell_a_wrong_clip(mistake: str):
    assert not right(WRONG_CLIPS[mistake], 1)


@pytest.mark.parametrize(("ratio", "value", "slope"), [(2.0, -2, -1), (5.0, -3, 0)])
def test_the_dual_clip_bounds_what_a_likely_bad_action_costs(
    ratio: float, value: float, slope: float
):
    def dual(r: Tensor, a: Tensor) -> Tensor:
        return ratios.dual_clip(ratios.min_clip(r, a, 0.2, 0.2), a, 3.0)

    assert value_and_slopes(dual, ratio, -1) == pytest.approx((value, slope, slope * ratio))
    assert value_and_slopes(dual, ratio, 1)[:2] == pytest.approx((1.2, 0))  # a good one as before


@given(st.floats(0.01, 50), st.floats(-5, 5))
def test_an_infinite_clip_is_the_plain_ratio(ratio: float, advantage: float):
    r, a = f64(ratio), f64(advantage)
    for clip in (ratios.naive_clip, ratios.min_clip):
        assert torch.equal(clip(r, a, math.inf, math.inf), r * a)


@given(st.floats(0.01, 50), st.floats(-5, 5), st.floats(0, 1), st.floats(0, 1))
def test_the_minimum_is_never_above_the_plain_ratio(
    ratio: float, advantage: float, low: float, high: float
):
    r, a = f64(ratio), f64(advantage)
    assert float(ratios.min_clip(r, a, low, high)) <= ratio * advantage


def test_clipped_shares_are_of_the_rows_of_that_sign():
    ratio, advantage = f64(0.5, 1, 1.5, 0.5, 1.5, 1.5), f64(1, 1, 1, -1, -1, 0)
    found = ratios.clipped_shares(ratio, advantage, 0.2, 0.2)
    third, half = pytest.approx(1 / 3), 0.5
    shares = {name: float(share) for name, share in found.items()}
    assert shares == {
        "good_above": third,
        "good_below": third,
        "bad_above": half,
        "bad_below": half,
    }
    none = ratios.clipped_shares(ratio, torch.zeros(6), 0.2, 0.2)
    assert all(float(share) == 0 for share in none.values())


FORWARD, REVERSE = 0.0474686577, 0.0400782160  # KL(mu || pi) and KL(pi || mu)


def under_mu(function: Any, logits: Tensor | None = None) -> Tensor:
    log_pi = PI.log() if logits is None else torch.log_softmax(logits, -1)
    return (MU * function(ratios.log_ratio(log_pi, MU.log()))).sum()


def test_the_estimators_have_the_divergences_as_their_means():
    assert float(under_mu(ratios.kl_k1)) == pytest.approx(FORWARD, abs=1e-9)
    assert float(under_mu(ratios.kl_forward)) == pytest.approx(FORWARD, abs=1e-9)
    assert float(under_mu(ratios.kl_reverse)) == pytest.approx(REVERSE, abs=1e-9)
    assert float(ratios.kl_categorical(MU.log(), PI.log())) == pytest.approx(FORWARD, abs=1e-9)
    assert float(ratios.kl_categorical(PI.log(), MU.log())) == pytest.approx(REVERSE, abs=1e-9)


@pytest.mark.parametrize("function", [ratios.kl_k1, ratios.kl_forward])
def test_the_gradient_of_either_estimator_is_that_of_the_divergence(function: Any):
    logits = PI.log().requires_grad_()
    (found,) = torch.autograd.grad(under_mu(function, logits), logits)
    assert torch.allclose(found, f64(0.1, 0, -0.1), atol=1e-9)


WRONG_FORWARD = {
    "k2": (lambda x: 0.5 * x.square(), 0.0563555889),
    "the reverse": (ratios.kl_reverse, REVERSE),
    "the sign": (lambda x: x, -FORWARD),
    "k3 of the inverse ratio": (lambda x: ratios.kl_forward(-x), None),
}


@pytest.mark.parametrize("mistake", WRONG_FORWARD)
def test_the_numbers_tell_a_wrong_estimator(mistake: str):
    function, known = WRONG_FORWARD[mistake]
    found = float(under_mu(function))
    assert found != pytest.approx(FORWARD, abs=1e-3)
    assert known is None or found == pytest.approx(known, abs=1e-9)


@pytest.mark.parametrize("mistake", [lambda x: 0.5 * x.square(), lambda x: x.exp() * x])
def test_the_gradient_tells_a_wrong_estimator(mistake: Any):
    logits = PI.log().requires_grad_()
    (found,) = torch.autograd.grad(under_mu(mistake, logits), logits)
    assert not torch.allclose(found, f64(0.1, 0, -0.1), atol=1e-3)


@given(st.floats(-20, 20))
def test_estimators_with_a_control_variate_are_never_negative(x: float):
    assert float(ratios.kl_forward(f64(x))) >= 0
    assert float(ratios.kl_reverse(f64(x))) >= -1e-6 * math.exp(max(x, 0))


def test_divergences_of_gaussians_are_the_closed_form():
    mu, pi = (f64(0.0)[None], f64(1.0)), (f64(0.5)[None], f64(0.8))
    assert float(ratios.kl_gaussian(*mu, *pi)) == pytest.approx(0.2534189487, abs=1e-9)
    assert float(ratios.kl_gaussian(*pi, *mu)) == pytest.approx(0.1681435513, abs=1e-9)
    both = ratios.kl_gaussian(f64(0, 0)[None], f64(1, 1), f64(0.5, 0)[None], f64(0.8, 1))
    assert float(both) == pytest.approx(0.2534189487, abs=1e-9)  # dimensions add up


def normal(mean: float, std: float) -> torch.distributions.Normal:
    return torch.distributions.Normal(f64(mean), f64(std))


def gaussian_ratios() -> tuple[Tensor, Tensor]:
    """A fine grid under mu = N(0, 1): weights, and log ratios of N(.5, .8)."""
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    mu, pi = normal(0.0, 1.0).log_prob(x), normal(0.5, 0.8).log_prob(x)
    return mu.exp() * (x[1] - x[0]), pi - mu


def test_the_mean_ratio_of_any_policy_is_one_and_its_square_gives_the_effective_share():
    weight, log_ratio = gaussian_ratios()
    ratio = log_ratio.exp()
    assert float((weight * ratio).sum()) == pytest.approx(1, abs=1e-9)
    assert float((weight * ratio**2).sum()) == pytest.approx(1.2881727365, abs=1e-9)
    assert float((weight * ratios.kl_forward(log_ratio)).sum()) == pytest.approx(0.2534189487)
    assert float((weight * ratios.kl_reverse(log_ratio)).sum()) == pytest.approx(0.1681435513)


def test_the_effective_share_of_many_draws_comes_near_its_limit():
    x = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ratio = ratios.log_ratio(normal(0.5, 0.8).log_prob(x), normal(0.0, 1.0).log_prob(x)).exp()
    assert float(losses.effective_share(ratio)) == pytest.approx(1 / 1.2881727365, abs=3e-3)


@pytest.mark.parametrize(("divergence", "factor"), [(0.02, 2), (0.006, 0.5), (0.01, 1)])
def test_the_coefficient_doubles_halves_or_stays(divergence: float, factor: float):
    assert float(ratios.adapted(f64(1.0), f64(divergence), 0.01)) == factor


def test_a_log_ratio_stays_where_its_square_is_a_number_and_has_no_slope_beyond():
    log_prob = torch.tensor([-500.0, 0.0, 500.0], requires_grad=True)
    found = ratios.log_ratio(log_prob, torch.zeros(3))
    assert found.tolist() == [-20, 0, 20]
    assert bool(found.exp().square().isfinite().all())
    found.sum().backward()
    assert log_prob.grad is not None
    assert log_prob.grad.tolist() == [0, 1, 0]
