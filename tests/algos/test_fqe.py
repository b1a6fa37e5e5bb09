"""FQE against the exact values of a finite MDP, and as the command line and Python use it."""

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact_log import Settled, exact_log
from small_mdp import M2, MU, PI, Q_MU, Q_PI, Q_STAR
from torch import Tensor, nn

import offrl
from offrl import tabular
from offrl.algorithm import configure
from offrl.algos import get
from offrl.batch import Batch
from offrl.distributions import Categorical, Deterministic, Gaussian
from offrl.errors import ConfigError
from offrl.learner import Learner
from offrl.nn import policy_head
from offrl.testing import Trial, toy_dataset

FQE: Any = get("fqe")
COOLING = [(900, 0.05), (300, 5e-3), (300, 5e-4)]


def numbers(*values: float):
    return torch.tensor(values, dtype=torch.float64)


class Table(nn.Module):
    """The policy of M2 that is judged: [S, A] probabilities, looked up by the one-hot state."""

    def __init__(self) -> None:
        super().__init__()
        self.log_share = nn.Parameter(torch.tensor(PI).log())

    def forward(self, obs: Tensor) -> Categorical:
        return Categorical(obs @ self.log_share)


def q_of(policy: np.ndarray | None = None, **settings: Any) -> tuple[np.ndarray, Settled]:
    """Q [S, A] after FQE has settled on every transition of M2 under its uniform mu."""
    log = exact_log(M2, MU, parts=20)
    found = Settled("fqe", log, COOLING, policy=Table(), critics=1, **settings)
    return found.nets.critic(found.sight).detach().numpy()[0], found


def near(found: np.ndarray, expected: np.ndarray, tolerance: float = 1e-3) -> bool:
    return bool(np.allclose(found, expected, atol=tolerance, rtol=0))


@pytest.mark.parametrize(
    "targets",
    [{"target_rate": 0.2}, {"target_rate": 1.0, "target_period": 5}],
    ids=["soft", "hard"],
)
def test_on_a_whole_log_it_reaches_the_values_of_the_policy(targets: dict[str, Any]):
    q, found = q_of(acts="sample", **targets)
    assert near(q, Q_PI)
    for wrong in (Q_MU, Q_STAR, full_gradient()):  # a' from the log; the best a'
        assert not near(q, wrong, 0.1)
    start = float(PI[0] @ q[0])
    assert start == pytest.approx(12.82490974729244, abs=1e-3)
    # Half of the logged episodes begin in each state.
    both = found.algorithm.findings(found.nets, found.table)["fqe/value"]
    assert float(both) == pytest.approx((12.8249097473 + 13.6371841155) / 2, abs=1e-3)
    assert torch.equal(found.state["params"]["policy"]["log_share"], torch.tensor(PI).log())


def test_by_its_mode_the_policy_is_another_one():
    q, _ = q_of(acts="mode", target_rate=0.2)
    greedy = np.eye(2)[PI.argmax(1)]
    assert near(q, tabular.values(M2, greedy).q)
    assert not near(q, Q_PI, 0.1)


def full_gradient() -> np.ndarray:
    """Where squared errors are least if a gradient flows through the target as well."""
    rows, rewards = [], []
    for s, a, then in np.ndindex(2, 2, 2):
        row = -M2.discount * np.outer(np.eye(2)[then], PI[then])
        row[s, a] += 1
        weight = np.sqrt(M2.transition[s, a, then])
        rows.append(weight * row.ravel())
        rewards.append(weight * M2.reward[s, a])
    return np.linalg.lstsq(np.array(rows), np.array(rewards))[0].reshape(2, 2)


def test_a_sweep_over_all_transitions_contracts_by_the_discount():
    q = np.zeros((2, 2))
    for _ in range(20):
        then = M2.reward + M2.discount * M2.transition @ (PI * q).sum(1)
        assert np.abs(then - Q_PI).max() <= 0.9 * np.abs(q - Q_PI).max() + 1e-9
        q = then


