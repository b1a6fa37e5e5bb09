"""IWPG against closed forms, its limits, the ways to get it wrong; its mu and its stops."""

import math
from collections import deque
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from offrl import losses
from offrl.algorithm import configure
from offrl.algos import get
from offrl.batch import Batch, Table
from offrl.data.dataset import Dataset
from offrl.distributions import Categorical
from offrl.errors import ConfigError
from offrl.learner import Learner, steps
from offrl.testing import Trial, toy_dataset
from offrl.training import fit

IWPG: Any = get("iwpg")

# One state, three actions: mu = .5, .3, .2 as exact counts, advantages 1, 0, -1.
MU = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
PI = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
ACTION = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
ADVANTAGE = (1.0 - ACTION).double()
OBS, EMPTY = torch.zeros(100, 1), torch.zeros(100)
REVERSE_OPTIMUM = [0.7843987617, 0.1731385069, 0.0424627314]  # mu exp(A / 1) / Z
FORWARD_OPTIMUM = [0.7455415087, 0.1795704527, 0.0748880385]  # mu / (1.6706534702 - A)


class Softmax3(torch.nn.Module):
    """A softmax over three actions, with nothing to look at."""

    def __init__(self, probabilities: Tensor = MU):
        super().__init__()
        self.logits = torch.nn.Parameter(probabilities.log())

    def forward(self, obs: Tensor):
        return Categorical(torch.log_softmax(self.logits, -1).expand(len(obs), 3))


class Nets:
    def __init__(self, policy: Any, settings: dict[str, float]):
        self.policy, self.behavior, self._settings = policy, Softmax3(), settings

    def scalar(self, name: str):
        return torch.tensor(self._settings[name], dtype=torch.float64)


def tabular(**changes: Any) -> Any:
    data = Dataset.from_arrays(
        np.zeros((4, 1), np.float32),
        np.zeros(3, np.int64),
        np.zeros(3),
        np.array([False, False, True]),
        np.zeros(3, bool),
        action_space=gym.spaces.Discrete(3),
    )
    return IWPG(configure(IWPG.Config, changes), data.spec)


def loss_of(policy: Any, advantage: Tensor = ADVANTAGE, *, logged: bool = True, **changes: Any):
    algorithm = tabular(**changes)
    log_mu = MU.log()[ACTION] if logged else torch.full((100,), torch.nan, dtype=torch.float64)
    columns = {"advantage": advantage, "log_mu": log_mu}
    batch = Batch(OBS, ACTION, EMPTY, OBS, EMPTY, EMPTY, columns, {})
    c = algorithm.config
    settings = {"clip_low": c.clip_low, "clip_high": c.clip_high, "coefficient": c.kl_coefficient}
    settings["entropy_weight"] = c.entropy_weight
    return algorithm.policy_loss(Nets(policy, settings), batch)


def ascent(probabilities: Tensor, **changes: Any) -> Tensor:
    """The direction in which the logits go: minus the gradient of the loss."""
    policy = Softmax3(probabilities)
    loss_of(policy, **changes)[0].backward()
    assert policy.logits.grad is not None
    return -policy.logits.grad


def close(found: Tensor, expected: list[float], tolerance: float = 1e-9):
    expected_ = torch.tensor(expected, dtype=torch.float64)
    return torch.allclose(found, expected_, atol=tolerance, rtol=0)


@pytest.mark.parametrize("logged", [True, False])
@pytest.mark.parametrize("objective", ["ratio", "kl-forward", "kl-reverse", "naive-clip", "clip"])
def test_at_mu_every_objective_has_the_gradient_of_the_plain_policy_gradient(
    objective: str, logged: bool
):
    found = ascent(MU, objective=objective, logged=logged)
    assert close(found, [0.35, -0.09, -0.26])
    policy = Softmax3()
    plain = -(ADVANTAGE * policy(OBS).log_prob(ACTION)).mean()
    plain.backward()
    assert policy.logits.grad is not None
    assert torch.allclose(found, -policy.logits.grad, atol=1e-12)


@pytest.mark.parametrize("logged", [True, False])
def test_away_from_mu_the_gradient_is_weighted_by_the_ratio(logged: bool):
    assert close(ascent(PI, objective="ratio", logged=logged), [0.30, -0.15, -0.15])
    assert float(loss_of(Softmax3(PI), objective="ratio")[0].detach()) == pytest.approx(-0.5)


