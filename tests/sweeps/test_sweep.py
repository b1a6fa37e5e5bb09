"""A sweep is as many runs, each its own, and one table of what came of them."""

import errno
import shutil
from collections.abc import Generator, Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet
from training_runs import outcome, saved_dataset, tree

import offrl
from offrl import driving
from offrl.errors import ConfigError, LockedError, NotFoundError, OffrlError
from offrl.evaluation.statistics import interval
from offrl.sweeps import table as tables
from offrl.sweeps import worker
from offrl.sweeps.executor import Report
from offrl.sweeps.trials import Trial

BOX, CHOICE = "toy/box-v0", "toy/choice-v0"
SMALL: dict[str, Any] = {
    "algos": ["bc", "awr"],
    "datasets": [BOX],
    "seeds": [0, 1],
    "steps": 30,
    "save_every": 10,
    "log_every": 10,
    "settings": {"hidden_size": 8, "batch_size": 16},
    "awr": {"temperature": [0.5, 2.0], "value_steps": 5, "policy_steps": 5},
    "evaluation": {"episodes": 0},
}


class Here:
    """An executor that performs everything in this process, last request first."""

    def __init__(self) -> None:
        self.performed: list[str] = []

    def execute(self, requests: Sequence[Mapping[str, Any]]) -> Generator[Report]:
        for number in reversed(range(len(requests))):
            yield Report(number)
            self.performed.append(requests[number]["out"])
            yield Report(number, worker.perform(requests[number]))


def swept(out: Path, executor: Any = None, **changes: Any) -> Any:
    return offrl.sweep(SMALL | changes, out=out, executor=executor or Here())


def rows_at(path: Path) -> list[dict[str, Any]]:
    return parquet.read_table(path).to_pylist()


def test_every_trial_is_a_row_and_a_run_with_the_bits_of_one_trained_alone(tmp_path: Path):
    data = saved_dataset()
    found = swept(tmp_path / "sweep")
    rows = rows_at(found.table)
    assert [(r["algo"], r["temperature"], r["seed"]) for r in rows] == [
        ("bc", None, 0),
        ("bc", None, 1),
        ("awr", 0.5, 0),
        ("awr", 0.5, 1),
        ("awr", 2.0, 0),
        ("awr", 2.0, 1),
    ]
    assert not found.failed
    for row in rows:
        assert row["status"] == "finished"
        assert row["error"] is None
        assert (row["dataset"], row["fingerprint"], row["steps"]) == (BOX, data.fingerprint, 30)
        assert row["seconds"] > 0
    last = offrl.load_run(rows[-1]["run"])
    assert last.policy(1).predict(np.zeros(4, np.float32)).shape == (1,)
    run = {name: SMALL[name] for name in ("steps", "save_every", "log_every")}
    own = SMALL["settings"] | SMALL["awr"] | {"temperature": 2.0}
    alone = offrl.fit("awr", BOX, out=tmp_path / "alone", seeds=(1,), **run, **own)
    assert outcome(last.dir) == outcome(alone.dir)


def test_called_again_it_keeps_what_is_finished_and_adds_what_is_new(tmp_path: Path):
    saved_dataset()
    swept(tmp_path / "sweep")
    runs = tree(tmp_path / "sweep" / "runs")
    idle = Here()
    again = swept(tmp_path / "sweep", idle)
    assert idle.performed == []
    assert tree(tmp_path / "sweep" / "runs") == runs
    more = Here()
    grown = swept(tmp_path / "sweep", more, seeds=[0, 1, 2])
    assert len(more.performed) == 3
    assert (len(again.rows), len(grown.rows)) == (6, 9)
    kept = tree(tmp_path / "sweep" / "runs")
    assert {name: kept[name] for name in runs} == runs
    fewer = swept(tmp_path / "sweep", seeds=[2])
    assert [row["seed"] for row in rows_at(fewer.table)] == [2, 2, 2]


@pytest.mark.parametrize("changes", [{"steps": 40}, {"settings": {"hidden_size": 9}}])
def test_a_setting_that_changes_under_a_trial_is_refused(changes: Any, tmp_path: Path):
    saved_dataset()
    swept(tmp_path / "sweep")
    before = tree(tmp_path / "sweep")
    with pytest.raises(
        ConfigError, match=r"was started otherwise.*old values back, or name"
    ) as told:
        swept(tmp_path / "sweep", **changes)
    assert "hidden_size" in told.value.cause or "steps" in told.value.cause
    assert tree(tmp_path / "sweep") == before


