"""What a page is made of: sections with tables, charts and cards, as data for its template."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from offrl.plain import interval, number, typeset
from offrl.report.cards import Card
from offrl.report.repeating import Repeat

_NUMBER = re.compile(r"^\[?-?[\d,]+(\.\d+)?(e[-+]?\d+)?%?")
_BETWEEN = re.compile(r"^(\S+) (\[[^\[\]]*\])$")  # a mean and its interval
NOTHING = "–"
_NUMERIC = re.compile(r"^([-−\d.,e+%\[\] ]|\bto\b|\bof\b)*$")


@dataclass(frozen=True)
class Span:
    """A mean and its interval as a small drawing, on a scale of its own."""

    low: float
    mean: float
    high: float
    number: int
    told: str


@dataclass(frozen=True)
class Cell:
    """The text of a cell and what it is sorted by: a number, text, or nothing."""

    text: str
    key: str
    more: str = ""  # on a line of its own
    span: Span | None = None


@dataclass(frozen=True)
class Table:
    """A table that sorts."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds nothing but numbers, and stands to the right."""
        columns = zip(*self.rows, strict=True)
        return [
            all(_NUMERIC.match(c.text.replace(NOTHING, "")) and not c.span for c in column)
            for column in columns
        ]


@dataclass(frozen=True)
class Key:
    """One entry of a legend, which is a button too."""

    label: str
    number: int


@dataclass(frozen=True)
class Chart:
    """A chart: what the page says around it, and what the script draws."""

    id: str
    title: str
    spoken: str
    keys: Sequence[Key]
    spec: Mapping[str, Any]
    note: str = ""
    each: bool = False  # whether seeds can be shown one by one
    metrics: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page, in the order of its fields."""

    id: str
    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()
    cards: Sequence[Card] = ()
    decisions: Sequence[Mapping[str, str]] = ()
    remarks: Sequence[str] = ()
    repeats: Sequence[Repeat] = field(default=())

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it."""
        return not (self.tables or self.charts or self.cards or self.decisions or self.repeats)


def cell(text: str) -> Cell:
    """Return a cell that is sorted by the number it begins with, else by its text."""
    found = _NUMBER.match(text)
    if text in ("-", "none", ""):
        return Cell(NOTHING, "")
    if found is None or not _NUMERIC.match(text):
        return Cell(text, text.casefold())
    key = found[0].strip("[%").replace(",", "")
    pair = _BETWEEN.match(text)
    if pair is None:
        return Cell(typeset(text), key)
    return Cell(typeset(pair[1]), key, more=typeset(pair[2]))


def valued(mean: float | None, bounds: tuple[float, float] | None) -> Cell:
    """Return a mean above its interval."""
    if mean is None:
        return cell("-")
    more = "" if bounds is None else typeset(interval(bounds))
    return Cell(typeset(number(mean)), repr(mean), more=more)


def table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of texts."""
    return without_empty(Table(title, headings, [[cell(text) for text in row] for row in rows]))


def without_empty(one: Table, usual: str = "") -> Table:
    """Return a table without the columns that say nothing, or nothing but what is `usual`."""

    def says(place: int) -> bool:
        texts = {row[place].text for row in one.rows if not row[place].span}
        return not texts <= {NOTHING, usual}

    kept = [k for k in range(len(one.headings)) if k == 0 or says(k) or one.rows[0][k].span]
    rows = [[row[k] for k in kept] for row in one.rows]
    return Table(one.title, [one.headings[k] for k in kept], rows)
