"""Every failure is two lines and a status; the traceback is for those who ask for it."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offrl.errors import ConfigError, CorruptDataError, NotFoundError, OffrlError
from offrl_cli.failing import explain

Type = Callable[..., Any]


class TestExplain:
    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (OffrlError("It failed.", "do this"), 1),
            (CorruptDataError("It failed.", "do this"), 1),
            (ConfigError("It failed.", "do this"), 2),
            (NotFoundError("It failed.", "do this"), 2),
        ],
    )
    def test_prints_cause_and_remedy(
        self, error: OffrlError, status: int, capsys: pytest.CaptureFixture[str]
    ):
        assert explain(error, debug=False) == status
        assert capsys.readouterr() == ("", "error: It failed.\ntry: do this\n")

    def test_keeps_one_line_each_whatever_the_cause_holds(self, capsys: pytest.CaptureFixture[str]):
        explain(OffrlError("a\nb\x1b[2Jc"), debug=False)
        out, err = capsys.readouterr()
        assert (out, err.count("\n"), "\x1b" in err) == ("", 2, False)
        assert err.startswith("error: a bc")

    def test_calls_what_nobody_foresaw_a_bug(self, capsys: pytest.CaptureFixture[str]):
        assert explain(ValueError("odd"), debug=False) == 1
        err = capsys.readouterr().err
        assert "This is a bug in offrl: ValueError: odd" in err
        assert "--debug" in err
        assert "Traceback" not in err

    def test_shows_the_traceback_on_request(self, capsys: pytest.CaptureFixture[str]):
        explain(ValueError("odd"), debug=True)
        assert "ValueError: odd\nerror: " in capsys.readouterr().err

    def test_a_full_disk_is_not_a_bug(self, capsys: pytest.CaptureFixture[str]):
        full = OSError(errno.ENOSPC, "No space left on device", "/x/y")
        assert explain(full, debug=False) == 1
        assert capsys.readouterr().err.splitlines() == [
            "error: No space left on device: /x/y.",
            "try: free some space, or name another folder",
        ]


class TestDebug:
    @pytest.mark.parametrize(
        "words",
        [("--debug", "data", "show", "nothing-v0"), ("data", "show", "nothing-v0", "--debug")],
    )
    def test_before_or_after_the_command_shows_where_it_happened(
        self, type_: Type, words: tuple[str, ...]
    ):
        typed = type_(*words)
        assert (typed.status, typed.out) == (2, "")
        assert "Traceback" in typed.err
        assert typed.err.splitlines()[-1].startswith("try: ")

    def test_otherwise_two_lines_are_all(self, refused: Type):
        refused("data", "show", "nothing-v0")  # U2
        refused("data", "show", "nothing/data/main_data.hdf5")  # U3
        refused("train", "--config", "nothing.toml", "--algo", "bc")

    def test_with_json_standard_output_stays_empty(self, refused: Type):
        refused("data", "show", "nothing-v0", "--json")

    def test_a_config_that_is_no_toml_is_named(self, refused: Type, tmp_path: Path):
        file = tmp_path / "mine.toml"
        file.write_text("steps = = 3\n")
        assert "mine.toml" in refused("train", "--config", file).err