def test_each_trial_is_evaluated_and_judged_anew_only_where_that_changes(tmp_path: Path):
    offrl.record(env="Pendulum-v1", policies=("random",), episodes=2, seed=0, out="me/swing-v0")
    small = {"algos": ["bc"], "datasets": ["me/swing-v0"], "evaluation": {"episodes": 2}}
    found = swept(tmp_path / "sweep", **small)
    (row, other), run = rows_at(found.table), offrl.load_run(found.rows[0]["run"])
    judged = offrl.evaluate(run, episodes=2)
    assert (row["return_mean"], row["return_std"]) == (judged.return_mean, judged.return_std)
    assert (row["score"], row["env"]) == (judged.score, "Pendulum-v1")
    assert (row["n_episodes"], row["checkpoint"]) == (2, "last")
    means = [row["return_mean"], other["return_mean"]]
    (one,) = found.summary
    assert (one["n_seeds"], one["return_mean"]) == (2, pytest.approx(np.mean(means)))
    assert one["return_ci"] == pytest.approx(interval(means))
    states = outcome(run.dir)
    again = swept(tmp_path / "sweep", **(small | {"evaluation": {"episodes": 1}}))
    assert again.rows[0]["n_episodes"] == 1
    assert outcome(run.dir) == states


def test_a_trial_that_diverges_is_recorded_and_the_others_go_on(tmp_path: Path):
    saved_dataset()
    found = swept(tmp_path / "sweep", algos=["bc"], bc={"lr": [1e30, 1e-3]})
    bad, good = found.failed, [row for row in found.rows if row["status"] == "finished"]
    assert [(row["lr"], row["seed"]) for row in bad] == [(1e30, 0), (1e30, 1)]
    assert all("Training has diverged: policy/" in row["error"] for row in bad)
    assert [row["lr"] for row in good] == [1e-3, 1e-3]
    again = swept(tmp_path / "sweep", algos=["bc"], bc={"lr": [1e30, 1e-3]})
    assert plain(again.rows) == plain(found.rows)  # tried again, and diverged again


def test_what_nobody_foresaw_is_recorded_with_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved_dataset()

    def broken(plan: Any) -> Any:
        raise ValueError("of all things")

    with monkeypatch.context() as patch:
        patch.setattr(worker, "train", broken)
        found = swept(tmp_path / "sweep", algos=["bc"])
    assert {row["error"] for row in found.failed} == {"ValueError: of all things"}
    page = Path(f"{found.rows[0]['run']}.json").read_text()
    assert "in broken" in page
    assert not swept(tmp_path / "sweep", algos=["bc"]).failed  # tried again


def test_a_sweep_that_is_stopped_goes_on_to_the_table_of_one_that_was_not(tmp_path: Path):
    saved_dataset()
    whole = swept(tmp_path / "whole")

    def stop(trial: Trial, report: Report) -> None:
        if report.outcome is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        offrl.sweep(SMALL, out=tmp_path / "sweep", executor=Here(), on_report=stop)
    before = rows_at(tmp_path / "sweep" / "results.parquet")
    assert sorted(row["status"] for row in before) == ["finished"] + ["unfinished"] * 5
    rest = Here()
    found = swept(tmp_path / "sweep", rest)
    assert len(rest.performed) == 5
    assert plain(found.rows) == plain(whole.rows)


def plain(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what differs between two sweeps."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "run")} for row in rows]


def test_the_table_is_made_of_the_trials_own_files(tmp_path: Path):
    saved_dataset()
    found = swept(tmp_path / "sweep")
    rows = rows_at(found.table)
    found.table.unlink()
    assert rows_at(swept(tmp_path / "sweep").table) == rows
    shutil.rmtree(found.rows[1]["run"])  # a run that is gone is not finished
    cut = Path(f"{found.rows[0]['run']}.json")
    cut.write_bytes(cut.read_bytes()[:20])  # a damaged one is done again, not believed
    again = Here()
    assert plain(swept(tmp_path / "sweep", again).rows) == plain(found.rows)
    assert len(again.performed) == 2


def test_a_table_that_cannot_be_written_says_so_and_keeps_the_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved_dataset()

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tables, "write_file", full)
        with pytest.raises(OffrlError, match="could not be written: No space left on device"):
            swept(tmp_path / "sweep")
    rest = Here()
    assert not swept(tmp_path / "sweep", rest).failed
    assert rest.performed == []


