"""What is printed: one line stays one line, JSON stays JSON, a table fits or becomes lines."""

import io
import json
import math
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offrl_cli.output import Answer, Pairs, Rows, answer, clean, interval, number


class TestClean:
    @given(st.text())
    def test_leaves_no_character_that_moves_or_hides(self, text: str):
        kept = clean(text)
        assert not {unicodedata.category(char) for char in kept} & {"Cc", "Zl", "Zp"}
        assert "\u202e" not in kept

    @given(st.text(st.characters(categories=("L", "N", "P"))))
    def test_leaves_words_alone(self, text: str):
        assert clean(text) == text

    @pytest.mark.parametrize(
        "text",
        ["\x1b[31mred\x1b[0m", "\x1b]8;;http://x\x07red\x1b]8;;\x07", "\x9b31mred", "re\x1bcd"],
    )
    def test_takes_escape_sequences_out(self, text: str):
        assert "\x1b" not in clean(text)
        assert "\x9b" not in clean(text)
        assert "\x07" not in clean(text)

    def test_a_line_cannot_forge_a_second_one(self):
        assert clean("a\nnext: offrl x") == "a next: offrl x"


class TestNumbers:
    def test_are_short(self):
        assert [number(v) for v in (None, 3, 2.26, True, "x")] == ["-", "3", "2.26", "yes", "x"]
        assert number(math.nan) == "nan"
        assert number(np.float64(0.125)) == "0.125"
        assert [number(v) for v in (-1234.56, 12.345, 0.0)] == ["-1234.6", "12.35", "0.0"]

    def test_that_are_small_keep_three_digits(self):
        assert [number(v) for v in (0.00463, -0.0682908, 1e-9)] == ["0.00463", "-0.0683", "1e-09"]

    def test_an_interval_that_is_not_there_is_none(self):
        assert (interval((-1.0, 2.5)), interval(None)) == ("[-1.00, 2.50]", "none")


class TestAnswer:
    def test_json_is_one_object_and_what_is_not_finite_is_null(
        self, capsys: pytest.CaptureFixture[str]
    ):
        data = {"a": math.nan, "b": [np.float32(1), math.inf], "c": np.arange(2), "d": (None, "x")}
        answer(Answer(data, ["text"], next="offrl demo"), as_json=True)
        out, err = capsys.readouterr()
        assert json.loads(out) == {"a": None, "b": [1.0, None], "c": [0, 1], "d": [None, "x"]}
        assert (out.count("\n"), err) == (1, "")

    def test_text_ends_with_what_to_type_next(self, capsys: pytest.CaptureFixture[str]):
        answer(Answer({}, ["text", Pairs({"a": 1})], next="offrl demo"), as_json=False)
        assert capsys.readouterr().out == "text\na  1\nnext: offrl demo\n"

    def test_markup_in_a_cell_is_printed_and_not_obeyed(self, capsys: pytest.CaptureFixture[str]):
        cell = "[red]x[/red] [link=http://x]y[/link] :smile:"
        answer(Answer({}, [Rows(["a"], [[cell]]), cell], next="offrl demo"), as_json=False)
        assert capsys.readouterr().out.splitlines() == ["a", cell, cell, "next: offrl demo"]

    def test_a_pipe_cuts_no_cell(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.delenv("COLUMNS", raising=False)
        answer(Answer({}, [Rows(["a", "b"], [["x" * 300, "y" * 300]])], next="-"), as_json=False)
        assert f"{'x' * 300}  {'y' * 300}" in capsys.readouterr().out

    def test_a_table_too_wide_becomes_lines(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("COLUMNS", "40")
        rows = Rows(["name", "place"], [["x" * 30, "y" * 30], ["u", "v"]])
        answer(Answer({}, [rows], next="-"), as_json=False)
        lines = capsys.readouterr().out.splitlines()
        assert lines[:2] == [f"name   {'x' * 30}", f"place  {'y' * 30}"]

    def test_a_terminal_that_wants_no_colour_gets_no_escape_code(
        self, monkeypatch: pytest.MonkeyPatch
    ):
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        for name, value in (("NO_COLOR", "1"), ("TERM", "xterm-256color")):
            monkeypatch.setenv(name, value)
        screen = Terminal()
        monkeypatch.setattr("sys.stdout", screen)
        answer(Answer({}, [Rows(["a"], [["b"]])], next="offrl demo"), as_json=False)
        assert "\x1b" not in screen.getvalue()
        monkeypatch.delenv("NO_COLOR")
        answer(Answer({}, [Rows(["a"], [["b"]])], next="offrl demo"), as_json=False)
        assert "\x1b" in screen.getvalue()