def algorithm(discrete: bool = False, policy: nn.Module | None = None, **changes: Any):
    spec = toy_dataset(discrete=discrete).spec
    return FQE(configure(FQE.Config, changes), spec, policy or nn.Identity())


class Nets:
    """Two target critics that say 3 and 4; critics that say 0; bounds as they are given."""

    def __init__(self, lowest: float = -1e9, highest: float = 1e9):
        self.bounds = {"lowest": numbers(lowest)[0], "highest": numbers(highest)[0]}

    def policy(self, obs: Tensor):
        one = torch.ones(1, dtype=torch.float64)
        return Deterministic(torch.zeros(len(obs), 1).double(), -one, one)

    def target_critic(self, obs: Tensor, action: Tensor):
        return numbers(3.0, 4.0)[:, None].expand(-1, len(obs))

    def critic(self, obs: Tensor, action: Tensor):
        return torch.zeros(2, len(obs), dtype=torch.float64)

    def scalar(self, name: str):
        return self.bounds[name]

    def buffer(self, network: str, name: str):
        return numbers({"action_low": -1.0, "action_high": 1.0}[name])


@pytest.mark.parametrize(
    ("nets", "terminated", "target"),
    [
        pytest.param(Nets(), 0.0, 1 + 0.99 * 3.5, id="mean of the critics, not the least"),
        pytest.param(Nets(), 1.0, 1.0, id="terminated"),
        pytest.param(Nets(highest=2.0), 0.0, 2.0, id="above what is possible"),
        pytest.param(Nets(lowest=9.0), 0.0, 9.0, id="below what is possible"),
    ],
)
def test_the_target(nets: Nets, terminated: float, target: float):
    row, one = torch.zeros(1, 1).double(), numbers(1.0)
    batch = Batch(row, row, one, row, terminated * one, one, {}, {})
    _, metrics = algorithm().critic_loss(nets, batch)
    assert float(metrics["critic/td_error"]) == pytest.approx(target, abs=1e-12)


def test_a_continuous_policy_is_averaged_over_its_draws():
    one = numbers(1.0)
    pi = Gaussian(0.1 * one[None], 0.2 * one, -one, one)
    noise = numbers(1.0, -1.0, 2.0)[None, :, None]  # [B, samples, A]
    found = algorithm(acts="sample", samples=3).expected(
        pi, lambda obs, a: torch.stack([a[:, 0] ** 2, obs[:, 0]]), 5 * one[None], noise
    )
    assert found.squeeze(-1).tolist() == pytest.approx([(0.3**2 + 0.1**2 + 0.5**2) / 3, 5.0])
    by_mode = algorithm().expected(pi, lambda obs, a: a[None, :, 0] ** 2, one[None], None)
    assert float(by_mode) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("rewards", "bounds"),
    [((-1.0, 2.0), (-10.0, 20.0)), ((1.0, 1.0), (1.0, 10.0)), ((-3.0, -2.0), (-30.0, -2.0))],
)
def test_bounds_are_what_rewards_can_add_up_to_in_episodes_that_may_end_at_once(
    rewards: tuple[float, float], bounds: tuple[float, float]
):
    trial: Any = Trial(FQE, discrete=True, settings={"discount": 0.9})
    modules, _, now = trial.begin()
    table: Any = type("Rewards", (), {"reward": numbers(*rewards)})
    after = trial.algorithm.turn(Learner(modules, now.state), table, 0)
    found = [float(after.scalar(name)) for name in ("lowest", "highest")]
    assert found == pytest.approx(bounds)
    free: Any = Trial(FQE, discrete=True, settings={"clip_targets": False})
    assert free.run(n=2).state["scalars"]["highest"] == float("inf")


@pytest.mark.parametrize("period", [1, 4])
def test_targets_move_every_period(period: int):
    settings = {"target_period": period, "target_rate": 1.0}
    trial: Any = Trial(FQE, discrete=True, settings=settings)
    modules, sampler, now = trial.begin()
    for step in range(1, 9):
        now = trial.go_on(modules, sampler, now, step)
        online, target = (now.state["params"][n] for n in ("critic", "target_critic"))
        assert all(torch.equal(online[k], target[k]) for k in online) == (step % period == 0)


