"""A table as text that other programs take: CSV, Markdown or LaTeX."""

import csv
import io
from collections.abc import Sequence

KINDS = ("csv", "latex", "markdown")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def as_text(kind: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return headings and rows as one of KINDS, every cell escaped; LaTeX needs booktabs."""
    if kind == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([headings, *rows])
        return text.getvalue()
    if kind == "markdown":
        rule = ["---"] * len(headings)
        plain = [[_plain(cell) for cell in row] for row in (headings, *rows)]
        return "".join(f"| {' | '.join(row)} |\n" for row in (plain[0], rule, *plain[1:]))
    lines = [" & ".join(_latex(cell) for cell in row) + r" \\" for row in (headings, *rows)]
    columns = "l" * len(headings)
    begin, end = f"\\begin{{tabular}}{{{columns}}}", "\\end{tabular}"
    parts = [begin, "\\toprule", lines[0], "\\midrule", *lines[1:], "\\bottomrule", end]
    return "\n".join(parts) + "\n"


def _plain(cell: str) -> str:
    line = " ".join(cell.split()).replace("\\", "\\\\")
    return line.replace("|", "\\|").replace("<", "&lt;")


def _latex(cell: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(cell.split()))
