"""Tables for other programs: every cell survives, none can break out of its place."""

import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from offrl.evaluation.tables import as_text

cells = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8)


@given(rows=st.lists(st.tuples(cells, cells), max_size=4))
def test_csv_reads_back(rows: list[tuple[str, str]]) -> None:
    text = as_text("csv", ["a", "b"], rows)
    assert [tuple(row) for row in csv.reader(io.StringIO(text))] == [("a", "b"), *rows]


@given(row=st.tuples(cells, cells))
def test_markdown_keeps_its_columns_and_holds_no_markup(row: tuple[str, str]) -> None:
    text = as_text("markdown", ["a", "b"], [row])
    last = text.splitlines()[-1]
    assert last.replace("\\\\", "").replace("\\|", "").count("|") == 3
    assert "<" not in text


def test_latex_escapes_what_it_would_read_as_commands() -> None:
    text = as_text("latex", ["a"], [["50% & $x_1$ \\input{~/.ssh} #1 ^"]])
    row = text.splitlines()[4]
    assert row == (
        r"50\% \& \$x\_1\$ \textbackslash{}input\{\textasciitilde{}/.ssh\} \#1 "
        r"\textasciicircum{} \\"
    )
