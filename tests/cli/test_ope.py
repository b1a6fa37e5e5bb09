"""`offrl ope`: what it prints, keeps and exits with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import offrl

Type = Callable[..., Any]
QUICK = (
    *("--fqe-steps", 20, "--fqe-seeds", 2, "--fqe-hidden-size", 8, "--replicates", 200),
    *("--acts", "sample"),
)


@pytest.fixture
def visits() -> str:
    """A saved log of one-step decisions, arm 2 the best, and a candidate that prefers it."""
    rng = np.random.default_rng(0)
    arm = rng.choice(3, size=400, p=[0.5, 0.3, 0.2])
    data = offrl.Dataset.from_arrays(
        rng.uniform(size=(400, 2)).astype(np.float32),
        arm,
        arm + rng.normal(0, 0.1, 400),
        np.ones(400, bool),
        np.zeros(400, bool),
        next_obs=rng.uniform(size=(400, 2)).astype(np.float32),
        behavior_log_prob=np.log(np.array([0.5, 0.3, 0.2])[arm]),
        action_space=spaces.Discrete(3),
    )
    Path("mine.py").write_text(
        "import numpy as np\ndef better(obs): return np.tile([.2, .3, .5], (len(obs), 1))\n"
    )
    return data.save("me/visits-v0").id


@pytest.fixture
def run(visits: str) -> str:
    """A run on the visits with a fifth of them held out."""
    offrl.fit(
        *("bc", visits),
        **{"out": "run", "holdout": 0.2, "steps": 30, "hidden_size": 8, "compile": "off"},
    )
    return "run"


class TestOpe:
    def test_json_holds_what_scripts_rely_on(self, run: str, visits: str, type_: Type):
        found = type_("ope", run, "--dataset", visits, *QUICK, "--json").json
        assert {"discount", "behavior_value", "runs"} <= set(found)
        (one,) = found["runs"]
        assert {"run", "ess", "estimates", "ess_per_step", "mean_weight_per_step"} <= set(one)
        for estimate in one["estimates"].values():
            assert {"value", "lo", "hi", "interval", "refused"} <= set(estimate)
        assert found["verdict"] is None
        assert one["episodes"] == 80
        assert json.loads(Path("run/seed_0/ope.json").read_text())["estimates"] == one["estimates"]

    def test_a_person_sees_values_and_the_discount(self, run: str, visits: str, type_: Type):
        typed = type_("ope", run, "--dataset", visits, *QUICK, "--estimators", "snips,dr")
        assert typed.status == 0
        assert "discount" in typed.out
        assert "snips" in typed.out
        assert "ips " not in typed.out.replace("snips ", "")
        assert typed.next == "offrl ope run --dataset me/visits-v0 --min-uplift 0"

    def test_ship_is_the_only_yes(self, visits: str, type_: Type):
        words = ("ope", "mine.py:better", "--dataset", visits, *QUICK[:-2], "--estimators", "dr")
        yes = type_(*words, "--min-uplift", "0.1")
        assert (yes.status, "verdict" in yes.out, "ship" in yes.out) == (0, True, True)
        no = type_(*words, "--min-uplift", "5", "--json")
        assert (no.status, no.json["verdict"]) == (3, "hold")
        unsure = type_(*words, "--min-uplift", "0.6", "--json")
        assert (unsure.status, unsure.json["verdict"]) == (3, "cannot-tell")
        assert unsure.json["runs"][0]["decision"]["would_settle"]

    def test_a_column_of_a_table_is_a_candidate(self, visits: str, type_: Type):
        data = offrl.load(visits).transitions
        chance = np.array([0.2, 0.3, 0.5])[data.action]
        Path("new.csv").write_text("p\n" + "\n".join(map(str, chance)))
        words = ("--dataset", visits, *QUICK, "--json", "--reward-range=-1,3")
        column = type_("ope", "new.csv:p", *words).json["runs"][0]["estimates"]
        function = type_("ope", "mine.py:better", *words).json["runs"][0]["estimates"]
        assert column["snips"]["value"] == pytest.approx(function["snips"]["value"])
        assert set(column["ips"]["intervals"]) == {
            *("bootstrap", "student-t", "bernstein", "hoeffding")
        }

    def test_words_that_are_off_are_answered(self, visits: str, refused: Type):
        assert "No dataset" in refused("ope", "mine.py:better").err
        wrong = refused("ope", "mine.py:better", "--dataset", visits, "--estimators", "snibs")
        assert "Did you mean 'snips'?" in wrong.err
        assert "try: --discount" in refused("ope", "a", "--dataset", visits, "--gamma", "1").err
        assert "There is no run" in refused("ope", "no/run", "--dataset", visits).err
        low = refused("ope", "mine.py:better", "--dataset", visits, "--replicates", "10")
        assert "'replicates' must be at least 100" in low.err
