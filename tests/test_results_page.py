"""The page of results is what the table of the sweep gives, and no more."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from benchmarks.results_page import PAGE, TABLE, page_of

SHARED: dict[str, Any] = {
    "dataset": "me/swing-v0",
    "point": "",
    "steps": 2000,
    "batch_size": 256,
    "hidden_layers": 2,
    "hidden_size": 64,
    "n_episodes": 20,
    "seconds": 1800.0,
    "error": None,
}


def written(path: Path, *rows: dict[str, Any]) -> Path:
    table = pa.Table.from_pylist([SHARED | row for row in rows])
    facts = {"format": 1, "versions": {"offrl": "0.1.0"}}
    parquet.write_table(table.replace_schema_metadata({"offrl": json.dumps(facts)}), path)
    return path


def test_means_and_intervals_come_from_the_rows_and_failures_are_listed(tmp_path: Path):
    good: dict[str, Any] = {"status": "finished", "algo": "awr"}
    page = page_of(
        written(
            tmp_path / "t.parquet",
            {"algo": "bc", "status": "finished", "seed": 0, "return_mean": 1.0, "score": 5.0},
            {"algo": "bc", "status": "failed", "seed": 1, "error": "The disk is full."},
            good | {"seed": 0, "return_mean": 10.0, "score": 50.0},
            good | {"seed": 1, "return_mean": 12.0, "score": 60.0},
        )
    )
    assert "3 of 4 trials finished" in page
    assert "2,000 gradient steps of 256" in page
    assert "1.5 hours" in page
    # mean 11, s = 1.414, t = 12.706 at one degree of freedom: 11 +- 12.7
    assert "| awr | 2 of 2 | 11.0 | [-1.7, 23.7] | 55.0 | [-8.5, 118.5] |" in page
    assert "| bc | 1 of 2 | 1.0 | - | 5.0 | - |" in page
    assert "| bc on me/swing-v0, seed 1 | The disk is full. |" in page
    assert page.index("| awr |") < page.index("| bc |")  # the best comes first


def test_a_table_without_a_finished_trial_gives_no_page(tmp_path: Path):
    failed = {"algo": "bc", "status": "failed", "seed": 0, "return_mean": None, "score": None}
    with pytest.raises(SystemExit, match="no finished trial"):
        page_of(written(tmp_path / "t.parquet", failed))


def test_the_page_that_is_kept_is_that_of_the_table_that_is_kept():
    assert TABLE.exists() == PAGE.exists()
    assert not PAGE.exists() or PAGE.read_text(encoding="utf-8") == page_of(TABLE)
