"""`offrl demo` end to end: all is measured, and AWR beats the behaviour that it learned from."""

import shlex
from collections.abc import Callable
from typing import Any

import pytest

from offrl.demo import DATASET, EPISODES, STEPS, Demo, Line

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
