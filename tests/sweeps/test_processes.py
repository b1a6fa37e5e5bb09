"""Local processes perform trials to the bits of this one, and what happens to one stays there."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from pyarrow import parquet
from training_runs import outcome, python, saved_dataset

import offrl
from offrl.sweeps import executor
from offrl.sweeps.executor import LocalProcesses, Report
from offrl.sweeps.trials import Trial

REF = "toy/box-v0"
SMALL: dict[str, Any] = {
    "algos": ["bc"],
    "datasets": [REF],
    "seeds": [0, 1],
    "steps": 1000,
    "save_every": 100,
    "log_every": 100,
    "compile": "off",
    "settings": {"hidden_size": 8, "batch_size": 16},
    "evaluation": {"episodes": 0},
}
KILLED = SMALL | {"steps": 3000}  # a few seconds: long enough to be killed within
LONG = SMALL | {"steps": 1_000_000, "save_every": 50, "log_every": 50}


def alone(seed: int, out: Path, sweep: dict[str, Any] = SMALL) -> Any:
    """What a run of one trial by itself comes to."""
    run = {name: sweep[name] for name in ("steps", "save_every", "log_every", "compile")}
    return outcome(offrl.fit("bc", REF, out=out, seeds=(seed,), **run, **SMALL["settings"]).dir)


def waits(*found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not all(one() for one in found) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert all(one() for one in found)


def saved(runs: Path, seed: int | str = "*") -> list[Path]:
    """The checkpoints of a sweep that runs; by depth, or it would look into one that is moved."""
    return list(runs.glob(f"*/*/*/*/seed={seed}/seed_*/checkpoints/step_*"))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The workers that a sweep started, in order."""
    workers: list[Any] = []
    listen = executor._Worker._listen

    def kept(self: Any) -> None:
        workers.append(self)
        listen(self)

    monkeypatch.setattr(executor._Worker, "_listen", kept)
    return workers


def killer(trial_seed: int, workers: list[Any], deaths: int) -> Callable[[Trial, Report], None]:
    """Kills the process of one seed's trial once it has saved, as often as `deaths` says."""
    begun: list[int] = []

    def watch(trial: Trial, report: Report) -> None:
        if trial.seed != trial_seed or report.outcome is not None or report.note:
            return
        begun.append(report.number)
        if len(begun) > deaths:
            return
        asked = len(workers)

        def kill() -> None:
            saved = trial.plan.dir / f"seed_{trial_seed}" / "checkpoints"
            waits(lambda: bool(list(saved.glob("step_*"))))
            workers[asked - 1].process.send_signal(signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()

    return watch


def test_a_trial_whose_process_is_killed_goes_on_from_its_checkpoint(
    tmp_path: Path, started: list[Any]
):
    saved_dataset()
    notes: list[str] = []
    watch = killer(1, started, deaths=1)

    def on_report(trial: Trial, report: Report) -> None:
        watch(trial, report)
        notes.append(report.note)

    small = KILLED | {"seeds": [1]}
    found = offrl.sweep(small, out=tmp_path / "s", workers=1, on_report=on_report)
    assert not found.failed
    assert any("ended by signal 9 (SIGKILL)" in note for note in notes)
    assert len(started) == 2
    assert outcome(Path(found.rows[0]["run"])) == alone(1, tmp_path / "alone", KILLED)


def test_one_that_is_killed_again_and_again_fails_and_the_others_go_on(
    tmp_path: Path, started: list[Any]
):
    saved_dataset()
    found = offrl.sweep(
        KILLED,
        out=tmp_path / "s",
        executor=LocalProcesses(1, retries=0),
        on_report=killer(0, started, deaths=9),
    )
    (failed,) = found.failed
    assert failed["seed"] == 0
    assert "ended by signal 9 (SIGKILL), as it is where memory runs out" in failed["error"]
    assert [row["status"] for row in found.rows] == ["failed", "finished"]
    again = offrl.sweep(KILLED, out=tmp_path / "s", workers=1)
    assert not again.failed
    assert parquet.read_table(again.table).num_rows == 2


DRIVER = """
import json, sys, offrl
offrl.sweep(json.loads(sys.argv[1]), out=sys.argv[2], workers=2)
"""


def test_a_sweep_that_is_killed_leaves_no_process_and_goes_on_without_doubles(tmp_path: Path):
    saved_dataset()
    process = python(DRIVER, json.dumps(SMALL), str(tmp_path / "s"))
    waits(lambda: bool(saved(tmp_path / "s" / "runs")))
    process.kill()
    process.communicate()
    found = offrl.sweep(SMALL, out=tmp_path / "s", workers=2)
    assert [(row["seed"], row["status"]) for row in found.rows] == [
        (0, "finished"),
        (1, "finished"),
    ]
    assert parquet.read_table(found.table).num_rows == 2
    for row in found.rows:
        assert outcome(Path(row["run"])) == alone(row["seed"], tmp_path / f"alone-{row['seed']}")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_saves_every_trial_and_names_the_command_that_goes_on(
    number: signal.Signals, status: int, tmp_path: Path
):
    saved_dataset()
    file = tmp_path / "mine.toml"
    file.write_text(tomli_w.dumps(LONG))
    words = [sys.executable, "-m", "offrl_cli", "sweep", str(file), "--workers", "2"]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy()
    )
    runs = tmp_path / "sweeps" / "mine" / "runs"
    waits(
        lambda: len(saved(runs, seed=0)) > 2,
        lambda: len(saved(runs, seed=1)) > 2,
    )
    process.send_signal(number)
    out, err = process.communicate(timeout=200)
    assert (process.returncode, out) == (status, "")
    *_, cause, remedy = err.splitlines()
    assert cause.startswith("error: Stopped by ")
    assert remedy == f"try: offrl sweep {file} --workers 2"
    rows = parquet.read_table(tmp_path / "sweeps" / "mine" / "results.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["unfinished", "unfinished"]
    for folder in runs.rglob("seed_?"):
        newest = max(folder.glob("checkpoints/step_*"))
        last = (folder / "metrics.csv").read_text().splitlines()[-1]
        # Stopped between its row and the rest that is due at that step, a run takes it again.
        assert int(newest.name.removeprefix("step_")) >= int(last.split(",")[0]) - 1


def test_a_worker_whose_parent_dies_before_it_begins_begins_nothing_long(tmp_path: Path):
    saved_dataset()
    settings = {"seeds": [0], "steps": 1_000_000, "save_every": 50, "compile": "off"}
    request = {
        "algo": "bc", "dataset": REF, "out": str(tmp_path / "run"), "settings": settings,
        "hyperparameters": {"hidden_size": 8}, "evaluation": {"episodes": 0},
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "offrl.sweeps.worker"],
        input=json.dumps(request) + "\n",  # and the end of the input, before it is read
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, ""), done.stderr


SMALL_FILES = """
import json, resource, sys, offrl
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
found = offrl.sweep(json.loads(sys.argv[1]), out=sys.argv[2], workers=1)
"""


def test_a_disk_without_room_is_an_error_and_never_a_signal(tmp_path: Path):
    saved_dataset()
    process = python(SMALL_FILES, json.dumps(SMALL), str(tmp_path / "s"))
    _, told = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "The table" in told
    assert "could not be written: File too large" in told
    outcomes = [json.loads(path.read_text()) for path in (tmp_path / "s").rglob("seed=?.json")]
    assert ["could not be saved: File too large" in one["error"] for one in outcomes] == [True] * 2
    assert not list((tmp_path / "s").rglob("*.tmp*"))
    assert not offrl.sweep(SMALL, out=tmp_path / "s", workers=1).failed
