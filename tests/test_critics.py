"""Critics that are many: which of them are the target, what the policy follows, and purity."""

from collections import Counter
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from offrl import nn, testing
from offrl.algorithm import Algorithm, configure
from offrl.algos import get
from offrl.batch import Batch
from offrl.critics import DelayedConfig, climbed, counted, least_error
from offrl.errors import ConfigError
from offrl.learner import Learner
from offrl.testing import Trial

MANY: dict[str, Any] = {
    "critics": 5, "target_critics": 2, "follow_mean": True, "layer_norm": True
}  # fmt: skip
CASES = [("td3", False), ("td3-bc", False), ("sac", False), ("sac", True), ("cql", False)]
CONFIG = configure(DelayedConfig, MANY)


def with_noise(noise: dict[str, Tensor], rows: int = 3) -> Batch:
    obs, ones = torch.zeros(rows, 1).double(), torch.ones(rows).double()
    return Batch(obs, obs, ones, obs, 0 * ones, ones, {}, noise)


class Nets:
    """Five target critics that say 5, 1, 4, 2 and 3; critics that say 0."""

    says = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0], dtype=torch.float64)

    def target_critic(self, obs: Tensor, action: Tensor, members: Tensor | None = None):
        chosen = self.says if members is None else self.says[members]
        return chosen[:, None].expand(-1, len(obs))

    def critic(self, obs: Tensor, action: Tensor, members: Any = None):
        return self.says[:members, None].expand(-1, len(obs))


@pytest.mark.parametrize(
    ("members", "least"), [(None, 1.0), (torch.tensor([0, 2]), 4.0), (torch.tensor([0]), 5.0)]
)
def test_the_target_is_the_least_of_the_critics_that_count(members: Tensor | None, least: float):
    nets: Any = Nets()
    batch = with_noise({})
    loss, _ = least_error(nets, batch, batch.action, 0.5, members)
    exact = (Nets.says - (1 + 0.5 * least)).square().sum()
    assert float(loss) == pytest.approx(float(exact))


def test_every_set_of_two_in_five_counts_equally_often_and_another_step_draws_another():
    trial = Trial(get("td3"), discrete=False, settings=MANY)
    _, sampler, _ = trial.begin()
    sets = [counted(CONFIG, sampler[step]) for step in range(2000)]
    seen = Counter(tuple(sorted(found.tolist())) for found in sets if found is not None)
    assert set(seen) == set(combinations(range(5), 2))
    assert all(abs(n / 2000 - 0.1) < 0.035 for n in seen.values())  # five standard errors
    assert torch.equal(counted(CONFIG, sampler[7]), sets[7])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("target_critics", [0, 5])
def test_where_all_count_nothing_is_drawn(target_critics: int):
    config = replace(CONFIG, target_critics=target_critics)
    assert counted(config, with_noise({})) is None
    trial = Trial(get("td3"), discrete=False, settings={**MANY, "target_critics": target_critics})
    assert trial.algorithm.draws().keys() == {"smoothing"}


def test_a_deterministic_policy_follows_the_first_critic_or_the_mean_of_all():
    nets: Any = Nets()
    batch = with_noise({})
    assert climbed(nets, batch, batch.action).tolist() == [[5.0] * 3]
    assert climbed(nets, batch, batch.action, mean=True).tolist() == [[3.0] * 3]


@pytest.mark.parametrize(("name", "discrete"), CASES)
def test_only_the_critics_that_count_are_asked_for_the_target(name: str, discrete: bool):
    """Making the others worthless or priceless changes no loss; making these so does."""
    trial: Any = Trial(get(name), discrete=discrete, settings=MANY)
    modules, sampler, now = trial.begin()
    batch = trial.batch(modules, sampler, now)
    chosen = counted(trial.config, batch)
    assert chosen is not None
    others = [k for k in range(5) if k not in chosen.tolist()]

    def loss(moved: list[int]) -> float:
        params = dict(now.state["params"])
        target = dict(params["target_critic"])
        target["net.head.bias"] = target["net.head.bias"].clone()
        target["net.head.bias"][moved] -= 100.0
        state = {**now.state, "params": {**params, "target_critic": target}}
        return float(trial.algorithm.critic_loss(Learner(modules, state).nets, batch)[0])

    assert loss([]) == loss(others)
    assert loss([]) != loss([int(chosen[0])])


@pytest.mark.parametrize(("name", "discrete"), CASES)
def test_the_policy_follows_all_critics_where_it_follows_their_mean(name: str, discrete: bool):
    def gains(follow_mean: bool) -> list[float]:
        """What raising each critic by a thousand times its scale adds to what is followed."""
        settings = {**MANY, "follow_mean": follow_mean}
        trial: Any = Trial(get(name), discrete=discrete, settings=settings)
        modules, sampler, now = trial.begin()
        batch, params = trial.batch(modules, sampler, now), now.state["params"]
        scale = float(now.state["buffers"]["critic"]["return_std"])

        def followed(critic: int | None) -> float:
            bias = params["critic"]["net.head.bias"].clone()
            if critic is not None:
                bias[critic] += 1000.0
            raised = {**params, "critic": {**params["critic"], "net.head.bias": bias}}
            nets = Learner(modules, {**now.state, "params": raised}).nets
            return float(trial.algorithm.policy_loss(nets, batch)[1]["policy/q_mean"]) / scale

        return [followed(k) - followed(None) for k in range(5)]

    assert gains(True) == pytest.approx([200.0] * 5)
    alone = gains(False)
    if name in ("td3", "td3-bc"):
        assert alone == pytest.approx([1000.0, 0, 0, 0, 0])
    else:
        assert all(0 <= gain < 10 for gain in alone)


