"""`offrl demo` and `offrl demo logs` end to end: all is measured, nothing is said beforehand."""

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offrl.demo.logs import LogDemo
from offrl.demo.pendulum import DATASET, EPISODES, STEPS, Demo, Line
from offrl.demo.shop import Truth
from offrl_cli.demo import log_answer
from offrl_cli.output import Pairs

Type = Callable[..., Any]


def demo(low: float) -> Demo:
    lines = (
        Line("behavior", -500.0, (-520.0, -480.0), 50, 0, 1.0, None),
        Line("bc", -490.0, (-520.0, -460.0), 50, 10, 1.0, "runs/bc"),
        Line("awr", -400.0, (low, -300.0), 50, 10, 1.0, "runs/awr"),
    )
    return Demo({"dataset": DATASET}, (), lines, (), 3.0)


class TestVerdict:
    def test_better_is_an_interval_above_the_mean_of_the_behaviour(self):
        assert demo(-499.0).improved
        assert not demo(-501.0).improved


@pytest.mark.slow
@pytest.mark.timeout(900)
class TestDemo:
    def test_runs_through_beats_the_behaviour_and_can_be_repeated(self, type_: Type):
        shown = type_("demo")
        assert shown.status == 0
        assert "AWR does better than the behaviour it learned from." in shown.out
        again = type_("demo", "--json")
        assert again.status == 0
        assert f"using {DATASET}, collected before" in again.err
        found = again.json
        assert [line["name"] for line in found["results"]] == ["behavior", "bc", "awr"]
        assert [line["episodes"] for line in found["results"]] == [EPISODES] * 3
        assert [line["steps"] for line in found["results"]] == [0, *STEPS.values()]
        assert found["seconds"] < 180
        before = [line["return_mean"] for line in found["results"]]
        answers = [type_(*shlex.split(words)[1:], "--json") for words in found["commands"]]
        assert [answer.status for answer in answers] == [0] * 7
        made, _, behavior, _, bc, _, awr = (answer.json for answer in answers)
        assert made["fingerprint"] == found["dataset"]["fingerprint"]
        assert [judged["return_mean"] for judged in (behavior, bc, awr)] == before


class TestLogDemo:
    def test_another_word_is_refused_and_the_one_there_is_named(self, refused: Type):
        assert "logs" in refused("demo", "log").err
        assert not Path("runs").exists()

    @pytest.mark.parametrize(
        ("verdict", "true_uplift", "status", "said"),
        [
            ("ship", 2.0, 0, "ship (asked for: 1), and the truth bears it out"),
            ("ship", 0.5, 1, "ship (asked for: 1), and it is WRONG"),
            ("hold", 0.5, 3, "hold (asked for: 1), and the truth bears it out"),
            ("cannot-tell", 2.0, 3, "cannot-tell (asked for: 1), so nothing is decided"),
        ],
    )
    def test_the_verdict_stands_beside_the_truth_and_makes_the_status(
        self, verdict: str, true_uplift: float, status: int, said: str
    ):
        answer = log_answer(log_demo(verdict, true_uplift))
        assert answer.exit_code == status
        pairs = next(block for block in answer.blocks if isinstance(block, Pairs)).pairs
        assert str(pairs["verdict"]).startswith(said)
        assert answer.data["verdict"] == verdict

    @pytest.mark.slow
    @pytest.mark.timeout(1_800)
    def test_it_ships_what_is_better_and_can_be_repeated_by_hand(self, type_: Type):
        began = time.process_time()
        shown = type_("demo", "logs", "--json")
        assert time.process_time() - began < 90
        found = shown.json
        assert (shown.status, found["verdict"], found["agrees"]) == (0, "ship", True)
        decision = found["ope"]["runs"][0]["decision"]
        assert decision["lo"] >= decision["min_uplift"]
        assert found["truth"]["uplift_ci"][0] > decision["min_uplift"]
        answers = [type_(*shlex.split(words)[1:], "--json") for words in found["commands"]]
        assert [answer.status for answer in answers] == [0, 0, 0, 0]
        imported, checked, _, judged = (answer.json for answer in answers)
        assert imported["fingerprint"] == found["dataset"]["fingerprint"]
        assert checked["ok"]
        assert judged["runs"][0]["decision"] == decision
        assert judged["runs"][0]["estimates"] == found["ope"]["runs"][0]["estimates"]


def log_demo(verdict: str, true_uplift: float) -> LogDemo:
    decision = {
        "verdict": verdict, "min_uplift": 1.0, "estimator": "dr", "uplift": 2.1, "lo": 1.2,
        "hi": 3.0, "reason": "So.", "assumptions": ["As before."],
    }  # fmt: skip
    one = {"estimates": {"dr": {"value": 12.1, "lo": 11.0, "hi": 13.0}}, "episodes": 40}
    judgement = {
        "runs": [{**one, "decision": decision}], "behavior_value": 10.0,
        "behavior_ci": [9.0, 11.0], "discount": 0.99,
    }  # fmt: skip
    near = (true_uplift - 0.1, true_uplift + 0.1)
    truth = Truth(100, 0, 0.99, 12.0, (11.0, 13.0), 10.0, (9.0, 11.0), true_uplift, near)
    dataset = {"dataset": "demo/shop-v0", "episodes": 100, "steps": 200}
    return LogDemo("x.csv", 9, dataset, (), "x", judgement, truth, ("offrl data",), 1.0)
