"""Words that are off: exit status 2, nothing on standard output, and the right word named (U1)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offrl.run import Settings
from offrl_cli.commands import ORDER
from offrl_cli.flags import PEERS

Type = Callable[..., Any]

COMMANDS = [
    ("demo",),
    ("doctor",),
    ("collect",),
    ("data", "list"),
    ("data", "show"),
    ("data", "check"),
    ("data", "download"),
    ("data", "import"),
    ("data", "export"),
    ("algos",),
    ("train",),
    ("eval",),
    ("compare",),
    ("references",),
    ("select",),
]


class TestHelp:
    def test_without_words_the_commands_are_listed(self, type_: Type):
        typed = type_()
        assert typed.status == 0
        listed = [line.split()[0] for line in typed.out.split("Commands:")[1].splitlines() if line]
        assert listed == list(ORDER)

    def test_the_version_is_printed(self, type_: Type):
        assert type_("--version").out == "offrl 0.1.0\n"

    @pytest.mark.parametrize("words", COMMANDS)
    def test_every_command_explains_itself_and_takes_json_and_debug(
        self, type_: Type, words: tuple[str, ...]
    ):
        typed = type_(*words, "--help")
        assert typed.status == 0
        assert f"Usage: offrl {' '.join(words)}" in typed.out
        assert "--json" in typed.out
        assert "--debug" in typed.out
        assert "<str>" not in typed.out

    @pytest.mark.parametrize("words", [(), *COMMANDS])
    def test_help_fits_a_narrow_terminal(
        self, type_: Type, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("COLUMNS", "40")
        typed = type_(*words, "--help")
        assert typed.status == 0
        assert max(map(len, typed.out.splitlines())) <= 40

    def test_the_help_of_an_algorithm_lists_its_settings_with_their_defaults(self, type_: Type):
        typed = type_("train", "--algo", "awr", "--help")
        _, own = typed.out.split("Hyper-parameters of awr:")
        text = " ".join(own.split())
        assert "--temperature X Advantage worth one e-fold of weight" in text
        assert "[default: 0.99]" in text
        assert "--adv-norm none|std" in text
        assert "--temperature" not in type_("train", "--algo", "bc", "--help").out

    def test_the_help_names_the_defaults_that_the_library_has(self, type_: Type):
        text = " ".join(type_("train", "--help").out.split())
        for name, option in (("steps", "--steps N"), ("eval_episodes", "--eval-episodes N")):
            default = Settings(algo="", dataset="").__getattribute__(name)
            assert f"[default: {default}]" in text.split(option)[1].split(" --")[0]


class TestMistypedWords:
    def test_a_command(self, refused: Type):
        assert "try: offrl train\n" in refused("trian").err
        assert "try: offrl data check\n" in refused("data", "chek").err

    def test_a_command_that_lives_elsewhere(self, refused: Type):
        assert "try: offrl data show\n" in refused("show", "x").err
        assert "try: offrl eval\n" in refused("evaluate", "x").err

    def test_a_group_without_a_command(self, refused: Type):
        assert "try: offrl data list, show, check, download" in refused("data").err

    def test_an_option(self, refused: Type):
        typed = refused("doctor", "--jsno")
        assert "There is no option --jsno." in typed.err
        assert "try: --json\n" in typed.err

    def test_an_option_without_its_value(self, refused: Type):
        typed = refused("train", "--algo", "bc", "--steps")
        assert "--steps" in typed.err
        assert "offrl train --help" in typed.err

    def test_an_argument_that_is_missing(self, refused: Type):
        assert "REF" in refused("data", "show").err

    def test_an_argument_too_many(self, refused: Type):
        assert "extra" in refused("data", "show", "a", "b").err

    def test_an_algorithm(self, refused: Type):
        typed = refused("train", "--algo", "awrr", "--dataset", "x")
        assert "There is no algorithm 'awrr'. Did you mean 'awr'?" in typed.err

    def test_no_algorithm(self, refused: Type):
        assert "--algo NAME, one of awr, bc" in refused("train", "--dataset", "x").err

    def test_a_choice(self, refused: Type):
        typed = refused("train", "--algo", "bc", "--compile", "onn")
        assert "--compile: 'onn' is not one of auto, on, off. Did you mean 'on'?" in typed.err
        assert "Did you mean 'remote'?" in refused("data", "list", "remot").err

    def test_a_dataset(self, refused: Type, shop: str):
        typed = refused("train", "--algo", "bc", "--dataset", "me/shopp-v0")
        assert f"Did you mean '{shop}'?" in typed.err

    def test_a_recipe_that_was_not_collected(self, refused: Type):
        typed = refused("data", "show", "offrl/pendulum/medium-v0")
        assert "offrl collect offrl/pendulum/medium-v0" in typed.err

    def test_a_run(self, refused: Type):
        assert "runs/nothing" in refused("eval", "runs/nothing").err

    def test_an_environment(self, refused: Type):
        words = ("--policy", "random", "--episodes", "1", "--out", "me/x-v0")
        assert "Pendulum-v1" in refused("collect", "--env", "Pendulumm-v1", *words).err


class TestValues:
    @pytest.mark.parametrize(
        ("words", "cause"),
        [
            (("--steps", "many"), "--steps: 'many' is not a whole number."),
            (("--steps", "0"), "--steps: '0' is not at least 1."),
            (("--steps", "1.5"), "--steps: '1.5' is not a whole number."),
            (("--seed", "-1"), "--seed: '-1' is below 0."),
            (("--seeds", "7-0"), "--seeds: '7-0' names no seed"),
            (("--seeds", "0,0"), "twice"),
            (("--seeds", "a"), "--seeds: 'a' names no seeds."),
            (("--seed", "1", "--seeds", "0-1"), "--seed and --seeds are both given."),
            (("--temperature", "hot"), "--temperature: 'hot' is not a number."),
            (("--value-steps", "2.5"), "--value-steps: '2.5' is not a whole number."),
            (("--normalize-obs", "maybe"), "--normalize-obs: 'maybe' is neither true nor false."),
            (("--temperature", "-1"), "temperature"),
            (("--holdout", "2"), "holdout"),
        ],
    )
    def test_a_wrong_one_is_named_and_nothing_is_written(
        self, refused: Type, shop: str, words: tuple[str, ...], cause: str
    ):
        assert cause in refused("train", "--algo", "awr", "--dataset", shop, *words).err
        assert not Path("runs").exists()

    @pytest.mark.parametrize(
        ("words", "remedy"),
        [
            (("--batch-size", "0"), "--batch-size (batch_size in a file or in Python)"),
            (("--temperature", "-1"), "--temperature (temperature in a file or in Python)"),
        ],
    )
    def test_one_out_of_range_is_to_be_changed(
        self, refused: Type, shop: str, words: tuple[str, ...], remedy: str
    ):
        err = refused("train", "--algo", "awr", "--dataset", shop, *words).err
        assert err.endswith(f"try: Change {remedy}.\n")


class TestNamesOfOtherTools:
    @pytest.mark.parametrize(
        ("typed", "ours"),
        [
            ("-n", "--steps"),
            ("--n-timesteps", "--steps"),
            ("--max-timesteps", "--steps"),
            ("--total-timesteps", "--steps"),
            ("--env-id", "--eval-env"),
            ("--log-folder", "--out"),
            ("--output-dir", "--out"),
            ("--save-dir", "--out"),
            ("--eval-freq", "--eval-every"),
            ("--save-freq", "--save-every"),
            ("--log-interval", "--log-every"),
            ("--random-seed", "--seed"),
            ("--critic-lr", "--lr"),
            ("--n-layers", "--hidden-layers"),
            ("--batch", "--batch-size"),
            ("--n-eval-episodes", "--eval-episodes"),
            ("--gamma", "--discount"),
            ("--beta", "--temperature"),
            ("--lam", "--td-lambda"),
            ("--learning-rate", "--lr"),
            ("--learning_rate", "--lr"),
            ("--batch_size", "--batch-size"),
            ("--cuda", "--device"),
        ],
    )
    def test_are_answered_with_ours(self, refused: Type, typed: str, ours: str):
        err = refused("train", "--algo", "awr", "--dataset", "x", typed, "1").err
        assert f"There is no option {typed}." in err
        assert f"try: {ours}" in err

    @pytest.mark.parametrize("typed", ["--tau", "--l2", "--dropout"])
    def test_are_not_taken_for_something_else(self, refused: Type, typed: str):
        err = refused("train", "--algo", "awr", "--dataset", "x", typed, "1").err
        assert "lists the options" in err

    def test_with_the_conversion_where_the_number_differs(self, refused: Type):
        err = refused("train", "--algo", "awr", "--dataset", "x", "--beta", "0.05").err
        assert "try: --temperature (" in err

    @pytest.mark.parametrize(
        "words",
        [
            ("train", "--algo", "bc"),
            ("train", "--algo", "td3", "--env", "Pendulum-v1"),
            ("train", "--algo", "iwpg", "--env", "CartPole-v1"),
            ("finetune", "--algo", "sac"),
            ("eval",),
            ("collect",),
            ("ope",),
            ("select",),
            ("compare",),
            ("report",),
        ],
        ids=" ".join,
    )
    def test_no_remedy_is_an_option_that_the_command_lacks(
        self, type_: Type, words: tuple[str, ...]
    ):
        listed = {word.rstrip(",") for word in type_(*words, "--help").out.split()}
        typed = [name for names in PEERS.values() for name in names.split()]
        wrong = list[str]()
        for name in [*PEERS, *typed]:
            err = type_(*words, f"{name}=1" if name.startswith("--") else f"{name}1").err
            if f"There is no option {name}." in err:
                remedy = err.split("try: ")[1].split()[0]
                if remedy.startswith("--") and remedy not in listed:
                    wrong.append(f"{name}: {remedy}")
        assert not wrong