def test_a_disk_that_fills_up_fails_the_trial_and_it_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved_dataset()
    write = worker.write_file

    def full(path: Path, content: bytes) -> None:
        if b"finished" in content:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(worker, "write_file", full)
        found = swept(tmp_path / "sweep", algos=["bc"])
    assert all(row["error"].endswith("No space left on device.") for row in found.failed)
    assert len(found.failed) == 2
    assert not swept(tmp_path / "sweep", algos=["bc"]).failed


def test_two_sweeps_in_one_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved_dataset()
    monkeypatch.setattr(driving, "WAIT", 0.01)
    with (
        driving.locked(tmp_path / "sweep"),
        pytest.raises(LockedError, match="Another process"),
    ):
        swept(tmp_path / "sweep")


def test_data_that_is_absent_is_refused_or_skipped_with_a_line(tmp_path: Path):
    saved_dataset()
    with pytest.raises(NotFoundError, match="me/none-v0"):
        swept(tmp_path / "sweep", datasets=[BOX, "me/none-v0"])
    assert not (tmp_path / "sweep").exists()
    found = offrl.sweep(
        SMALL | {"algos": ["bc"], "datasets": [BOX, "me/none-v0"]},
        out=tmp_path / "sweep",
        executor=Here(),
        skip_absent=True,
    )
    assert {row["dataset"] for row in found.rows} == {BOX}
    assert "Skipped: " in found.notes[0]
    assert "me/none-v0" in found.notes[0]
    with pytest.raises(ConfigError, match="None of the sweep's datasets is here"):
        offrl.sweep(SMALL | {"datasets": ["me/none-v0"]}, out=tmp_path / "no", skip_absent=True)


def test_an_algorithm_is_left_out_where_it_does_not_fit_and_refused_where_it_never_does(
    tmp_path: Path,
):
    saved_dataset()
    saved_dataset(CHOICE, discrete=True)
    found = swept(tmp_path / "sweep", algos=["bc", "td3"], datasets=[BOX, CHOICE], seeds=[0])
    assert {(row["algo"], row["dataset"]) for row in found.rows} == {
        ("bc", BOX),
        ("bc", CHOICE),
        ("td3", BOX),
    }
    assert found.notes == (
        f"Left out: td3 does not learn on discrete actions, which {CHOICE} has.",
    )
    with pytest.raises(ConfigError, match="No dataset of the sweep fits td3"):
        swept(tmp_path / "no", algos=["bc", "td3"], datasets=[CHOICE])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"awr": {"temprature": 1.0}}, "no setting 'temprature'. Did you mean 'temperature'"),
        ({"settings": {"temperature": 1.0}}, "no setting 'temperature'"),  # BC has none
        ({"awr": {"temperature": [1.0, -1.0]}}, "'temperature' must be"),
        ({"awr": {"adv_norm": ["std", "nome"]}}, "'adv_norm' takes one of"),
        ({"steps": 0}, "'steps' must be a whole number from 1"),
        ({"evaluation": {"episodes": 1}}, "names no environment to evaluate in.* episodes = 0"),
    ],
)
def test_settings_are_held_against_algorithm_and_data_before_anything_runs(
    changes: Any, said: str, tmp_path: Path
):
    saved_dataset()
    with pytest.raises(ConfigError, match=said):
        swept(tmp_path / "sweep", **changes)
    assert not (tmp_path / "sweep").exists()


def test_without_pyarrow_it_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved_dataset()
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs pyarrow.*pip install 'offrl\[arrow\]'"):
        swept(tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_a_mapping_needs_a_folder(tmp_path: Path):
    with pytest.raises(ConfigError, match="Give out='DIR'"):
        offrl.sweep(SMALL)


def test_settings_of_one_name_and_several_kinds_share_a_column(tmp_path: Path):
    rows = [{"seed": 0, "a": 1, "b": 1, "c": None}, {"seed": 1, "a": 0.5, "b": "std"}]
    tables.write_table(tmp_path / "t.parquet", rows)
    assert rows_at(tmp_path / "t.parquet") == [
        {"seed": 0, "a": 1.0, "b": "1", "c": None},
        {"seed": 1, "a": 0.5, "b": "std", "c": None},
    ]


def test_a_run_is_there_though_its_sweep_is_moved(tmp_path: Path):
    saved_dataset()
    swept(tmp_path / "sweep", algos=["bc"])
    shutil.move(tmp_path / "sweep", tmp_path / "moved")
    idle = Here()
    found = swept(tmp_path / "moved", idle, algos=["bc"])
    assert idle.performed == []
    assert all(str(tmp_path / "moved") in row["run"] for row in found.rows)