def test_an_infinite_clip_is_the_plain_ratio():
    for objective in ("naive-clip", "clip"):
        limit = {"clip_low": math.inf, "clip_high": math.inf, "dual_clip": 0.0}
        found = ascent(PI, objective=objective, **limit)
        assert torch.equal(found, ascent(PI, objective="ratio"))


WRONG_GRADIENTS = {
    "no ratio": (lambda p, mu: p.log(), [0.32, -0.09, -0.23]),
    "the ratio detached": (lambda p, mu: (p / mu).detach() + 0 * p, [0.0, 0.0, 0.0]),
    "the ratio upside down": (lambda p, mu: -mu / p, None),
    "the log ratio": (lambda p, mu: (p / mu).log() ** 2, None),
}


@pytest.mark.parametrize("mistake", WRONG_GRADIENTS)
def test_the_numbers_tell_a_wrong_gradient(mistake: str):
    function, known = WRONG_GRADIENTS[mistake]
    policy = Softmax3(PI)
    taken = torch.softmax(policy.logits, -1)[ACTION]
    (function(taken, MU[ACTION]) * ADVANTAGE).mean().backward()
    assert policy.logits.grad is not None
    assert not close(policy.logits.grad, [0.30, -0.15, -0.15], 1e-3)
    assert known is None or close(policy.logits.grad, known)


