"""metrics.csv after a resume is that of a run that was never stopped."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from offrl.events import Diverged, Evaluated, Finished, Saved, Started, Trained, from_dict, to_dict
from offrl.logs import MetricsFile

ROWS = [
    (5, {"value/loss": 0.1}),
    (10, {"value/loss": 1e-30, "value/mean": -0.0}),
    (15, {"policy/loss": 3.0}),
    (15, {"eval/return_mean": -200.5}),
    (18, {"eval/return_mean": 7.0}),
    (20, {"policy/loss": 2.0, "value/loss": 0.5}),
]


def written(path: Path, rows: list[tuple[int, dict[str, float]]], up_to: int = 0) -> str:
    file = MetricsFile(path, up_to)
    for step, values in rows:
        file.append(step, values)
    return path.read_text()


def test_a_row_a_step_a_column_a_metric_blank_where_there_is_none(tmp_path: Path):
    written(tmp_path / "metrics.csv", ROWS)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["5", "10", "15", "18", "20"]
    assert list(rows[0]) == ["step", "value/loss", "value/mean", "policy/loss", "eval/return_mean"]
    assert rows[2] == {
        "step": "15",
        "value/loss": "",
        "value/mean": "",
        "policy/loss": "3.0",
        "eval/return_mean": "-200.5",
    }
    assert float(rows[1]["value/loss"]) == 1e-30


@pytest.mark.parametrize("stopped", range(22))
@pytest.mark.parametrize("reported", [0, 1, 2])
def test_stopped_at_any_step_and_resumed_the_file_is_the_same(
    stopped: int, reported: int, tmp_path: Path
):
    whole = written(tmp_path / "whole.csv", ROWS)
    path = tmp_path / "metrics.csv"
    n = sum(step <= stopped for step, _ in ROWS)
    written(path, ROWS[: n + reported])  # rows beyond the checkpoint, which the resume cuts off
    assert written(path, ROWS[n:], up_to=stopped) == whole


@pytest.mark.parametrize("torn", ["1", "15,0.2", "15,0.2,,,,,,,", "x", "15\n\n", '"15'])
def test_a_row_that_was_cut_short_is_dropped(torn: str, tmp_path: Path):
    whole = written(tmp_path / "whole.csv", ROWS)
    path = tmp_path / "metrics.csv"
    text = written(path, ROWS[:2])
    path.write_text(text + torn)
    assert written(path, ROWS[2:], up_to=12) == whole


def test_a_file_that_is_no_log_of_ours_starts_anew(tmp_path: Path):
    path = tmp_path / "metrics.csv"
    path.write_text("something,else\n1,2\n")
    assert written(path, [(5, {"a": 1.0})], up_to=9) == "step,a\n5,1.0\n"


@pytest.mark.parametrize(
    "event",
    [
        Started(0, 5, ("a note", "another")),
        Trained(1, 10, {"policy/loss": 0.25}, 90.5),
        Evaluated(2, 20, {"return_mean": -3.5, "return_ci": [-4.0, -3.0]}),
        Saved(3, 30, Path("runs/x")),
        Diverged(4, 40, "value/loss is nan at step 40."),
        Finished(5, 50, 2.5),
    ],
)
def test_an_event_survives_the_pipe_between_processes(event: Started | Trained | Saved):
    import json

    assert from_dict(json.loads(json.dumps(to_dict(event)))) == event


DROPPED = """
import sys
from pathlib import Path
from offrl.logs import TensorBoard

def events():
    board = TensorBoard(Path(sys.argv[1]), 0)
    try:
        board.append(1, {"a": 1.0})
        yield
    finally:
        board.close()

going = events()
next(going)
"""


def test_a_process_that_reads_its_events_no_further_ends(tmp_path: Path):
    """TensorBoard's own close waits for ever for a thread that ends before it."""
    subprocess.run([sys.executable, "-c", DROPPED, tmp_path], check=True, timeout=60)
    assert any(file.stat().st_size for file in tmp_path.iterdir())
