"""Histograms as bars that a page draws by itself: what each stands for, and how high it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from offrl.plain import clean, number, typeset

BINS = 24


@dataclass(frozen=True)
class Bar:
    """One bar: what it counts, how much, and its share of the highest."""

    label: str
    count: int
    height: float  # from 0 to 1


@dataclass(frozen=True)
class Bars:
    """A histogram, with the words at the ends of its axis."""

    title: str
    bars: tuple[Bar, ...]
    low: str = ""
    high: str = ""
    note: str = ""

    @property
    def spoken(self) -> str:
        """The histogram in a sentence, for those who cannot see it."""
        total = sum(bar.count for bar in self.bars)
        top = max(self.bars, key=lambda bar: bar.count)
        share = f"{top.count / total:.0%}" if total else "none"
        among = f" from {self.low} to {self.high}" if self.low else ""
        return f"{self.title}{among}; most often {top.label}, {share} of {total}"


def histogram(
    title: str,
    values: npt.NDArray[np.generic] | Sequence[float],
    *,
    low: float | None = None,
    high: float | None = None,
    note: str = "",
) -> Bars | None:
    """Return counts of `values` in equal bins between the ends; None where none is finite.

    Ends that are not given are the least and the greatest value. Whole numbers of few kinds have a
    bin each. A single value that all have is one bar.
    """
    sample = np.asarray(values, np.float64).reshape(-1)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return None
    first = float(sample.min() if low is None else low)
    last = float(sample.max() if high is None else high)
    integral = bool((sample == np.round(sample)).all()) and first.is_integer()
    ends = typeset(_said(first, integral)), typeset(_said(last, integral))
    if first == last:
        return Bars(title, (Bar(ends[0], len(sample), 1.0),), *ends, note)
    each = integral and last - first < BINS
    bins = int(last - first) + 1 if each else BINS
    span = (first - 0.5, last + 0.5) if each else (first, last)
    counts, edges = np.histogram(np.clip(sample, first, last), bins, span)
    labels = [
        typeset(_said(a + 0.5, each) if each else f"{number(a)} to {number(b)}")
        for a, b in pairwise(edges.tolist())
    ]
    return Bars(title, _bars(labels, counts.tolist()), *ends, note)


def _said(value: float, integral: bool) -> str:
    return number(round(value)) if integral and value.is_integer() else number(value)


def choices(title: str, counts: Sequence[int], names: Sequence[object]) -> Bars:
    """Return a bar for each choice."""
    labels = [clean(name) for name in names]
    ends = (labels[0], labels[-1]) if len(labels) > 1 else ("", "")
    return Bars(title, _bars(labels, counts), *ends)


def _bars(labels: Sequence[str], counts: Sequence[int]) -> tuple[Bar, ...]:
    most = max(counts) or 1
    return tuple(
        Bar(label, count, round(count / most, 4))
        for label, count in zip(labels, counts, strict=True)
    )