@pytest.mark.parametrize(("name", "discrete"), CASES)
@pytest.mark.parametrize(
    "check",
    [
        testing.same_seed_same_numbers,
        testing.resuming_changes_nothing,
        testing.an_update_changes_nothing_it_was_given,
        testing.only_its_own_weights_move,
        testing.seeds_run_together_as_alone,
    ],
    ids=lambda check: check.__name__,
)
def test_with_many_critics_every_promise_is_kept(
    check: Any, name: str, discrete: bool, monkeypatch: pytest.MonkeyPatch
):
    plain = testing.small_config

    def many(algorithm: type[Algorithm[Any]], settings: dict[str, Any]) -> Any:
        return plain(algorithm, {**MANY, **settings})

    monkeypatch.setattr(testing, "small_config", many)
    check(get(name), discrete)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "discrete"), CASES[:4])
def test_with_many_critics_the_policy_takes_the_better_action(
    name: str, discrete: bool, monkeypatch: pytest.MonkeyPatch
):
    test_with_many_critics_every_promise_is_kept(
        testing.prefers_the_better_action, name, discrete, monkeypatch
    )


def ensemble(members: int, layer_norm: bool = True) -> nn.Ensemble:
    torch.manual_seed(0)
    return nn.Ensemble(members, 3, 2, 8, 2, layer_norm).double()


@pytest.mark.parametrize("layer_norm", [False, True])
def test_members_of_an_ensemble_are_asked_by_number_in_any_order(layer_norm: bool):
    network, x = ensemble(4, layer_norm), torch.randn(5, 3).double()
    with torch.no_grad():
        for parameter in network.parameters():  # so that no scale is alike
            parameter.add_(torch.randn_like(parameter))
    whole = network(x)
    for numbers in ([2], [3, 0], [1, 2, 3]):
        assert torch.allclose(network(x, torch.tensor(numbers)), whole[numbers], atol=1e-12)
    assert torch.allclose(network(x, 2), whole[:2], atol=1e-12)


def test_members_share_no_parameter_not_even_the_scale_of_a_normalisation():
    network, x = ensemble(3), torch.randn(5, 3).double()
    network(x)[1].sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        moved = parameter.grad.abs().flatten(1).sum(1)
        assert moved[[0, 2]].tolist() == [0.0, 0.0], name


def test_a_normalised_layer_is_torchs_own():
    network, x = nn.EnsembleNorm(2, 6).double(), torch.randn(2, 5, 6).double()
    assert torch.allclose(network(x, 2), torch.nn.LayerNorm(6).double()(x), atol=1e-12)


def test_a_single_output_is_what_it_would_be_among_several():
    torch.manual_seed(0)
    several, single = nn.EnsembleLinear(3, 6, 2).double(), nn.EnsembleLinear(3, 6, 1).double()
    with torch.no_grad():
        single.weight.copy_(several.weight[..., :1])
        single.bias.copy_(several.bias[..., :1])
    x = torch.randn(3, 5, 6).double().requires_grad_()
    one, many = single(x, 3), several(x, 3)[..., :1]
    assert torch.allclose(one, many, atol=1e-14)
    weight = torch.randn_like(one)
    found = torch.autograd.grad((one * weight).sum(), (x, single.weight, single.bias))
    asked = torch.autograd.grad((many * weight).sum(), (x, several.weight, several.bias))
    for ours, theirs in zip(found, asked, strict=True):
        assert torch.allclose(ours, theirs[..., : ours.shape[-1]], atol=1e-14)


@pytest.mark.parametrize("target_critics", [-1, 3])
def test_more_critics_for_the_target_than_there_are_are_refused(target_critics: int):
    with pytest.raises(ConfigError, match="'target_critics' must be from 0 to the 2 critics"):
        configure(DelayedConfig, {"target_critics": target_critics})


def test_sacs_policy_and_temperature_move_once_a_period_and_its_critics_always():
    trial: Any = Trial(get("sac"), discrete=False, settings={"policy_period": 3})
    assert trial.algorithm.least_steps() == 3
    modules, sampler, begin = trial.begin()
    before = begin.state
    for step in range(6):
        now = trial.go_on(modules, sampler, begin._replace(step=step, state=before), step + 1)
        for network in ("policy", "log_temperature", "critic", "target_critic"):
            one, two = before["params"][network], now.state["params"][network]
            moved = any(not torch.equal(one[k], two[k]) for k in one)
            assert moved == ("critic" in network or step % 3 == 2), (step, network)
        before = now.state
