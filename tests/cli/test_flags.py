"""Options that come from an algorithm's configuration, wherever the algorithm is named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offrl_cli.flags import named_algorithm, value_of

Type = Callable[..., Any]

OWN = """
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, final

import offrl
from offrl.algorithm import AlgorithmConfig

Path("ran").touch()


@dataclass(frozen=True, kw_only=True)
class OwnConfig(AlgorithmConfig):
    {setting}: Annotated[int, "Mine."] = 1


@final
class Own(offrl.Algorithm[OwnConfig]):
    name = "own"
    summary = "Mine."
    Config = OwnConfig
"""


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str], str]:
    """Write an algorithm with one setting of this name, and say how it is typed."""

    def write(setting: str) -> str:
        (tmp_path / "own.py").write_text(OWN.format(setting=setting))
        return f"{tmp_path}/own.py:Own"

    return write


class TestWhereTheAlgorithmIsNamed:
    def test_the_last_of_either_spelling_counts(self):
        assert value_of("--algo", ["--algo", "bc", "--algo=awr"]) == "awr"
        assert value_of("--algo", ["--steps", "3"]) is None

    def test_a_flag_wins_over_a_file_and_a_file_over_the_run(self, tmp_path: Path):
        config, run = tmp_path / "c.toml", tmp_path / "run.toml"
        config.write_text('algo = "awr"\n')
        run.write_text('algo = "bc"\n')
        resume = ["--out", str(tmp_path), "--resume"]
        assert named_algorithm(resume) == "bc"
        assert named_algorithm([*resume, "--config", str(config)]) == "awr"
        assert named_algorithm([*resume, "--config", str(config), "--algo", "bc"]) == "bc"
        assert named_algorithm(["--out", str(tmp_path)]) is None

    def test_a_file_brings_the_options_of_its_algorithm(self, refused: Type, tmp_path: Path):
        config = tmp_path / "c.toml"
        config.write_text('algo = "awr"\n')
        words = ("train", "--config", config, "--dataset", "nothing-v0")
        assert "no dataset 'nothing-v0'" in refused(*words, "--temperature", 2).err
        config.write_text('algo = "bc"\n')
        assert "There is no option --temperature." in refused(*words, "--temperature", 2).err


class TestCodeOfTheUser:
    def test_brings_its_own_options(self, type_: Type, own: Callable[[str], str]):
        typed = type_("train", "--algo", own("depth_first"), "--help")
        assert typed.status == 0
        assert "--depth-first N" in typed.out
        assert "Mine. [default: 1]" in typed.out

    def test_may_not_hide_an_option_of_train(self, refused: Type, own: Callable[[str], str]):
        typed = refused("train", "--algo", own("threads"), "--dataset", "x")
        assert "hide train's own --threads" in typed.err

    def test_is_not_run_because_a_file_names_it(
        self, refused: Type, own: Callable[[str], str], shop: str, tmp_path: Path
    ):
        code = own("mine")
        config = tmp_path / "c.toml"
        config.write_text(f'algo = "{code}"\ndataset = "{shop}"\n')
        assert f"--algo {code}" in refused("train", "--config", config).err
        assert not Path("ran").exists()
