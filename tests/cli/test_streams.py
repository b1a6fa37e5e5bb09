"""Pipes, terminals and closed streams: no trace of a broken pipe, no escape code (U4)."""

import io
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offrl_cli.output import reader_left

Type = Callable[..., Any]


def first_line_only(*words: str) -> tuple[str, str]:
    """`offrl <words> | head -n 1`: the line, and what reached standard error."""
    process = subprocess.Popen(
        [sys.executable, "-m", "offrl_cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        line = process.stdout.readline()
        process.stdout.close()
        return line, process.stderr.read()


def on_a_terminal(*words: str, **environment: str) -> tuple[int, str]:
    """Status and output of `offrl <words>` where all three streams are a terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "offrl_cli", *words],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "150", **environment},
    )
    os.close(follower)
    seen = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # the terminal is gone when the last process has closed it
            break
        if not piece:
            break
        seen += piece
    os.close(leader)
    return process.wait(), seen.decode()


class TestPipes:
    def test_a_pipe_without_a_reader_is_known_from_one_with(self):
        reader, writer = os.pipe()
        with os.fdopen(writer, "w") as stream:
            assert not reader_left(stream)
            os.close(reader)
            assert reader_left(stream)
        assert not reader_left(io.StringIO())

    def test_a_reader_that_leaves_is_no_error(self):
        line, err = first_line_only("--help")
        assert line.startswith("Usage: offrl")
        assert err == ""
        line, err = first_line_only("doctor")
        assert line.startswith("topic")
        assert "Traceback" not in err
        assert "BrokenPipe" not in err

    def test_a_reader_that_leaves_while_training_is_no_error(self, shop: str):
        words = ("train", "--algo", "bc", "--dataset", shop, "--steps", "5", "--out", "mine")
        process = subprocess.Popen(
            [sys.executable, "-m", "offrl_cli", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        with process:
            process.stdout.close()
            err = process.stderr.read()
        assert "Traceback" not in err
        assert "error: " not in err
        assert list(Path("mine").glob("seed_0/checkpoints/step_00000005"))

    @pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}, {"COLUMNS": "40"}])
    def test_without_a_terminal_there_is_no_escape_code(
        self, spawn: Type, environment: dict[str, str]
    ):
        for words in (("data", "list"), ("data", "show", "nothing-v0")):
            typed = spawn(*words, **environment)
            assert "\x1b" not in typed.out + typed.err

    def test_a_closed_standard_output_is_no_error(self):
        done = subprocess.run(
            ["/bin/sh", "-c", f"'{sys.executable}' -m offrl_cli data list >&-"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr


class TestTerminals:
    @pytest.mark.usefixtures("shop")
    def test_tables_are_coloured_unless_that_is_unwanted(self):
        status, seen = on_a_terminal("data", "list")
        assert status == 0
        assert "\x1b[1m" in seen
        for refusal in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
            status, seen = on_a_terminal("data", "list", **refusal)
            assert status == 0
            assert "\x1b" not in seen