def test_the_policy_keeps_the_statistics_it_was_trained_with_and_has_no_moments():
    policy: Any = policy_head("gaussian", 4, 1, 16, 1)
    policy.normalize.obs_mean.fill_(7.0)
    trial: Any = Trial(FQE, discrete=False, policy=policy)
    _, _, now = trial.begin()
    assert now.state["buffers"]["policy"]["normalize.obs_mean"].tolist() == [7.0] * 4
    assert now.state["buffers"]["critic"]["normalize.obs_mean"].tolist() != [7.0] * 4
    assert set(now.state["adam"]) == {"critic"}
    assert policy.normalize.obs_mean.dtype == torch.float32  # the one that was given stays


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """The folder of a run whose policy is to be judged."""
    return offrl.fit("bc", toy_dataset(discrete=True), steps=3, out=tmp_path / "bc").dir


def test_a_run_is_judged_by_its_folder_and_the_value_is_in_the_result(judged: Path, tmp_path: Path):
    run = offrl.fit(
        "fqe",
        toy_dataset(discrete=True),
        policy=str(judged),
        steps=20,
        seeds=(0, 1),
        out=tmp_path / "fqe",
    )
    result: Any = json.loads((run.dir / "result.json").read_text("utf-8"))
    value = result["fqe/value"]
    assert value["n_seeds"] == 2
    assert value["mean"] == pytest.approx(sum(value["seeds"].values()) / 2)
    assert value["ci"][0] < value["mean"] < value["ci"][1]
    page = tomllib.loads((run.dir / "run.toml").read_text("utf-8"))
    assert page["fqe"]["policy"] == str(judged)
    assert len(page["resolved"]["policy_sha256"]) == 64
    obs = np.zeros((3, 4), np.float32)
    assert run.policy().predict(obs).tolist() == offrl.load_policy(judged).predict(obs).tolist()


def test_a_finished_run_still_tells_the_value_after_it_is_opened_again(
    judged: Path, tmp_path: Path
):
    given: Any = {"steps": 20, "out": tmp_path / "fqe", "policy": str(judged)}
    before = offrl.fit("fqe", toy_dataset(discrete=True), **given).result["fqe/value"]
    again = offrl.fit("fqe", toy_dataset(discrete=True), out=tmp_path / "fqe", resume=True)
    assert again.result["fqe/value"] == before


def test_it_does_not_go_on_with_a_policy_that_has_changed(judged: Path, tmp_path: Path):
    data, out = toy_dataset(discrete=True), tmp_path / "fqe"
    offrl.fit("fqe", data, policy=str(judged), steps=4, out=out)
    judged.rename(tmp_path / "old")
    offrl.fit("bc", data, steps=5, out=judged)
    with pytest.raises(ConfigError, match="policy_sha256"):
        offrl.fit("fqe", data, out=out, resume=True)


def test_without_a_policy_it_says_how_to_name_one(tmp_path: Path):
    with pytest.raises(ConfigError, match="none is named") as caught:
        offrl.fit("fqe", toy_dataset(discrete=True), steps=2, out=tmp_path / "fqe")
    assert "--policy RUN" in caught.value.remedy
    assert not (tmp_path / "fqe").exists()


def test_a_policy_of_other_spaces_is_refused(judged: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="other spaces"):
        offrl.fit(
            "fqe", toy_dataset(discrete=False), policy=str(judged), steps=2, out=tmp_path / "fqe"
        )


@pytest.mark.parametrize(("name", "value"), [("samples", 0), ("target_period", 0), ("critics", 0)])
def test_a_setting_that_cannot_be_is_refused_by_name(name: str, value: float):
    with pytest.raises(ConfigError, match=f"'{name}' must be"):
        configure(FQE.Config, {name: value})
