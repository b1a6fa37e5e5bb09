"""The page as text: nothing from outside, nothing that a name could break, nothing empty."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import judged_runs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import offrl
from offrl.report.bars import histogram
from offrl.report.page import digest, embedded
from offrl.testing import toy_dataset

EVIL = "</script><img src=x onerror=alert(1)>\"'&{{7*7}}\x1b]8;;http://a\x07"
SHOWN = "</script><img src=x onerror=alert(1)>\"'&{{7*7}}"


class Parts(HTMLParser):
    """The elements of a page, its scripts, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.texts: list[str] = []
        self._script: dict[str, str | None] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._script = dict(attrs) if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts.append((self._script, data))
            self._script = None
        else:
            self.texts.append(data)

    @property
    def ids(self) -> list[str]:
        return [str(attrs["id"]) for tag, attrs in self.tags if tag == "section"]


def page(out: Path) -> Parts:
    return Parts(out.read_text("utf-8"))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    for seed in range(2):
        run = judged_runs.judged(
            folder / f"a{seed}", {seed: [-100.0, -200.0]}, curve={10: -300.0, 20: -150.0}
        )
        told = json.loads((run / "result.json").read_text())
        (run / "result.json").write_text(json.dumps({**told, "hardware": "a box"}))
    return folder


def test_a_report_names_what_it_must(runs: Path, tmp_path: Path):
    made = offrl.write_report(runs, tmp_path / "report.html")
    assert made.path == tmp_path / "report.html"
    text = " ".join(page(tmp_path / "report.html").texts)
    for part in ("−150.0", "seeds", "last (100)", "sha256:0", "a box", "offrl train --algo bc"):
        assert part in text


def test_sections_that_have_nothing_are_left_out(runs: Path, tmp_path: Path):
    made = offrl.write_report(runs, tmp_path / "report.html")
    assert page(tmp_path / "report.html").ids == ["results", "learning", "data", "repeat"]
    assert made.sections == ("results", "learning", "data", "repeat")


def test_the_page_asks_for_nothing_and_its_policy_names_each_script(runs: Path, tmp_path: Path):
    offrl.write_report(runs, tmp_path / "report.html")
    found = page(tmp_path / "report.html")
    for tag, attrs in found.tags:
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            value = attrs.get(name)
            assert value is None or value.startswith(("#", "data:,")), (tag, attrs)
        assert not [name for name in attrs if name.startswith("on")]
    policy = next(str(a["content"]) for t, a in found.tags if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none';")
    for word in ("unsafe-eval", "http", "*", "connect"):
        assert word not in policy
    code = [text for attrs, text in found.scripts if "type" not in attrs]
    assert re.findall(r"'(sha256-[^']+)'", policy) == [digest(text) for text in code]
    assert sum(text.startswith("/**\n* plotly.js") for text in code) == 1
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]


def test_hostile_names_are_words_everywhere(tmp_path: Path):
    folder = tmp_path / "<img src=x onerror=alert(2)>"
    judged_runs.judged(
        folder / "a", {0: [-1.0, -2.0]}, dataset=EVIL, env=EVIL, curve={10: -3.0, 20: -4.0}
    )
    run = judged_runs.judged(folder / "b", {1: [-1.0]}, dataset=EVIL, env=EVIL, algo="iql")
    told = json.loads((run / "result.json").read_text())
    told |= {"warnings": [EVIL], "diverged": {EVIL: EVIL}, "hardware": EVIL}
    (run / "result.json").write_text(json.dumps(told))
    (run / "seed_1" / "metrics.csv").write_text("step,<img src=x onerror=alert(3)>\n1,2.0\n")
    offrl.write_report(folder, tmp_path / "report.html")
    text, found = (tmp_path / "report.html").read_text("utf-8"), page(tmp_path / "report.html")
    assert "img" not in [tag for tag, _ in found.tags]
    assert "\x1b" not in text
    assert len(found.scripts) == 3  # what is drawn, plotly, ours
    assert SHOWN in " ".join(found.texts)
    drawn = json.loads(found.scripts[0][1])
    assert "<img src=x onerror=alert(3)>" in json.dumps(drawn)


def test_a_page_is_written_whole_or_not_at_all(runs: Path, tmp_path: Path):
    out = tmp_path / "report.html"
    out.write_text("mine")
    with pytest.raises(offrl.OffrlError, match="exists already"):
        offrl.write_report(runs, out)
    assert out.read_text() == "mine"
    offrl.write_report(runs, out, overwrite=True)
    assert out.read_text("utf-8").rstrip().endswith("</html>")
    assert [path.name for path in tmp_path.glob(".report*")] == []


def test_a_card_shows_returns_lengths_ends_actions_and_coverage(tmp_path: Path):
    data = toy_dataset(discrete=True, episodes=5)
    made = offrl.write_card(data, tmp_path / "card.html")
    text = " ".join(page(made.path).texts)
    for part in ("Returns of episodes", "Lengths of episodes", "Actions", "terminated"):
        assert part in text
    assert data.fingerprint in text
    assert "script" not in [tag for tag, _ in page(made.path).tags]


def test_data_that_changed_under_its_name_has_no_card(tmp_path: Path):
    data = toy_dataset(discrete=False, episodes=4).save("toy/box-v0")
    judged_runs.judged(tmp_path / "runs", {0: [1.0]}, dataset=data.id, fingerprint="sha256:other")
    offrl.write_report(tmp_path / "runs", tmp_path / "report.html")
    text = " ".join(page(tmp_path / "report.html").texts)
    assert "is not what the runs learned from" in text
    assert "Returns of episodes" not in text


@given(st.lists(st.one_of(st.text(), st.floats(), st.none()), max_size=5))
def test_what_scripts_read_is_the_same_value_and_ends_no_element(value: list[object]):
    text = embedded(value)
    assert not set("<>&\u2028\u2029") & set(text)
    finite = [v if not isinstance(v, float) or abs(v) < float("inf") else None for v in value]
    assert json.loads(text) == finite


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_a_histogram_counts_every_value_once(values: list[float]):
    found = histogram("x", values)
    assert found is not None
    assert sum(bar.count for bar in found.bars) == len(values)
    assert max(bar.height for bar in found.bars) == 1.0


def test_a_histogram_of_many_whole_numbers_says_them_as_such_at_its_ends():
    found = histogram("x", np.arange(500))
    assert found is not None
    assert (found.low, found.high, len(found.bars)) == ("0", "499", 24)
    assert histogram("x", np.arange(24)) is not None


def test_a_histogram_of_whole_numbers_has_a_bar_for_each():
    found = histogram("x", [1, 1, 4])
    assert found is not None
    assert [(bar.label, bar.count) for bar in found.bars] == [
        ("1", 2), ("2", 0), ("3", 0), ("4", 1),
    ]  # fmt: skip
