"""`offrl report` as it is typed."""

import csv
import io
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import judged_runs
import pytest
from training_runs import saved_dataset, settings_of

import offrl
from offrl.report.repeating import train_command

Type = Callable[..., Any]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two folders of a seed each, evaluated."""
    for seed in range(2):
        judged_runs.judged(tmp_path / "runs" / str(seed), {seed: [-100.0, -200.0]})
    return tmp_path / "runs"


def test_it_writes_a_page_and_says_what_to_type_next(type_: Type, runs: Path):
    typed = type_("report", runs)
    assert typed.status == 0
    assert Path("report.html").read_text("utf-8").startswith("<!doctype html>")
    assert typed.next == f"offrl report {runs} --table latex"


def test_json_is_one_object_with_the_final_table(type_: Type, runs: Path):
    found = type_("report", runs, "--out", "a.html", "--json").json
    assert (found["report"], found["bytes"]) == ("a.html", Path("a.html").stat().st_size)
    (line,) = found["results"]
    assert (line["return_mean"], line["n_seeds"], line["picked"]) == (-150.0, 2, "last")
    assert line["return_ci"] == [-150.0, -150.0]
    assert line["interval_over"] == "seeds"


def test_a_table_is_all_that_is_printed_and_nothing_is_written(type_: Type, runs: Path):
    typed = type_("report", runs, "--table", "csv")
    (line,) = csv.DictReader(io.StringIO(typed.out))
    assert (line["arm"], line["return"], line["seeds"], line["checkpoint"]) == (
        "bc",
        "-150.0",
        "2",
        "last (100)",
    )
    assert not list(Path().glob("*.html"))
    latex = type_("report", runs, "--table", "latex").out
    assert latex.startswith(r"\begin{tabular}")
    assert "next:" not in latex


def test_a_dataset_has_a_card_of_its_own(type_: Type, shop: str):
    typed = type_("report", "--dataset", shop, "--out", "shop.html")
    assert typed.status == 0
    assert shop in Path("shop.html").read_text("utf-8")
    assert typed.next == f"offrl data check {shop}"
    found = type_("report", "--dataset", shop, "--out", "again.html", "--json").json
    assert (found["dataset"], found["report"]) == (shop, "again.html")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report"], "No run is named"),
        (["report", "nowhere"], "nowhere is not there"),
        (["report", "runs", "--out", "taken.html"], "taken.html exists already"),
        (["report", "runs", "--out", "nowhere/r.html"], "There is no folder nowhere"),
        (["report", "runs", "--out", "runs"], "runs is a folder"),
        (["report", "runs", "--table", "latx"], "Did you mean 'latex'?"),
        (["report", "runs", "--figures", "taken.html"], "taken.html is no folder"),
        (["report", "runs", "--dataset", "a/b-v0"], "has no runs, table or figures"),
        (["report", "--dataset", "a/b-v0"], "a/b-v0"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_words_that_are_off_are_answered_and_nothing_is_written(
    refused: Type, runs: Path, words: list[str], said: str
):
    Path("taken.html").write_text("mine")
    before = sorted(Path().iterdir())
    assert said in refused(*words).err
    assert sorted(Path().iterdir()) == before
    assert Path("taken.html").read_text() == "mine"


@pytest.mark.parametrize("algo", ["bc", "iql"])
def test_the_command_of_a_run_makes_the_same_run(type_: Type, tmp_path: Path, algo: str):
    data = saved_dataset()
    settings = settings_of(algo, steps=6, lr=3e-4, holdout=0.25, seeds=(1, 3), save_every=2)
    run = offrl.fit(algo, data, out=tmp_path / "first", **settings)
    words = shlex.split(train_command(run))
    assert words[0] == "offrl"
    typed = type_(*words[1:-1], tmp_path / "again")
    assert typed.status == 0, typed.err
    first, again = (tmp_path / name / "run.toml" for name in ("first", "again"))
    assert first.read_text() == again.read_text()


def test_the_command_of_a_run_that_acts_makes_the_same_run(type_: Type, tmp_path: Path):
    small = ("--compile", "off", "--hidden-size", 8, "--batch-size", 16)
    acting = ("--env", "CartPole-v1", "--env-steps", 30, "--eval-episodes", 1, "--eval-every", 15)
    for words in (
        ("train", "--algo", "dqn", *acting, *small, "--seeds", "0,2", "--out", tmp_path / "first"),
        (
            "finetune",
            tmp_path / "first",
            *acting,
            "--mix",
            0,
            "--lr",
            0.002,
            "--out",
            tmp_path / "second",
        ),
    ):
        assert type_(*words).status == 0
        run = offrl.load_run(words[-1])
        again = shlex.split(train_command(run))[1:-1]
        assert type_(*again, f"{run.dir}-again").status == 0
        repeated = Path(f"{run.dir}-again", "run.toml")
        assert repeated.read_text() == (run.dir / "run.toml").read_text()
