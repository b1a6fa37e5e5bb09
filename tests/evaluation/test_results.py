"""Runs in one table: what is a row, what is a column, and what is left aside and told."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from judged_runs import judged

import offrl
from offrl.errors import ConfigError, NotFoundError
from offrl.evaluation.references import lookup, score
from offrl.evaluation.results import results
from offrl.evaluation.runfolders import find


def table(named: Any) -> Any:
    """The frame, of whose columns pyright knows too little."""
    return results(named)


def test_a_row_is_one_run_one_seed_one_evaluated_checkpoint(tmp_path: Path) -> None:
    judged(
        tmp_path / "runs" / "a",
        {0: [-300.0, -500.0], 1: [-200.0, -200.0]},
        curve={50: -900.0, 100: -410.0},
        eval_every=50,
        eval_episodes=7,
    )
    frame = table("runs/**")
    assert len(frame) == 6
    tried = frame[frame.source == "eval"].set_index("seed")
    assert tried["return"].to_dict() == {0: -400.0, 1: -200.0}
    assert tried["n_episodes"].to_dict() == {0: 2, 1: 2}
    assert set(tried["picked"]) == {"last"}
    expected = score(-400.0, lookup("Pendulum-v1"))
    assert tried.loc[0, "score"] == pytest.approx(expected)
    training = frame[(frame.source == "training") & (frame.seed == 0)]
    assert training["step"].tolist() == [50, 100]
    assert training["return"].tolist() == [-900.0, -410.0]
    assert set(training["n_episodes"]) == {7}
    assert set(training["picked"]) == {"none picked: evaluated while training"}
    assert training["score"].tolist()[1] == pytest.approx(score(-410.0, lookup("Pendulum-v1")))
    assert set(frame["status"]) == {"finished"}


def test_settings_have_a_column_where_they_vary_and_only_there(tmp_path: Path) -> None:
    judged(tmp_path / "runs" / "a", {0: [1.0]}, config={"temperature": 0.3}, algo="awr")
    judged(tmp_path / "runs" / "b", {0: [1.0]}, config={"temperature": 1.0}, algo="awr")
    judged(tmp_path / "runs" / "c", {0: [1.0]}, config={"policy_period": 2}, algo="td3")
    frame = table("runs/**").set_index("algo")
    assert "lr" not in frame
    assert "policy_period" not in frame
    assert sorted(frame.loc["awr", "temperature"]) == [0.3, 1.0]
    assert math.isnan(frame.loc["td3", "temperature"])


def test_a_setting_that_shares_its_name_with_a_column_is_named_after_its_algorithm(
    tmp_path: Path,
) -> None:
    judged(tmp_path / "runs" / "a", {0: [1.0]}, config={"score": 1})
    judged(tmp_path / "runs" / "b", {0: [1.0]}, config={"score": 2})
    assert table("runs/**")["bc.score"].tolist() == [1, 2]


def test_nothing_vanishes_unfinished_diverged_and_failed_seeds_have_rows(tmp_path: Path) -> None:
    judged(tmp_path / "runs" / "half", None, reached=60)
    judged(tmp_path / "runs" / "failed", None, reached=10)
    (tmp_path / "runs" / "failed.json").write_text('{"format": 1, "status": "failed"}')
    gone = judged(tmp_path / "runs" / "gone", {0: [-9.0]}, seeds=(0, 1))
    (gone / "seed_1" / "diverged.toml").write_text('format = 1\nstep = 3\nmessage = "nan"\n')
    fallen = judged(tmp_path / "runs" / "fallen", {0: [-9.0]})
    page = json.loads((fallen / "result.json").read_text())
    (fallen / "result.json").write_text(json.dumps({**page, "rolled_back": {"0": {}}}))
    frame = table("runs/**")
    found = {(Path(r.run).name, r.seed): r.status for r in frame.itertuples()}
    assert found == {
        ("half", 0): "unfinished",
        ("failed", 0): "failed",
        ("gone", 0): "finished",
        ("gone", 1): "diverged",
        ("fallen", 0): "rolled back",
    }
    assert frame["return"].notna().sum() == 2
    assert frame.attrs["left_out"] == []


def test_a_run_that_is_saved_meanwhile_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = judged(tmp_path / "runs" / "a", {0: [1.0]})
    (run / "seed_0" / "checkpoints" / ".step_7.tmp").mkdir(parents=True)
    plain = os.scandir

    def moved(path: Any = ".") -> Any:
        if os.fspath(path).endswith(".tmp"):
            raise FileNotFoundError(path)
        return plain(path)

    monkeypatch.setattr(os, "scandir", moved)
    assert table("runs")["seed"].tolist() == [0]


def test_folders_that_are_no_runs_of_ours_are_left_aside_and_told(tmp_path: Path) -> None:
    judged(tmp_path / "runs" / "a", {0: [1.0]})
    for name, text in [("bad", "format = ["), ("later", "format = 2\n"), ("other", "x = 1\n")]:
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "run.toml").write_text(text)
    (tmp_path / "runs" / "notes").mkdir()
    with pytest.warns(UserWarning, match="left aside") as caught:
        frame = table("runs/**")
    assert len(frame) == 1
    assert len(frame.attrs["left_out"]) == 3
    assert all(name in str(caught[0].message) for name in ("bad", "later", "other"))


@pytest.mark.parametrize("page", ["{", '{"evaluation": 3}', '{"evaluation": {"seeds": [{}]}}'])
def test_an_evaluation_that_cannot_be_read_costs_its_row_and_is_told(
    tmp_path: Path, page: str
) -> None:
    run = judged(tmp_path / "runs" / "a", {0: [1.0]})
    (run / "result.json").write_text(page)
    if page == "{":
        frame = table("runs/**")
    else:
        with pytest.warns(UserWarning, match="cannot be read"):
            frame = table("runs/**")
    assert frame["return"].isna().all()


def test_an_evaluation_of_an_earlier_version_has_its_checkpoint_for_how_it_was_picked(
    tmp_path: Path,
) -> None:
    run = judged(tmp_path / "runs" / "a", {0: [1.0]}, checkpoint="50")
    page = json.loads((run / "result.json").read_text())
    del page["evaluation"]["picked"]
    (run / "result.json").write_text(json.dumps(page))
    assert table("runs/**")["picked"].tolist() == ["step 50"]


def test_runs_are_named_by_folder_by_glob_by_seed_or_as_runs_each_once(tmp_path: Path) -> None:
    for name in ("a", "deep/b", "deep/c[1]"):
        judged(tmp_path / "runs" / name, {0: [1.0], 1: [2.0]})

    def names(named: Any) -> list[tuple[str, tuple[int, ...]]]:
        found = find(named)
        return [(run.dir.name, run.seeds) for run in found.runs]

    both = (0, 1)
    assert names("runs") == [("a", both), ("b", both), ("c[1]", both)]
    assert names("runs/**") == names("runs")
    assert names("runs/*") == [("a", both)]
    assert names("runs/deep/c[1]") == [("c[1]", both)]
    assert names("runs/a/seed_1") == [("a", (1,))]
    assert names("runs/*/*/seed_0") == [("b", (0,)), ("c[1]", (0,))]
    assert names(["run:runs/a", Path("runs/a/"), "runs/a/seed_0"]) == [("a", both)]
    assert names(offrl.load_run("runs/a/seed_1")) == [("a", (1,))]


@pytest.mark.parametrize("named", ["nowhere", "nowhere/**", "empty", "empty/file"])
def test_a_name_that_leads_to_no_run_is_refused(tmp_path: Path, named: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "file").write_text("")
    with pytest.raises(NotFoundError) as caught:
        results(named)
    assert caught.value.remedy
    with pytest.raises(ConfigError, match="No run is named"):
        results([])


def test_a_copied_run_is_found_where_it_lies_now(tmp_path: Path) -> None:
    judged(tmp_path / "runs" / "a", {0: [1.0]})
    shutil.move(tmp_path / "runs", tmp_path / "archive")
    assert table("archive")["run"].tolist() == ["archive/a"]


def test_pandas_is_imported_only_for_the_table() -> None:
    code = (
        "import sys, offrl, offrl.evaluation.results; assert 'pandas' not in sys.modules;"
        " offrl.results; assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
