"""Policy heads: probabilities that add up to one, bounds, statistics, and where bfloat16 goes."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import Tensor

from offrl import nn
from offrl.errors import ConfigError

ONE = torch.ones(1, dtype=torch.float64)


def gaussian(mean: float, std: float, low: float = -1.0, high: float = 1.0):
    return nn.Gaussian(
        torch.tensor([[mean]], dtype=torch.float64), std * ONE, low * ONE, high * ONE
    )


CASES = [
    (0.0, 0.3, -1, 1),
    (0.9, 0.5, -1, 1),
    (-3.0, 1.0, -2, 5),
    (0.2, 1e-2, -1, 1),
    (4, 3, -2, 2),
]


@pytest.mark.parametrize(("mean", "std", "low", "high"), CASES)
def test_density_inside_and_the_masses_at_the_bounds_add_up_to_one(
    mean: float, std: float, low: float, high: float
):
    pi = gaussian(mean, std, low, high)

    def probability(action: float):
        return float(pi.log_prob(torch.tensor([[action]], dtype=torch.float64)).exp())

    near = [min(max(mean + k * std, low), high) for k in (-6, -1, 0, 1, 6)]
    inside, _ = integrate.quad(
        probability, low + 1e-12, high - 1e-12, points=near, limit=400, epsabs=1e-11
    )
    assert inside + probability(low) + probability(high) == pytest.approx(1.0, abs=1e-8)


def test_a_head_that_forgets_censoring_does_not_add_up_to_one():
    pi = gaussian(0.9, 0.5)
    grid = torch.linspace(-1, 1, 20_001, dtype=torch.float64)[:, None]
    inside = torch.trapezoid(pi.log_density(grid).exp(), grid[:, 0])
    ends = pi.log_density(torch.tensor([[-1.0], [1.0]], dtype=torch.float64)).exp().sum()
    assert abs(float(inside) - 1) > 0.1
    assert abs(float(inside + ends) - 1) > 0.1


def test_the_log_probability_far_in_a_tail_is_finite():
    pi = gaussian(1.0, 1e-2)
    log_prob = float(pi.log_prob(torch.tensor([[-1.0]], dtype=torch.float64)))
    assert -21_000 < log_prob < -19_000  # 200 standard deviations


def test_dimensions_are_independent():
    mean = torch.tensor([[0.1, -0.4]], dtype=torch.float64)
    std, low, high = (
        torch.tensor([0.5, 0.2]).double(),
        -torch.ones(2).double(),
        torch.ones(2).double(),
    )
    action = torch.tensor([[1.0, -0.3]], dtype=torch.float64)
    both = nn.Gaussian(mean, std, low, high).log_prob(action)
    apart = [
        nn.Gaussian(mean[:, k : k + 1], std[k : k + 1], low[:1], high[:1]).log_prob(
            action[:, k : k + 1]
        )
        for k in range(2)
    ]
    assert torch.allclose(both, apart[0] + apart[1])


def test_samples_reach_bounds_as_often_as_their_log_probability_says():
    pi = gaussian(0.6, 0.5)
    noise = torch.as_tensor(np.random.default_rng(0).standard_normal((200_000, 1)))
    action = pi.sample(noise)
    assert float(action.min()) >= -1
    assert float(action.max()) <= 1
    at_high = float((action == 1).double().mean())
    said = float(pi.log_prob(torch.tensor([[1.0]], dtype=torch.float64)).exp())
    assert at_high == pytest.approx(said, abs=5 * math.sqrt(said / 200_000))
    inside = action[(action > -1) & (action < 1)]
    below = float((inside < 0.6).double().mean()) * len(inside) / len(action)
    expected = 0.5 - float(pi.log_prob(torch.tensor([[-1.0]], dtype=torch.float64)).exp())
    assert below == pytest.approx(expected, abs=0.005)


def test_entropy_is_the_mean_negative_log_density_before_clipping():
    pi = gaussian(0.3, 0.7)
    noise = torch.as_tensor(np.random.default_rng(1).standard_normal((400_000, 1)))
    sampled = -pi.log_density(pi.mean + pi.std * noise).mean()
    assert float(pi.entropy()) == pytest.approx(1.0622635893, abs=1e-9)
    assert float(sampled) == pytest.approx(float(pi.entropy()), abs=0.005)


def test_entropy_of_a_batch_is_that_of_a_row():
    row = nn.Gaussian(torch.zeros(4, 2), torch.tensor([0.5, 0.2]), -torch.ones(2), torch.ones(2))
    rows = row._replace(std=row.std.expand(4, 2))
    assert float(row.entropy()) == pytest.approx(float(rows.entropy()))


def squashed(mean: float, std: float, low: float = -1.0, high: float = 1.0):
    return nn.Squashed(mean * ONE[None], math.log(std) * ONE[None], low * ONE, high * ONE)


def density(pi: nn.Squashed, u: float):
    """The log density of the action whose inverse tanh is u."""
    half, middle = (pi.high - pi.low) / 2, (pi.high + pi.low) / 2
    return float(pi.log_prob((middle + half * math.tanh(u))[None]))


def test_a_squashed_density_is_the_one_worked_out():
    assert density(squashed(0.3, 0.7), 0.5) == pytest.approx(-0.3628509019, abs=1e-9)
    assert density(squashed(0.3, 0.7, -2, 2), 0.5) == pytest.approx(-1.0559980824, abs=1e-9)
    for pi in (squashed(0.3, 0.7), squashed(0.3, 0.7, -2, 2)):
        noise = torch.tensor([[(0.5 - 0.3) / 0.7]], dtype=torch.float64)
        action, log_density = pi.scored_sample(noise)
        assert float(action) == pytest.approx(float(pi.high) * 0.4621171573, abs=1e-9)
        assert float(log_density) == pytest.approx(density(pi, 0.5), abs=1e-9)
        assert float(pi.log_density(action)) == pytest.approx(density(pi, 0.5), abs=1e-9)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(-0.6030799158, id="without the slope of the tanh"),
        pytest.param(-0.6030799158 - 0.2402290139, id="the slope added"),
        pytest.param(-0.3628509019 + math.log(2), id="half range turned round"),
    ],
)
def test_the_number_tells_a_wrong_squashed_density(wrong: float):
    assert density(squashed(0.3, 0.7), 0.5) != pytest.approx(wrong, abs=1e-3)
    assert density(squashed(0.3, 0.7, -2, 2), 0.5) != pytest.approx(wrong, abs=1e-3)


def test_the_slope_of_the_tanh_is_exact_far_out():
    pi = squashed(20.0, 1.0)
    _, log_density = pi.scored_sample(torch.zeros(1, 1, dtype=torch.float64))
    slope = -0.5 * math.log(2 * math.pi) - float(log_density)
    assert slope == pytest.approx(-38.6137056389, abs=1e-9)  # with 1e-6 inside the log: -13.8


def test_the_mode_of_a_squashed_policy_is_not_its_mean():
    pi, noise = squashed(0.3, 0.7), torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None]
    weight = (-0.5 * noise.square()).exp() / math.sqrt(2 * math.pi)
    mean = torch.trapezoid((pi.sample(noise) * weight)[:, 0], noise[:, 0])
    assert float(pi.mode()) == pytest.approx(0.2913126125, abs=1e-9)
    assert float(mean) == pytest.approx(0.2159522428, abs=1e-8)


@pytest.mark.parametrize(("mean", "std"), [(0.3, 0.7), (-4.0, 2.0), (9.0, 1.0), (30.0, 3.0)])
def test_a_squashed_density_and_the_masses_at_its_bounds_add_up_to_one(mean: float, std: float):
    pi = squashed(mean, std, -1.0, 3.0)
    # Between these, halfway to the next number, a float32 is not rounded to a bound.
    ends = [(b + float(np.nextafter(np.float32(b), np.float32(1)))) / 2 for b in (-1.0, 3.0)]
    first, last = (0.5 * math.log((x + 1) / (3 - x)) for x in ends)
    u = torch.linspace(first, last, 200_001, dtype=torch.float64)[:, None]
    logistic = torch.sigmoid(2 * u)
    slope = 8 * logistic * (1 - logistic)
    inside = torch.trapezoid(pi.log_prob(-1 + 4 * logistic).exp() * slope[:, 0], u[:, 0])
    masses = pi.log_prob(torch.tensor([[-1.0], [3.0]], dtype=torch.float32)).exp()
    assert float(inside + masses.sum()) == pytest.approx(1.0, abs=1e-6)
    assert float(masses.sum()) == pytest.approx(1.0 - float(inside), abs=1e-6)


def test_a_squashed_density_at_a_bound_is_finite():
    pi = squashed(0.3, 0.7)
    for bound in (-1.0, 1.0):
        at = torch.tensor([[bound]], dtype=torch.float64)
        assert -1000 < float(pi.log_density(at)) < 0
        assert math.isfinite(float(pi.log_prob(at)))


def test_a_categorical_is_drawn_as_often_as_it_says():
    probabilities = torch.tensor([[0.5, 0.0, 0.3, 0.2]], dtype=torch.float64)
    pi = nn.Categorical(probabilities.log().expand(100_000, 4))
    noise = torch.as_tensor(np.random.default_rng(2).random(100_000))
    counts = torch.bincount(pi.sample(noise), minlength=4).double() / 100_000
    assert torch.allclose(counts, probabilities[0], atol=0.006)
    assert counts[1] == 0
    assert pi.log_prob(torch.tensor([2] * 100_000)).exp()[0] == pytest.approx(0.3)


def test_the_largest_and_the_smallest_noise_draw_real_actions():
    pi = nn.Categorical(torch.tensor([[0.5, 0.3, 0.2]]).log().expand(2, 3))
    assert pi.sample(torch.tensor([0.0, 1.0])).tolist() == [0, 2]


def test_the_entropy_of_a_categorical_is_the_sum_of_minus_p_log_p():
    pi = nn.Categorical(torch.tensor([[0.5, 0.3, 0.2], [1 / 3, 1 / 3, 1 / 3]]).log())
    assert float(pi.entropy()) == pytest.approx((1.0296530140645737 + math.log(3)) / 2)
    assert pi.mode().tolist()[0] == 0


def head(kind: str, **statistics: Tensor):
    torch.manual_seed(0)
    network = nn.policy_head(kind, 3, 2, 16, 2)
    nn.fit_statistics([network], statistics)
    return network


@pytest.mark.parametrize("kind", ["gaussian", "deterministic"])
def test_a_continuous_head_stays_within_the_bounds_of_each_dimension(kind: str):
    low, high = torch.tensor([-2.0, 10.0]), torch.tensor([2.0, 11.0])
    network = head(kind, action_low=low, action_high=high)
    mode = network(1e4 * torch.randn(500, 3)).mode()
    assert bool((mode >= low).all())
    assert bool((mode <= high).all())
    assert mode[:, 1].std() > 0.1


def test_the_spread_of_a_gaussian_head_is_in_units_of_the_action():
    wide = head("gaussian", action_low=torch.tensor([-2.0, -2]), action_high=torch.tensor([2.0, 2]))
    plain = head("gaussian")
    obs = torch.randn(5, 3)
    assert torch.allclose(wide(obs).std, 2 * plain(obs).std)
    assert torch.allclose(wide(obs).mean, 2 * plain(obs).mean, atol=1e-6)


def test_statistics_land_in_the_buffers_of_their_name_and_change_what_comes_out():
    value = nn.Value(3, 16, 1)
    obs, mean, std = torch.randn(7, 3), torch.tensor([1.0, 2, 3]), torch.tensor([2.0, 4, 8])
    normalized = value(obs)
    nn.fit_statistics(
        [value],
        {
            "obs_mean": mean,
            "obs_std": std,
            "return_mean": torch.tensor(100.0),
            "return_std": torch.tensor(10.0),
            "action_low": torch.zeros(1),
        },
    )
    assert torch.allclose(value(obs * std + mean), 100 + 10 * normalized, atol=1e-4)
    names = {name for name, _ in value.named_parameters()}
    assert not names & {"return_mean", "return_std", "normalize.obs_mean", "normalize.obs_std"}


def test_bfloat16_touches_the_hidden_layers_and_nothing_else():
    network = head("gaussian")
    seen: dict[str, list[Any]] = {}
    for name, module in network.named_modules():
        module.register_forward_hook(
            lambda _, inputs, output, name=name: seen.__setitem__(
                name, [inputs[0].dtype, getattr(output, "dtype", None)]
            )
        )
    exact = network(torch.randn(4, 3))
    assert {seen["net.hidden.0"][1], seen["net.hidden.1"][1]} == {torch.float32}
    nn.set_precision([network], "bf16")
    pi = network(torch.randn(4, 3))
    assert seen["net.hidden.0"] == [torch.float32, torch.bfloat16]
    assert seen["net.hidden.1"] == [torch.bfloat16, torch.bfloat16]
    assert seen["net.head"] == [torch.float32, torch.float32]
    assert seen["normalize"] == [torch.float32, torch.float32]
    assert {pi.mean.dtype, pi.std.dtype, pi.log_prob(pi.mean).dtype} == {torch.float32}
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    nn.set_precision([network], "fp32")
    torch.manual_seed(5)
    obs = torch.randn(4, 3)
    assert network(obs).mean.dtype == exact.mean.dtype
    nn.set_precision([network], "bf16")
    assert torch.allclose(network(obs).mean, head("gaussian")(obs).mean, atol=0.02)


def test_a_network_without_hidden_layers_is_linear():
    network = nn.MLP(2, 1, 16, 0).double()
    a, b = torch.randn(2, 1, 2, dtype=torch.float64)
    assert torch.allclose(network(a) + network(b), network(a + b) + network(torch.zeros_like(a)))


def test_a_head_that_does_not_exist_is_named_with_those_that_do():
    with pytest.raises(ConfigError, match=r"no policy head 'gauss'.*gaussian, deterministic"):
        nn.policy_head("gauss", 3, 2, 16, 2)
