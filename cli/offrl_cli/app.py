"""The Typer app and the loop around it: parse, run, answer, and end with the right status."""

import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

import typer

from offrl_cli import (
    algebra,
    algos,
    collect,
    compare,
    demo,
    doctor,
    evaluate,
    finetune,
    foreign,
    ope,
    references,
    report,
    select,
    sweep,
    train,
)
from offrl_cli.commands import Group, new_app, top
from offrl_cli.failing import FAILED, explain
from offrl_cli.output import note, reader_left
from offrl_cli.stopping import Stopped, sigterm_raises

PIPE_CLOSED = FAILED
MIN_WIDTH, MAX_WIDTH = 30, 100  # columns of a help text

app = new_app(cls=Group)
app.callback()(top)
for module in (demo, doctor, collect):
    module.register(app)
algebra.register(foreign.app)
app.add_typer(foreign.app, name="data")
for module in (algos, train, finetune, evaluate, ope, select, compare, report, sweep, references):
    module.register(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with _open_streams(), _warnings_as_lines(), sigterm_raises():
        status = _run(words)
        return _flush(status)


def _run(words: list[str]) -> int:
    try:
        command = typer.main.get_command(app)
        width = max(MIN_WIDTH, min(shutil.get_terminal_size().columns, MAX_WIDTH))
        with command.make_context("offrl", [*words] or ["--help"], terminal_width=width) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    except BrokenPipeError as error:
        if reader_left(sys.stdout) or reader_left(sys.stderr):
            return PIPE_CLOSED
        return explain(error, debug="--debug" in words)
    except (Exception, KeyboardInterrupt, Stopped) as error:
        return explain(error, debug="--debug" in words)
    return 0


def _flush(status: int) -> int:
    """Flush both streams; a reader that went away (`| head`) is no error worth a traceback."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
    return status


@contextmanager
def _open_streams() -> Iterator[None]:
    """Write to nowhere where the caller has closed standard output or standard error (`>&-`)."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stdout, sys.stderr = before[0] or nowhere, before[1] or nowhere
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Show a warning as one line on standard error, without the source line it came from."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        note(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
