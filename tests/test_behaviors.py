"""Of a run that acted come the recipes that it bears out, and a command that trains it again."""

import shlex
from pathlib import Path

import pytest

import offrl
from benchmarks import behaviors, cards
from benchmarks.behaviors import Tried, command_of, ladder, picked
from offrl.checkpoint import load_run
from offrl.collect.weights import read_page
from offrl.data import catalogue
from offrl.data.recipe import load_recipe
from offrl_cli import main


def run_of(*scores: float) -> list[Tried]:
    return [Tried(100 * i, 32.0 * score, score) for i, score in enumerate(scores)]


def test_medium_is_nearest_to_a_third_and_expert_the_best() -> None:
    tried = run_of(0, 12, 30, 45, 80, 96, 95)
    medium, expert = picked(tried, tried[-3:])
    assert medium is not None
    assert expert is not None
    assert (medium.score, expert.score) == (30, 96)


@pytest.mark.parametrize(
    ("scores", "has_medium", "has_expert"),
    [
        ((0, 5, 12, 18), False, False),  # never got there
        ((0, 5, 60, 90), False, True),  # no checkpoint between
        ((0, 25, 40, 60), True, False),  # not good enough
        ((0, 30, 110, 40), True, True),  # fell back at the end
        ((0, 30, 85, 80), True, True),
    ],
)
def test_what_a_run_does_not_bear_out_has_no_recipe(
    scores: tuple[float, ...], has_medium: bool, has_expert: bool
) -> None:
    medium, expert = picked(run_of(*scores), run_of(*scores))
    assert (medium is not None, expert is not None) == (has_medium, has_expert)


def test_a_ladder_goes_from_the_first_checkpoint_to_the_medium_one_in_even_steps() -> None:
    tried = run_of(*range(20))
    assert [one.step for one in ladder(tried, tried[14])] == list(range(0, 1401, 200))
    assert [one.step for one in ladder(tried, tried[2])] == [0, 100, 200]


class TestARun:
    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        words = ["--env", "Pendulum-v1", "--env-steps", "240", "--hidden-size", "8"]
        words += ["--batch-size", "8", "--save-every", "120", "--eval-episodes", "1"]
        command = ["train", "--algo", "td3", *words, "--compile", "off"]
        assert main([*command, "--out", str(tmp_path / "run")]) == 0
        return tmp_path / "run"

    def test_the_command_that_is_kept_trains_the_same_policy(
        self, run: Path, tmp_path: Path
    ) -> None:
        command = command_of(load_run(run), 0)
        assert command.startswith("offrl train --algo td3 --env Pendulum-v1 --env-steps 240 --seed")
        assert main([*shlex.split(command)[1:], "--out", str(tmp_path / "again")]) == 0
        first, second = (offrl.load_policy(path) for path in (run, tmp_path / "again"))
        weights = zip(
            first.network.state_dict().values(), second.network.state_dict().values(), strict=True
        )
        assert all(a.equal(b) for a, b in weights)

    def test_weights_recipes_and_cards_are_written_and_collect(
        self, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shipped = tmp_path / "datasets"
        monkeypatch.setattr(catalogue, "_shipped", lambda: shipped)
        for name, value in (
            ("DATASETS", shipped), ("EPISODES", 1), ("STEPS", 800), ("RUNG_EPISODES", 2),
            ("BETWEEN", (-1e3, 1e3)), ("EXPERT", -1e3),
        ):  # fmt: skip
            monkeypatch.setattr(behaviors, name, value)  # a policy of 240 steps is no expert
        monkeypatch.setattr("sys.argv", ["behaviors", "pendulum", str(run)])
        assert behaviors.main() == 0
        assert set(catalogue.shipped_recipes()) == {
            f"offrl/pendulum/{variant}-v0"
            for variant in ("expert", "medium", "medium-expert", "medium-replay")
        }
        replay = load_recipe("offrl/pendulum/medium-replay-v0")
        assert replay.episodes == 2 * len(replay.behaviors)
        assert {behavior.noise for behavior in replay.behaviors} == {0.1}
        both = load_recipe("offrl/pendulum/medium-expert-v0").behaviors
        assert [behavior.noise for behavior in both] == [0.1, 0.02]
        data = offrl.record("offrl/pendulum/medium-expert-v0")
        assert data.log_prob == "logged"
        text = (shipped / "pendulum" / "medium-expert-v0" / "README.md").read_text()
        name = load_recipe("offrl/pendulum/expert-v0").behaviors[0].policy
        assert data.fingerprint in text
        assert read_page(name.removeprefix("weights:"))["command"] in text
        assert cards.main(["--check", "offrl/pendulum/medium-expert-v0"]) == 0
