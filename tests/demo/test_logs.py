"""`offrl demo logs`: a verdict from a log alone, by the tool, and the truth beside it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import offrl
from offrl.data.catalogue import datasets_root
from offrl.demo import logs
from offrl.demo.logs import DATASET, ROLES, LogDemo, demonstrate_logs
from offrl.demo.shop import OFFERS, Seen, Shop, Truth, Visits, log_of, own_rule
from offrl.errors import ConfigError

QUICK: dict[str, Any] = {"fqe_steps": 60, "fqe_seeds": 2, "fqe_hidden_size": 16}


def found(verdict: str, true_uplift: float) -> LogDemo:
    decision = {"verdict": verdict, "min_uplift": 1.0}
    near = (true_uplift - 0.1, true_uplift + 0.1)
    truth = Truth(100, 0, 0.99, 12.0, (11.0, 13.0), 10.0, (9.0, 11.0), true_uplift, near)
    return LogDemo("x.csv", 9, {}, (), "x", {"runs": [{"decision": decision}]}, truth, (), 1.0)


class TestAgreement:
    @pytest.mark.parametrize(
        ("verdict", "true_uplift", "agrees"),
        [
            ("ship", 2.0, True),
            ("ship", 0.5, False),
            ("hold", 0.5, True),
            ("hold", 2.0, False),
            ("cannot-tell", 2.0, None),
            ("cannot-tell", 0.5, None),
        ],
    )
    def test_the_truth_bears_a_verdict_out_or_not(
        self, verdict: str, true_uplift: float, agrees: bool | None
    ):
        assert found(verdict, true_uplift).agrees is agrees


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demonstration of seconds: too few customers and steps to learn much."""
    training = {"value_steps": 20, "q_steps": 30, "policy_steps": 30, "hidden_size": 16}
    monkeypatch.setattr(logs, "CUSTOMERS", 250)
    monkeypatch.setattr(logs, "STEPS", 80)
    monkeypatch.setattr(logs, "TRAINING", {**logs.TRAINING, **training})
    monkeypatch.setattr(logs, "JUDGING", {**logs.JUDGING, **QUICK})
    monkeypatch.setattr(logs, "KNOWN", 500)


@pytest.mark.usefixtures("small")
class TestDemonstration:
    def test_the_verdict_is_what_judging_the_run_left_there(self):
        shown = demonstrate_logs(Path("runs"))
        kept = json.loads(Path(shown.run, "seed_0", "ope.json").read_text())
        assert shown.decision == kept["decision"]
        assert shown.to_dict()["verdict"] == kept["decision"]["verdict"]
        assert (shown.truth.discount, shown.truth.customers) == (kept["discount"], 500)
        assert not kept["in_sample"]
        log = Path(shown.log)
        assert log.parent == Path("runs")
        assert len(log.read_text().splitlines()) == shown.rows + 1
        assert shown.dataset["episodes"] == 250
        assert shown.dataset["log_prob"] == "logged"
        assert json.loads(json.dumps(shown.to_dict()))["agrees"] == shown.agrees

    def test_it_comes_again_and_replaces_only_its_own_dataset(self):
        first = demonstrate_logs(Path("runs"))
        other = demonstrate_logs(Path("others"), seed=1)
        assert offrl.load(DATASET).fingerprint == other.dataset["fingerprint"]
        assert other.dataset["fingerprint"] != first.dataset["fingerprint"]
        assert Path(first.log).exists()

    def test_where_no_offer_moves_anybody_nothing_is_shipped(self):
        shown = demonstrate_logs(Path("runs"), shop=Shop(moved=0))
        assert shown.truth.uplift == 0
        assert shown.decision["verdict"] != "ship"


def test_a_dataset_of_ones_own_is_left_alone():
    own = offrl.Dataset.from_arrays(
        np.zeros((4, 2)), np.zeros(4, int), np.ones(4), np.ones(4, bool), np.zeros(4, bool),
        next_obs=np.zeros((4, 2)),
    ).save(DATASET)  # fmt: skip
    with pytest.raises(ConfigError, match=f"{DATASET} is a dataset of your own"):
        demonstrate_logs(Path("runs"))
    assert offrl.load(DATASET).fingerprint == own.fingerprint
    assert not Path("runs").exists()
    assert datasets_root().is_dir()


class TestJudgingTheShop:
    """What a tool must not do with the same log, whoever is the candidate."""

    def imported(self, visits: Visits, seed: int = 0) -> offrl.Dataset:
        Path("shop.csv").write_text(log_of(visits, seed))
        roles: dict[str, Any] = {**ROLES, "action_values": ",".join(OFFERS)}
        return offrl.import_file("shop.csv", **roles)

    def test_coupons_are_not_shipped_where_the_log_has_none_for_those_who_would_get_them(self):
        """They would be worth it, and this log cannot know."""

        def no_coupons_for_phones(seen: Seen) -> np.ndarray:
            phone = (seen["device"] == "phone")[:, None]
            return np.where(phone, [0.5, 0.5, 0.0], own_rule(seen))

        def coupons(seen: Any) -> np.ndarray:
            return np.where((seen["device"] == "phone")[:, None], [0, 0, 1], own_rule(seen))

        data = self.imported(Shop().visits(no_coupons_for_phones, 1_500, 0))
        judged = offrl.judge(coupons, data, min_uplift=0, discount=0.99, **QUICK)
        assert Shop().truth(coupons, 0.99, 20_000, 1).uplift > 1
        assert judged.verdict == "cannot-tell"

    def test_the_shops_own_rule_is_no_better_than_itself(self):
        data = self.imported(Shop().visits(own_rule, 1_500, 0))
        words: dict[str, Any] = {"estimators": ["wpdis"], "min_uplift": 1, "discount": 0.99}
        judged = offrl.judge(own_rule, data, **words, **QUICK)
        assert judged.verdict == "hold"
        weights = judged.best[1].weights
        assert weights is not None
        assert weights.ess == pytest.approx(1_500)

    def test_what_is_worse_is_held(self):
        data = self.imported(Shop().visits(own_rule, 3_000, 0))

        def no_offers(seen: Any) -> np.ndarray:
            return np.tile([1.0, 0.0, 0.0], (len(seen["device"]), 1))

        assert Shop().truth(no_offers, 0.99, 20_000, 1).uplift < 0
        assert offrl.judge(no_offers, data, min_uplift=1, discount=0.99, **QUICK).verdict == "hold"
