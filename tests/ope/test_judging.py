"""Judging candidates on a dataset: on which episodes, by what, and what is kept of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from two_steps import EXACT_Q, J_MU, J_PI, PI

import offrl
from offrl.configuration import configure
from offrl.data.dataset import Dataset
from offrl.errors import ConfigError, CorruptDataError, NotFoundError
from offrl.ope import judge
from offrl.ope.behaviors import own_values
from offrl.ope.critics import fit_critics
from offrl.ope.fitting import folds_of, rows_of
from offrl.ope.functions import FunctionPolicy
from offrl.ope.settings import JudgeConfig
from offrl.testing import toy_dataset

QUICK: dict[str, Any] = {
    "fqe_steps": 20, "fqe_seeds": 2, "fqe_hidden_size": 8, "fqe_batch_size": 32,
    "behavior_steps": 30, "replicates": 200,
}  # fmt: skip
FAST = {"fqe_steps": 200, "fqe_batch_size": 128, "fqe_lr": 5e-3, "fqe_target_rate": 0.1}
SMALL: dict[str, Any] = {"steps": 60, "hidden_size": 8, "batch_size": 16, "compile": "off"}
MU = np.array([0.5, 0.3, 0.2])


def choices(n: int = 300, seed: int = 0, *, logged: bool = True) -> Dataset:
    """One decision an episode: arm k is worth k times the first feature, more or less."""
    rng = np.random.default_rng(seed)
    obs = rng.uniform(size=(2 * n, 2)).astype(np.float32)
    arm = rng.choice(3, size=n, p=MU)
    return Dataset.from_arrays(
        obs[::2],
        arm,
        arm * obs[::2, 0] + rng.normal(0, 0.1, n),
        np.ones(n, bool),
        np.zeros(n, bool),
        next_obs=obs[1::2],
        behavior_log_prob=np.log(MU[arm]) if logged else None,
        action_space=spaces.Discrete(3),
    )


def two_steps(n: int = 300, seed: int = 0) -> Dataset:
    """H2, with the step as the observation, logged by a uniform policy."""
    actions = np.random.default_rng(seed).integers(2, size=(n, 2))
    return Dataset.from_arrays(
        np.tile([[0.0], [1.0], [2.0]], (n, 1)).astype(np.float32),
        actions.reshape(-1),
        (actions * [1.0, 2.0]).reshape(-1),
        np.tile([False, True], n),
        np.zeros(2 * n, bool),
        behavior_log_prob=np.full(2 * n, np.log(0.5)),
        action_space=spaces.Discrete(2),
    )


def better(obs: np.ndarray) -> np.ndarray:
    """More of the arms that are worth more."""
    return np.tile([0.2, 0.3, 0.5], (len(obs), 1))


def like_the_log(obs: np.ndarray) -> np.ndarray:
    """Exactly what made the log."""
    return np.tile(MU, (len(obs), 1))


def of_h2(obs: np.ndarray) -> np.ndarray:
    """The candidate of H2."""
    return np.tile(PI, (len(obs), 1))


class TestWhichEpisodes:
    def test_only_those_that_the_run_did_not_learn_from(self):
        data = choices()
        run = offrl.fit("bc", data, holdout=0.2, out="run", **SMALL)
        found = judge(run, data, acts="sample", **QUICK)
        assert found.episodes.tolist() == list(run.run.held_out)
        assert not found.in_sample
        assert found.candidates[0][1].episodes == 60

    def test_all_of_them_labelled_where_none_was_held_out(self):
        data = choices()
        run = offrl.fit("bc", data, holdout=0.0, out="run", **SMALL)
        found = judge(run, data, acts="sample", min_uplift=-5.0, **QUICK)
        assert len(found.episodes) == 300
        assert found.in_sample
        assert any("in_sample" in note for note in found.notes)
        assert found.verdict == "cannot-tell"  # an uplift above -5 is sure, and not believed

    def test_all_of_other_data(self):
        run = offrl.fit("bc", choices(), holdout=0.2, out="run", **SMALL)
        found = judge(run, choices(seed=1), acts="sample", **QUICK)
        assert len(found.episodes) == 300
        assert not found.in_sample
        assert any("other data" in note for note in found.notes)

    def test_several_candidates_share_them_and_pay_for_being_several(self):
        data = choices()
        run = offrl.fit("bc", data, holdout=0.2, out="run", **SMALL)
        found = judge([run, better], data, acts="sample", min_uplift=0.0, **QUICK)
        assert [f.episodes for _, f in found.candidates] == [60, 60]
        levels = {f.decision.level for _, f in found.candidates if f.decision is not None}
        assert levels == {0.975}


class TestAgainstTheTruth:
    def test_every_estimator_of_h2_holds_it(self):
        settings: dict[str, Any] = QUICK | {
            "fqe_steps": 150,
            "fqe_batch_size": 128,
            "fqe_seeds": 4,
            "fqe_lr": 5e-3,
            "fqe_target_rate": 0.1,
        }
        found = judge(of_h2, two_steps(), discount=0.9, **settings).candidates[0][1]
        assert set(found.estimates) == {
            "fqe", "ois", "pdis", "wis", "wpdis", "dr", "wdr", "magic"
        }  # fmt: skip
        for name, one in found.estimates.items():
            assert one.bounds is not None, name
            assert one.bounds[0] - 0.05 <= J_PI <= one.bounds[1] + 0.05, name
        assert found.behavior.value == pytest.approx(J_MU, abs=0.2)
        widths = {n: e.bounds[1] - e.bounds[0] for n, e in found.estimates.items() if e.bounds}
        assert widths["dr"] < 0.5 * widths["pdis"]

    def test_the_behaviour_judged_as_a_candidate_is_worth_its_mean_return(self):
        data = choices()
        found = judge(like_the_log, data, **QUICK).candidates[0][1]
        for name in ("ips", "snips", "clipped-ips"):
            assert found.estimates[name].value == pytest.approx(found.behavior.value, abs=1e-6)
        assert found.ess == pytest.approx(300)

    def test_a_fitted_behaviour_is_said_to_be_estimated(self):
        data = choices(logged=False)
        settings: dict[str, Any] = QUICK | {"behavior_steps": 400}
        found = judge(better, data, estimators=["snips"], **settings)
        assert found.behavior == "estimated"
        assert any("estimated" in note for note in found.candidates[0][1].notes)
        logged = judge(better, choices(), estimators=["snips"], **QUICK)
        assert logged.behavior == "logged"
        one, other = (f.candidates[0][1].estimates["snips"].value for f in (found, logged))
        assert one == pytest.approx(other, abs=0.1)
        with pytest.raises(ConfigError, match="300 of 300 steps have no logged probability"):
            judge(better, data, behavior="logged", **QUICK)

    def test_the_same_seed_gives_the_same_numbers(self):
        data = choices()
        one, again = (judge(better, data, **QUICK).to_dict() for _ in range(2))
        assert one == again
        assert judge(better, data, **QUICK, seed=1).to_dict()["runs"] != one["runs"]


class TestCriticsJudgeWhatTheyDidNotLearnFrom:
    def test_rewards_of_a_fold_change_no_value_in_it(self):
        data = two_steps(40).transitions
        config = configure(JudgeConfig, QUICK)
        policy = FunctionPolicy(of_h2, data.spec, "of_h2")
        first, second = folds_of(40, 2, config.seed)
        reward = data.reward.copy()
        reward[rows_of(data, first)] += 7
        one, other = (
            fit_critics(d, policy, "sample", 0.9, config, lambda _: None)
            for d in (data, replace(data, reward=reward))
        )
        inside, outside = rows_of(data, first), rows_of(data, second)
        assert (one.v[inside] == other.v[inside]).all()
        assert (one.q[inside] == other.q[inside]).all()
        assert (one.v[outside] != other.v[outside]).any()

    def test_nor_one_of_the_behaviours_own(self):
        data = toy_dataset(discrete=True).transitions
        config = configure(JudgeConfig, QUICK)
        first, second = folds_of(40, 2, config.seed)
        reward = data.reward.copy()
        reward[rows_of(data, first)] += 7
        one, other = (
            own_values(d, 0.9, config, lambda _: None) for d in (data, replace(data, reward=reward))
        )
        assert (one[first] == other[first]).all()
        assert (one[second] != other[second]).any()

    def test_a_critic_that_runs_away_is_refused_and_said_so(self):
        data = two_steps(60)
        found = judge(of_h2, data, discount=0.9, **QUICK, fqe_lr=1e4).candidates[0][1]
        assert "diverged" in (found.estimates["fqe"].refused or "")
        assert found.estimates["wis"].refused is None

    def test_a_policy_that_earns_all_there_is_has_not_diverged(self):
        n, steps = 20, 40  # a reward of 1 a step for ever: every true value is the largest possible
        rng = np.random.default_rng(0)
        ends = np.tile(np.arange(steps) == steps - 1, n)
        data = Dataset.from_arrays(
            rng.normal(size=(n * (steps + 1), 2)).astype(np.float32),
            rng.integers(2, size=n * steps),
            np.ones(n * steps),
            np.zeros(n * steps, bool),
            ends,
            behavior_log_prob=np.full(n * steps, np.log(0.5)),
            action_space=spaces.Discrete(2),
        )
        settings: dict[str, Any] = QUICK | {
            "fqe_steps": 250,
            "fqe_seeds": 1,
            "fqe_target_rate": 0.2,
            "fqe_lr": 1e-2,
        }
        found = judge(of_h2, data, discount=0.8, estimators=["fqe"], **settings)
        one = found.candidates[0][1].estimates["fqe"]
        assert one.refused is None
        assert one.value == pytest.approx(5, abs=0.3)

    def test_a_target_too_slow_for_the_discount_is_said_not_to_have_settled(self):
        data = two_steps(200)

        def notes(**settings: Any) -> str:
            given: dict[str, Any] = QUICK | {"fqe_steps": 150, "fqe_seeds": 1, "fqe_lr": 5e-3}
            given |= settings
            found = judge(of_h2, data, discount=0.9, estimators=["fqe"], **given)
            return " ".join(found.candidates[0][1].notes)

        assert "has not settled" in notes(fqe_target_rate=1e-3)
        assert "has not settled" not in notes(fqe_target_rate=0.1)

    def test_q_and_v_of_h2_are_found(self):
        data = two_steps(200)
        settings: dict[str, Any] = QUICK | {
            "fqe_steps": 200,
            "fqe_batch_size": 128,
            "fqe_lr": 5e-3,
            "fqe_target_rate": 0.1,
        }
        policy = FunctionPolicy(of_h2, data.spec, "of_h2")
        t = data.transitions
        found = fit_critics(
            t, policy, "sample", 0.9, configure(JudgeConfig, settings), lambda _: None
        )
        step = np.arange(len(t)) % 2
        assert np.allclose(found.q, EXACT_Q[step, t.action], atol=0.15)
        assert np.allclose(found.v, (EXACT_Q @ PI)[step], atol=0.15)


class TestEpisodesThatWereCut:
    def test_are_bootstrapped_for_candidate_and_behaviour(self):
        data = toy_dataset(discrete=True)
        found = judge(
            lambda obs: np.tile([0.25, 0.0, 0.75], (len(obs), 1)),
            data,
            discount=0.9,
            estimators=["wis"],
            **QUICK,
        ).candidates[0][1]
        assert found.truncated == 20
        plain = np.mean([e.rewards @ 0.9 ** np.arange(5) for e in data])
        assert (found.behavior.value or 0) > plain


class TestCandidates:
    def test_a_mode_without_a_density_has_no_importance_estimates(self):
        data = toy_dataset(discrete=False)
        run = offrl.fit("bc", data, holdout=0.25, out="run", **SMALL)
        by_mode = judge(run, data, **QUICK).candidates[0][1]
        assert by_mode.weights is None
        assert "acts='sample'" in (by_mode.estimates["wis"].refused or "")
        assert by_mode.estimates["fqe"].value is not None
        sampled = judge(run, data, acts="sample", **QUICK, min_ess=0.0).candidates[0][1]
        assert sampled.estimates["wis"].value is not None

    def test_a_function_of_continuous_actions_is_deterministic_or_a_gaussian(self):
        data = toy_dataset(discrete=False)
        plain = judge(lambda obs: np.full((len(obs), 1), 0.5), data, discount=0.9, **QUICK)
        assert "deterministic" in (plain.candidates[0][1].estimates["dr"].refused or "")
        pair = judge(
            lambda obs: (np.full((len(obs), 1), 0.4), np.full((1, 1), 0.3)),
            data,
            discount=0.9,
            **QUICK,
            min_ess=0.0,
        )
        assert pair.candidates[0][1].estimates["dr"].value is not None

    def test_a_function_that_chooses_is_a_deterministic_policy(self):
        data = choices()
        found = judge(lambda obs: np.full(len(obs), 2), data, **QUICK).candidates[0][1]
        kept = data.transitions.action == 2
        mean = data.transitions.reward[kept].mean()
        assert found.estimates["snips"].value == pytest.approx(mean)

    @pytest.mark.parametrize("acts", ["mode", "sample"])
    def test_a_greedy_policy_is_judged_however_it_is_said_to_act(self, acts: str):
        data = choices(100)
        run = offrl.fit("dqn", data, holdout=0.2, out="run", **SMALL)
        settings: dict[str, Any] = QUICK | {"fqe_steps": 5, "min_ess": 0.0, "acts": acts}
        found = judge(run, data, **settings)
        one = found.candidates[0][1].estimates
        assert one["dm"].value is not None
        assert one["dr"].refused is None

    def test_a_file_is_run_because_it_was_typed_and_its_digest_kept(self, tmp_path: Path):
        (tmp_path / "mine.py").write_text(
            "import numpy as np\ndef pick(obs): return np.tile([.2, .3, .5], (len(obs), 1))\n"
        )
        data = choices()
        found = judge(f"{tmp_path}/mine.py:pick", data, **QUICK).to_dict()["runs"][0]
        assert len(found["source_sha256"]) == 64
        again = judge(better, data, **QUICK).to_dict()["runs"][0]
        assert found["estimates"] == again["estimates"]
        with pytest.raises(NotFoundError, match="no function 'pack'"):
            judge(f"{tmp_path}/mine.py:pack", data, **QUICK)

    def test_a_function_of_a_table_is_given_its_columns(self):
        import pandas as pd

        frame = pd.DataFrame(
            {
                "age": [30.0, 40, 50, 60] * 10,
                "ward": ["A", "B"] * 20,
                "drug": ["x", "y", "y", "x"] * 10,
                "cost": [1.0, 2, 3, 4] * 10,
                "chance": [0.5] * 40,
            }
        )
        roles = {"action": "drug", "reward": "cost", "propensity": "chance", "bandit": True}
        data = Dataset.from_dataframe(frame, obs="age,ward", **roles)
        seen = {}

        def by_ward(obs: dict[str, Any]) -> np.ndarray:
            seen.update(obs)
            return np.where(obs["ward"] == "A", "x", "y")

        found = judge(by_ward, data, estimators=["snips"], **QUICK).candidates[0][1]
        assert set(seen) == {"age", "ward"}
        kept = (frame.ward == "A") == (frame.drug == "x")
        assert found.estimates["snips"].value == pytest.approx(frame.cost[kept].mean())

    @pytest.mark.parametrize(
        ("answer", "says"),
        [
            (lambda obs: np.ones((len(obs), 3)), "no distribution"),
            (lambda obs: np.ones((len(obs), 2)), "Return probabilities"),
            (lambda obs: np.full(len(obs), 7), "outside 0 .. 2"),
        ],
    )
    def test_a_function_that_returns_something_else_is_told(self, answer: Any, says: str):
        with pytest.raises(ConfigError, match=says):
            judge(answer, choices(), **QUICK)

    def test_a_column_of_probabilities_gives_what_the_function_gives(self, tmp_path: Path):
        data = choices()
        t = data.transitions
        probability = better(t.obs)[np.arange(300), t.action]
        lines = [f"{p},{r}" for p, r in zip(probability, t.reward, strict=True)]
        (tmp_path / "new.csv").write_text("p,reward\n" + "\n".join(lines))
        column = judge(f"{tmp_path}/new.csv:p", data, **QUICK).candidates[0][1]
        function = judge(better, data, **QUICK).candidates[0][1]
        for name in ("ips", "snips", "clipped-ips"):
            assert column.estimates[name].value == pytest.approx(function.estimates[name].value)
        assert "probabilities of logged actions" in (column.estimates["dr"].refused or "")

    def test_a_column_in_another_order_is_noticed(self, tmp_path: Path):
        data = choices()
        reward = data.transitions.reward[::-1]
        (tmp_path / "new.csv").write_text("p,reward\n" + "\n".join(f".5,{r}" for r in reward))
        with pytest.raises(CorruptDataError, match="another order"):
            judge(f"{tmp_path}/new.csv:p", data, **QUICK)
        (tmp_path / "short.csv").write_text("p\n0.5\n0.5\n")
        with pytest.raises(ConfigError, match=r"2 values, and .* has 300 steps"):
            judge(f"{tmp_path}/short.csv:p", data, **QUICK)

    def test_spaces_must_be_those_of_the_data(self):
        run = offrl.fit("bc", toy_dataset(discrete=True), out="run", **SMALL)
        with pytest.raises(ConfigError, match="other spaces"):
            judge(run, choices(), **QUICK)


class TestWordsAndWhatIsKept:
    def test_the_discount_is_that_of_the_runs(self):
        data = toy_dataset(discrete=True)
        run = offrl.fit("bc", data, holdout=0.5, out="a", discount=0.5, **SMALL)
        assert judge(run, data, estimators=["fqe"], **QUICK).discount == 0.5
        other = offrl.fit("bc", data, holdout=0.5, out="b", discount=0.6, **SMALL)
        with pytest.raises(ConfigError, match=r"have several: \[0.5, 0.6\]"):
            judge([run, other], data, **QUICK)
        with pytest.raises(ConfigError, match="name no discount"):
            judge(lambda obs: np.zeros(len(obs), int), data, **QUICK)

    def test_a_runs_findings_are_kept_with_it(self):
        data = choices()
        run = offrl.fit("bc", data, holdout=0.2, out="run", seeds=(3, 4), **SMALL)
        found = judge("run/seed_4", data, acts="sample", min_uplift=0.0, **QUICK)
        page = json.loads(Path("run/seed_4/ope.json").read_text())
        assert page["format"] == 1
        assert (page["seed"], page["picked"], page["acts"]) == (4, "last", "sample")
        assert page["estimates"] == json.loads(json.dumps(found.to_dict()["runs"][0]["estimates"]))
        assert page["fingerprint"] == data.fingerprint
        both = judge(run, data, estimators=["snips"], acts="sample", **QUICK)
        assert any("Seed 3 of the 2" in note for note in both.notes)
        assert json.loads(Path("run/seed_3/ope.json").read_text())["seed"] == 3
        assert json.loads(Path("run/seed_4/ope.json").read_text()) == page

    def test_seeds_that_are_named_are_told_apart(self):
        data = choices()
        offrl.fit("bc", data, holdout=0.2, out="run", seeds=(3, 4), **SMALL)
        found = judge(["run/seed_3", "run/seed_4"], data, acts="sample", **QUICK)
        assert [one["run"] for one in found.to_dict()["runs"]] == ["run/seed_3", "run/seed_4"]

    def test_only_what_is_asked_for_is_fitted(self):
        told: list[tuple[int, int]] = []
        judge(
            better,
            choices(),
            estimators=["ips"],
            progress=lambda *counts: told.append(counts),
            **QUICK,
        )
        assert told == []
        judge(better, choices(), progress=lambda *counts: told.append(counts), **QUICK)
        assert told[-1] == (2 * 2 * 20, 2 * 2 * 20)

    def test_nothing_to_judge_is_an_error(self):
        with pytest.raises(ConfigError, match="no candidate"):
            judge([], choices(), **QUICK)
        with pytest.raises(ConfigError, match="no policy to judge"):
            judge(3, choices(), **QUICK)
        with pytest.raises(ConfigError, match="no setting 'fqe_step'"):
            judge(better, choices(), fqe_step=3)
