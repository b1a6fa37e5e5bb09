"""What a command prints: blocks of plain text for people, one JSON object for programs.

Everything that comes from a dataset or a run passes through `clean`, so that no stored text can
move the cursor, colour the terminal or forge a line.
"""

import json
import math
import os
import re
import select
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from offrl.plain import clean as clean
from offrl.plain import interval as interval
from offrl.plain import number as number
from offrl.plain import spread as spread

UNLIMITED = 100_000  # a pipe has no width: a line is cut nowhere


@dataclass(frozen=True)
class Rows:
    """A table: one heading per column, one sequence of cells per row."""

    headings: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class Pairs:
    """Names and values, one pair a line."""

    pairs: Mapping[str, object]


Block = str | Rows | Pairs


@dataclass(frozen=True)
class Answer:
    """What a command found: for programs, for people, what to type next, and the exit status."""

    data: Mapping[str, Any]
    blocks: Sequence[Block]
    next: str
    exit_code: int = 0
    notes: Sequence[str] = field(default=())


def quoted(words: object) -> str:
    """Return `words` as one argument of a shell command."""
    return shlex.quote(str(words))


def is_terminal(stream: TextIO) -> bool:
    """Tell whether escape codes may be written to `stream`."""
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return not plain and stream.isatty()


def reader_left(stream: TextIO) -> bool:
    """Tell whether `stream` is a pipe that nobody reads any more."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # no poll here, or no file behind the stream
        return False


def console(stream: TextIO) -> Any:
    """Return a rich console that writes plain text where `stream` is no terminal."""
    from rich.console import Console

    terminal = is_terminal(stream)
    width = None if stream.isatty() or "COLUMNS" in os.environ else UNLIMITED
    return Console(
        file=stream,
        width=width,
        force_terminal=terminal,
        color_system="auto" if terminal else None,
        markup=False,
        highlight=False,
        emoji=False,
    )


def note(message: str) -> None:
    """Print one line for a person to standard error."""
    print(clean(message), file=sys.stderr, flush=True)


def answer(found: Answer, *, as_json: bool) -> None:
    """Print what a command found to standard output."""
    for line in found.notes:
        note(line)
    if as_json:
        print(json.dumps(_plain(found.data), allow_nan=False), flush=True)
        return
    screen = console(sys.stdout)
    for block in found.blocks:
        _print(screen, block)
    if found.next:
        print(f"next: {found.next}")
    sys.stdout.flush()


def _print(screen: Any, block: Block) -> None:
    if isinstance(block, str):
        print(clean(block), file=screen.file)
    elif isinstance(block, Pairs):
        _print_pairs(screen, block.pairs)
    else:
        _print_rows(screen, block)


def _print_pairs(screen: Any, pairs: Mapping[str, object]) -> None:
    width = max((len(name) for name in pairs), default=0)
    for name, value in pairs.items():
        print(f"{name:<{width}}  {number(value)}".rstrip(), file=screen.file)


def _print_rows(screen: Any, block: Rows) -> None:
    from rich.table import Table
    from rich.text import Text

    rows = [[number(cell) for cell in row] for row in block.rows]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for index, heading in enumerate(block.headings):
        right = bool(rows) and all(_is_number(row[index]) for row in rows)
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    boundless = screen.options.update(max_width=UNLIMITED)
    if screen.measure(table, options=boundless).maximum <= screen.width:
        with screen.capture() as captured:
            screen.print(table)
        for line in captured.get().splitlines():
            print(line.rstrip(), file=screen.file)
        return
    for row in rows:  # too narrow for a table: one block of lines per row
        _print_pairs(screen, dict(zip(block.headings, row, strict=True)))
        print(file=screen.file)


def _is_number(cell: str) -> bool:
    return cell == "-" or re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?%?", cell) is not None


def _plain(value: Any) -> Any:
    """Return `value` as JSON knows it; what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    return str(value)
