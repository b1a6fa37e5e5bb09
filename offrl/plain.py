"""Numbers and other people's words as plain text that a person can read safely.

Everything that comes from a dataset or a run passes through `clean` before it is shown, so that no
stored text can move the cursor, colour a terminal, turn the words around it or forge a line.
"""

import math
import re
from collections.abc import Sequence

ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.?)")
# C0 and C1 controls, and the characters that reorder or hide the text around them
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_MINUS = re.compile(r"(?<![\w.])-(?=\d)")


def clean(value: object) -> str:
    """Return the text of `value` on one line, without escape sequences and control characters."""
    return CONTROLS.sub(" ", ESCAPES.sub("", str(value)))


def number(value: object, digits: int | None = None) -> str:
    """Return a number as people read it, with more digits the smaller it is; "-" for none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return clean(value)
    if isinstance(value, int) or not math.isfinite(value):
        return str(value)
    if digits is None and 0 < abs(value) < 0.1:
        return f"{value:.3g}"
    if digits is None:
        digits = 1 if abs(value) >= 100 or not value else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"


def spread(std: float | None) -> str:
    """Return a standard deviation as it follows a mean, nothing where there is none."""
    return "" if std is None else f" +- {number(std)} (std)"


def interval(bounds: Sequence[float] | None) -> str:
    """Return "[lo, hi]", or "none" where one value gives no interval."""
    return "none" if bounds is None else f"[{number(bounds[0])}, {number(bounds[1])}]"


def typeset(text: str) -> str:
    """Return numbers with the signs of print: − for a hyphen, ± for plus and minus."""
    return _MINUS.sub("−", text.replace("+- ", "± "))
