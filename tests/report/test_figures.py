"""Figures for papers."""

from pathlib import Path

import judged_runs
import pytest

import offrl
from offrl.errors import ConfigError
from offrl.report import figures

pytest.importorskip("matplotlib")


def drawn(folder: Path, out: Path) -> tuple[Path, ...]:
    return offrl.write_report(folder / "runs", folder / f"{out.name}.html", figures=out).figures


def test_each_chart_is_a_pdf_and_an_svg_and_the_same_every_time(tmp_path: Path):
    judged_runs.judged(
        tmp_path / "runs" / "a", {0: [1.0]}, dataset="a/$b_$/<c>", curve={10: 1.0, 20: 2.0}
    )
    first, again = (drawn(tmp_path, tmp_path / name) for name in ("one", "two"))
    assert [path.suffix for path in first] == [".pdf", ".svg"]
    assert first[0].read_bytes().startswith(b"%PDF")
    assert "a/$b_$/&lt;c&gt;" in first[1].read_text()
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_a_figure_that_is_there_stays_unless_it_may_be_replaced(tmp_path: Path):
    judged_runs.judged(tmp_path / "runs" / "a", {0: [1.0]}, curve={10: 1.0, 20: 2.0})
    (first, _) = drawn(tmp_path, tmp_path / "figures")
    first.write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        offrl.write_report(tmp_path / "runs", tmp_path / "other.html", figures=tmp_path / "figures")
    assert first.read_text() == "mine"
    assert not (tmp_path / "other.html").exists()


def test_without_matplotlib_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(figures.util, "find_spec", lambda name: None)
    judged_runs.judged(tmp_path / "runs" / "a", {0: [1.0]})
    with pytest.raises(ConfigError, match=r"offrl\[figures\]"):
        drawn(tmp_path, tmp_path / "figures")
    assert list(tmp_path.iterdir()) == [tmp_path / "runs"] or not (tmp_path / "figures").exists()
