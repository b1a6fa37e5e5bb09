"""`offrl sweep` and `offrl train --grid`, as they are typed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from offrl.sweeps import executor, worker
from offrl.sweeps.executor import Report

Type = Callable[..., Any]
SMALL = ("--steps", "20", "--hidden-size", "8", "--batch-size", "8", "--seeds", "0,1")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are performed in this process; tests/sweeps tries those of their own."""

    def execute(self: Any, requests: Any) -> Any:
        for number, request in enumerate(requests):
            yield Report(number)
            yield Report(number, worker.perform(request))

    monkeypatch.setattr(executor.LocalProcesses, "execute", execute)


def file_of(data: str, **changes: Any) -> Path:
    table: dict[str, Any] = {
        "algos": ["bc"],
        "datasets": [data],
        "seeds": [0, 1],
        "steps": 20,
        "settings": {"hidden_size": 8, "batch_size": 8},
        "evaluation": {"episodes": 0},
    }
    path = Path("mine.toml")
    path.write_text(tomli_w.dumps(table | changes))
    return path


@pytest.mark.usefixtures("here")
class TestSweep:
    def test_prints_the_table_and_the_keys_that_scripts_read(self, type_: Type, shop: str):
        typed = type_("sweep", file_of(shop, bc={"lr": [1e-3, 1e-4]}))
        assert typed.status == 0, typed.err
        assert "4 of 4 finished" in typed.out
        assert "lr=0.001" in typed.out
        assert typed.next == "offrl eval sweeps/mine/runs/bc/me/shop-v0/lr=0.001/seed=0"
        found = type_("sweep", "mine.toml", "--json").json
        assert (found["trials"], found["finished"], found["failed"]) == (4, 4, [])
        assert found["table"] == "sweeps/mine/results.parquet"
        assert [(one["point"], one["n_seeds"]) for one in found["summary"]] == [
            ("lr=0.001", 2),
            ("lr=0.0001", 2),
        ]

    def test_a_trial_that_fails_is_named_and_the_status_is_1(self, type_: Type, shop: str):
        typed = type_("sweep", file_of(shop, bc={"lr": [1e30, 1e-4]}), "--out", "there")
        assert typed.status == 1
        assert "2 of 4 trials failed:" in typed.err
        assert "bc (lr=1e+30) on me/shop-v0, seed 0: Training has diverged" in typed.err
        assert "2 of 4 finished" in typed.out
        assert typed.next == "offrl sweep mine.toml --out there"
        found = type_("sweep", "mine.toml", "--out", "there", "--json")
        assert found.status == 1
        assert [row["status"] for row in found.json["failed"]] == ["failed", "failed"]

    def test_a_word_that_is_off_is_refused_before_anything_is_written(
        self, refused: Type, shop: str
    ):
        typed = refused("sweep", file_of(shop, stepz=3))
        assert "Did you mean 'steps'" in typed.err
        assert "There is no file none.toml" in refused("sweep", "none.toml").err
        assert "me/shop-v1" in refused("sweep", file_of("me/shop-v1")).err
        assert not Path("sweeps").exists()

    def test_data_that_is_absent_can_be_skipped_and_code_has_to_be_typed(
        self, type_: Type, refused: Type, shop: str
    ):
        path = file_of(shop, datasets=[shop, "me/none-v0"])
        typed = type_("sweep", path, "--skip-absent")
        assert typed.status == 0
        assert "note: Skipped: " in typed.err
        typed = refused("sweep", path, "--skip-absent", "--algo", "mine.py:Mine")
        assert "mine.toml has no algorithm mine.py:Mine" in typed.err


class TestGrid:
    def test_each_value_is_a_run_and_resuming_needs_no_other_flag(self, type_: Type, shop: str):
        words = ("train", "--algo", "bc", "--dataset", shop, *SMALL, "--out", "g")
        typed = type_(*words, "--grid", "lr=1e-3,1e-4")
        assert typed.status == 0, typed.err
        assert "lr=0.001" in typed.out
        assert typed.next == "offrl eval g/lr=0.001 --env ENV"
        found = type_("train", "--out", "g", "--resume", "--json").json
        assert found["grid"] == {"lr": [1e-3, 1e-4]}
        assert found["seeds"] == [0, 1]
        assert list(found["runs"]) == ["lr=0.001", "lr=0.0001"]
        assert found["runs"]["lr=0.001"]["run"] == "g/lr=0.001"
        assert "has taken its 20 steps already" in type_("train", "--out", "g", "--resume").err

    @pytest.mark.parametrize(
        ("word", "said"),
        [
            ("lr", "'lr' is not NAME=VALUE,VALUE"),
            ("lr=", "holds what is not a number"),
            ("lr=fast", "holds what is not a number"),
            ("hidden-size=8,16", "offrl sweep FILE.toml"),
            ("lrr=1,2", "Did you mean 'lr'?"),
        ],
    )
    def test_a_word_that_is_off_is_refused(self, refused: Type, shop: str, word: str, said: str):
        typed = refused("train", "--algo", "bc", "--dataset", shop, "--out", "g", "--grid", word)
        assert said in typed.err
        assert not Path("g").exists()

    def test_a_value_that_diverges_is_named(self, type_: Type, shop: str):
        words = ("train", "--algo", "bc", "--dataset", shop, *SMALL, "--out", "g")
        typed = type_(*words, "--grid", "lr=1e30,1e-4")
        assert (typed.status, typed.out) == (1, "")
        assert "Seed 0 of lr=1e+30 has diverged" in typed.err