def maximiser(objective: Any) -> Tensor:
    """The probabilities at which a loss of the policy is smallest, by L-BFGS."""
    policy = Softmax3()
    optimizer = torch.optim.LBFGS(
        policy.parameters(),
        max_iter=500,
        tolerance_grad=1e-13,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        value = objective(policy)
        value.backward()
        return value

    optimizer.step(closure)
    return torch.softmax(policy.logits.detach(), -1)


def best(**changes: Any) -> Tensor:
    return maximiser(lambda policy: loss_of(policy, **changes)[0])


def test_either_direction_of_the_divergence_has_its_own_optimum():
    assert close(best(objective="kl-reverse"), REVERSE_OPTIMUM, 1e-6)
    assert close(best(objective="kl-forward"), FORWARD_OPTIMUM, 1e-6)
    nu = 1.6706534702
    assert close(MU / (nu - torch.tensor([1.0, 0, -1])), FORWARD_OPTIMUM, 1e-8)


def test_a_constant_added_to_the_advantage_moves_neither_optimum():
    shifted = ADVANTAGE + 7
    assert close(best(objective="kl-reverse", advantage=shifted), REVERSE_OPTIMUM, 1e-6)
    assert close(best(objective="kl-forward", advantage=shifted), FORWARD_OPTIMUM, 1e-6)


WRONG_OPTIMA: dict[str, dict[str, Any]] = {
    "the other direction": {"objective": "kl-forward"},
    "half the coefficient": {"objective": "kl-reverse", "kl_coefficient": 0.5},
    "the sign of the advantage": {"objective": "kl-reverse", "advantage": -ADVANTAGE},
}


@pytest.mark.parametrize("mistake", WRONG_OPTIMA)
def test_the_numbers_tell_a_wrong_optimum(mistake: str):
    assert not close(best(**WRONG_OPTIMA[mistake]), REVERSE_OPTIMUM, 1e-3)


def test_metrics_are_of_the_policy_against_mu():
    metrics = {k: float(v.detach()) for k, v in loss_of(Softmax3(PI))[1].items()}
    assert metrics["policy/ratio_mean"] == pytest.approx(1)
    assert metrics["policy/ratio_max"] == pytest.approx(1.2)
    assert metrics["policy/surrogate"] == pytest.approx(0.5)
    assert metrics["policy/kl_forward"] == pytest.approx(0.0474686577)
    assert metrics["policy/kl_forward_k1"] == pytest.approx(0.0474686577)
    assert metrics["policy/kl_reverse"] == pytest.approx(0.0400782160)
    assert metrics["policy/kl_fitted_forward"] == pytest.approx(0.0474686577)
    assert metrics["policy/kl_fitted_reverse"] == pytest.approx(0.0400782160)
    assert metrics["policy/clipped_bad_below"] == 1  # the last action's ratio is a half
    assert metrics["policy/clipped_good_above"] == 0
    ratio = (PI / MU)[ACTION]
    assert metrics["policy/ess"] == pytest.approx(float(losses.effective_share(ratio)))
    assert metrics["policy/mu_estimated"] == 0
    assert float(loss_of(Softmax3(PI), logged=False)[1]["policy/mu_estimated"]) == 1


def run_to(trial: Trial, step: int, update: Any = None):
    """Everything before `step`, and the state after its turn."""
    modules, sampler, begin = trial.begin()
    now = deque(steps(trial.algorithm, modules, sampler, begin, step, update), maxlen=1)[0]
    learner: Any = trial.algorithm.turn(Learner(modules, now.state), trial.table, step)
    return learner


@pytest.mark.parametrize("discrete", [True, False])
def test_the_policy_starts_as_the_fitted_behavior_with_the_ratio_one_on_every_row(discrete: bool):
    trial = Trial(IWPG, discrete=discrete)
    algorithm: Any = trial.algorithm
    learner = run_to(trial, algorithm.begins)
    policy, behavior = (learner.state["params"][name] for name in ("policy", "behavior"))
    assert all(torch.equal(policy[key], behavior[key]) for key in policy)
    rows = torch.arange(len(trial.table))
    columns = algorithm.columns(learner, trial.table, algorithm.begins)
    _, found = algorithm.policy_loss(learner.nets, trial.table.gather(rows, columns, {}))
    for name, value in (("ratio_mean", 1), ("ratio_max", 1), ("ess", 1), ("kl_forward", 0)):
        assert float(found[f"policy/{name}"].detach()) == value, name


def test_the_behavior_that_is_kept_is_the_best_on_episodes_that_it_did_not_learn_from():
    settings = {"behavior_steps": 40, "check_steps": 4, "lr": 0.3}  # it jumps about
    trial = Trial(IWPG, discrete=True, settings=settings)
    algorithm: Any = trial.algorithm
    aside = algorithm.behavior.checked_rows(trial.table)
    learned = set(algorithm.rows(trial.table).tolist())
    assert learned.isdisjoint(aside.tolist())
    assert len(learned) + len(aside) == len(trial.table)
    batch = trial.table.gather(aside, {}, {})
    modules, sampler, begin = trial.begin()

    def log_prob(learner: Learner) -> float:
        return -float(algorithm.behavior.loss(learner.nets, batch)[0].detach())

    states = [begin, *steps(algorithm, modules, sampler, begin, 40)]
    seen = [log_prob(Learner(modules, now.state)) for now in states if now.step % 4 == 0]
    kept = algorithm.turn(Learner(modules, states[-1].state), trial.table, 40)
    found = log_prob(kept)
    assert found == max(seen)
    assert found > seen[-1]  # else the last would do as well
    assert float(kept.scalar("best_log_prob")) == found


def with_log_probs(data: Dataset, log_prob: Any) -> Dataset:
    rows = data.transitions
    return Dataset.from_arrays(
        rows.observations,
        rows.action,
        rows.reward,
        rows.terminated,
        rows.truncated,
        behavior_log_prob=np.asarray(log_prob, float),
        action_space=data.spec.action_space,
    )


@pytest.mark.parametrize(
    ("setting", "missing", "estimated", "told"),
    [
        ("auto", 0, 0, "logged"),
        ("auto", 3, 200, "estimated"),
        ("auto", 200, 200, "estimated"),
        ("logged", 0, 0, "logged"),
        ("logged", 3, 3, "estimated for 3 of 200 transitions"),
        ("logged", 200, 200, "estimated"),
        ("fitted", 0, 200, "estimated"),
    ],
)
def test_mu_is_logged_or_fitted_row_by_row_and_the_result_says_which(
    setting: str, missing: int, estimated: int, told: str
):
    plain = toy_dataset(discrete=True)
    log_prob = np.log(np.where(plain.transitions.action == 2, 0.75, 0.25))
    log_prob[:missing] = np.nan
    data = with_log_probs(plain, log_prob)
    algorithm = IWPG(configure(IWPG.Config, {"behavior": setting}), data.spec)
    table = Table.of(data.transitions)
    found = algorithm.behavior.log_mu(table)
    assert int(found.isnan().sum()) == estimated
    assert torch.equal(found[~found.isnan()], table.behavior_log_prob[~found.isnan()])
    assert algorithm.facts(table) == {"behavior": told}


def test_a_single_episode_is_learned_from_and_checked_on():
    data = toy_dataset(discrete=True, episodes=1)
    algorithm = IWPG(IWPG.Config(), data.spec)
    table = Table.of(data.transitions)
    assert algorithm.rows(table) is None
    assert algorithm.behavior.checked_rows(table).tolist() == list(range(5))


STOPS: dict[str, tuple[dict[str, Any], str]] = {
    "kl": ({"stop_kl": 1e-4, "stop_ess": 0.0, "stop_patience": 0}, "KL(mu || pi) had grown by"),
    "ess": ({"stop_kl": 0.0, "stop_ess": 0.99, "stop_patience": 0}, "sample size was down to"),
    "objective": ({"stop_kl": 0.0, "stop_ess": 0.0, "stop_patience": 1}, "had not grown for 1 ch"),
}


@pytest.mark.parametrize("stop", STOPS)
def test_once_stopped_the_policy_is_frozen_and_the_result_says_when_and_why(stop: str):
    settings, why = STOPS[stop]
    more = {"objective": "ratio", "check_steps": 5, "max_norm": 1e9, "lr": 0.02}
    trial = Trial(IWPG, discrete=True, settings={**more, **settings})
    algorithm: Any = trial.algorithm
    modules, sampler, begin = trial.begin()
    last = algorithm.begins + 150
    states = [begin, *steps(algorithm, modules, sampler, begin, last)]
    policies = [now.state["params"]["policy"]["net.head.bias"] for now in states]
    learner = Learner(modules, states[-1].state)
    at = int(learner.scalar("stopped_at"))
    assert algorithm.begins < at < last
    assert (at - algorithm.begins) % 5 == 0
    assert torch.equal(policies[at], policies[last])
    assert not torch.equal(policies[at - 1], policies[at])
    (told,) = algorithm.remarks(learner)
    assert f"frozen since step {at}" in told
    assert why in told
    assert float(states[-1].metrics["policy/stopped"]) > 0


def test_without_a_stop_the_policy_goes_on_and_nothing_is_told():
    off = {"stop_kl": 0.0, "stop_ess": 0.0, "stop_patience": 0}
    trial = Trial(IWPG, discrete=True, settings=off)
    algorithm: Any = trial.algorithm
    assert algorithm.remarks(run_to(trial, algorithm.begins + 60)) == ()


@pytest.mark.parametrize(("target", "grows"), [(1e-6, True), (1e3, False)])
@pytest.mark.parametrize("objective", ["kl-forward", "kl-reverse"])
def test_the_coefficient_grows_where_the_policy_goes_too_far_and_shrinks_where_it_does_not(
    objective: str, target: float, grows: bool
):
    settings = {"objective": objective, "kl_target": target, "stop_kl": 0.0, "stop_ess": 0.0}
    trial = Trial(IWPG, discrete=True, settings=settings)
    algorithm: Any = trial.algorithm
    checks = [algorithm.begins + 12 * k for k in (1, 2)]
    found = [float(run_to(trial, step).scalar("coefficient")) for step in checks]
    first = 0.5  # at the start there is no divergence at all: it is halved before the first step
    assert found == [2 * first, 4 * first] if grows else found == [first / 2, first / 4]


SHIFTS = {"right": 0.0, "half as likely": -math.log(2), "twice as likely": math.log(2)}


@pytest.mark.parametrize("shift", SHIFTS)
def test_log_probs_that_cannot_be_are_told_in_plain_words(shift: str):
    plain = toy_dataset(discrete=True, episodes=400)
    log_prob = np.log(np.where(plain.transitions.action == 2, 0.75, 0.25)) + SHIFTS[shift]
    data = with_log_probs(plain, log_prob)
    settings = {"behavior_steps": 300, "check_steps": 50}
    trial = Trial(IWPG, discrete=True, data=data, settings=settings)
    algorithm: Any = trial.algorithm
    learner = run_to(trial, algorithm.begins)
    mean = float(learner.scalar("start_ratio_mean"))
    assert mean == pytest.approx(math.exp(-SHIFTS[shift]), abs=0.1)
    told = algorithm.warnings(learner)
    if shift == "right":
        assert told == ()
    else:
        assert f"mean ratio is {mean:.3g}" in told[0]
        assert "either the logged probabilities do not belong to these actions, or" in told[0]


def test_executed_actions_at_a_bound_are_scored_by_the_mass_beyond_it_on_both_sides():
    data = toy_dataset(discrete=False)
    trial = Trial(IWPG, discrete=False, data=data)
    algorithm: Any = trial.algorithm
    modules, _, now = trial.begin()
    nets = Learner(modules, now.state).nets
    obs = trial.table.observations[:4]
    action = torch.tensor([[-1.0], [1.0], [0.3], [-0.2]], dtype=torch.float64)
    empty, mu = torch.zeros(4), nets.behavior(obs)
    for logged in (mu.log_prob(action), torch.full((4,), torch.nan, dtype=torch.float64)):
        columns = {"advantage": torch.ones(4), "log_mu": logged}
        batch = Batch(obs, action, empty, obs, empty, empty, columns, {})
        ratio = (nets.policy(obs).log_prob(action) - mu.log_prob(action)).exp()
        _, found = algorithm.policy_loss(nets, batch)
        assert float(found["policy/ratio_mean"]) == pytest.approx(float(ratio.mean()), abs=1e-12)


def test_the_stages_follow_each_other_once():
    algorithm = tabular(behavior_steps=4, value_steps=3, value_refits=1, check_steps=2)
    assert "".join(algorithm.stage(step)[0] for step in range(12)) == "bbbbvvvppppp"
    refreshed = [step for step in range(12) if algorithm.refreshes(step)]
    assert refreshed == [0, 2, 4, 7, 9, 11]
    with_q = tabular(behavior_steps=2, value_steps=2, value_refits=1, q_steps=3, advantage="q")
    assert "".join(with_q.stage(step)[0] for step in range(10)) == "bbvvqqqppp"


@pytest.mark.parametrize("advantage", ["lambda", "q"])
@pytest.mark.parametrize("total", [1, 2, 7, 50, 999])
def test_a_short_run_is_given_stages_that_leave_steps_for_the_policy(advantage: str, total: int):
    algorithm = tabular(advantage=advantage)
    short = IWPG(algorithm.shortened(total), algorithm.spec)
    assert short.begins <= max(4, 0.7 * total)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clip_low", -0.1),
        ("clip_high", math.nan),
        ("dual_clip", 0.5),
        ("kl_coefficient", -1.0),
        ("kl_target", -1.0),
        ("max_norm", 0.0),
        ("behavior_steps", 0),
        ("check_steps", 0),
        ("check_share", 1.0),
        ("stop_kl", -1.0),
        ("stop_ess", 1.0),
        ("stop_patience", -1),
        ("q_steps", 0),
        ("td_lambda", 2.0),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(name: str, value: float):
    with pytest.raises(ConfigError, match=f"'{name}' must be"):
        configure(IWPG.Config, {name: value})


def test_a_run_tells_what_mu_was_what_is_wrong_with_it_and_where_the_policy_was_frozen(
    tmp_path: Path,
):
    plain = toy_dataset(discrete=True, episodes=100)
    log_prob = np.log(np.where(plain.transitions.action == 2, 0.75, 0.25))
    sizes = {"hidden_size": 8, "batch_size": 32, "lr": 1e-2, "compile": "off", "log_every": 50}
    stages = {"behavior_steps": 150, "value_steps": 12, "check_steps": 10, "stop_kl": 1e-3}
    for name, logged, told in (
        ("right", log_prob, 0),
        ("wrong", log_prob - math.log(2), 1),
        ("none", log_prob * np.nan, 0),
    ):
        data = with_log_probs(plain, logged)
        run = fit("iwpg", data, steps=300, out=tmp_path / name, **sizes, **stages)
        assert run.result["behavior"] == ("estimated" if name == "none" else "logged")
        assert len(run.result["warnings"]) == told
        if told:
            assert run.result["warnings"][0].startswith("Seed 0: The mean ratio is ")
        (frozen,) = run.result["remarks"]["0"]
        assert frozen.startswith("The policy is frozen since step ")
