"""What a sweep's file may say, and how a wrong word in it is answered."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from offrl.errors import ConfigError, NotFoundError, OffrlError
from offrl.sweeps.file import read_sweep

GOOD: dict[str, Any] = {"algos": ["bc", "awr"], "datasets": ["toy/box-v0"], "steps": 10}


def test_a_list_is_tried_value_by_value_and_an_algorithms_own_table_wins():
    file = read_sweep(
        GOOD
        | {"settings": {"hidden_size": [8, 16], "lr": 1e-3}}
        | {"awr": {"hidden_size": 8, "temperature": [0.3, 1]}}
    )
    assert file.axes("bc") == ({"lr": 1e-3}, {"hidden_size": [8, 16]})
    assert file.axes("awr") == ({"lr": 1e-3, "hidden_size": 8}, {"temperature": [0.3, 1]})
    assert (file.seeds, file.of_a_run, file.judging.episodes) == ((0,), {"steps": 10}, 50)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"algos": None, "algo": ["bc"]}, r"names no algos\. Did you mean 'algo'"),
        ({"algos": "bc"}, "algos is a list, not 'bc'"),
        ({"algos": []}, "algos is a list"),
        ({"algos": ["bc", "bc"]}, "algos names one twice"),
        ({"algos": ["bd"]}, "no algorithm 'bd'. Did you mean 'bc'"),
        ({"seeds": "0-4"}, r"seeds is a list, not '0-4'\. seeds = \[0, 1, 2\]"),
        ({"seeds": [-1]}, "seeds is a list"),
        ({"seeds": [True]}, "seeds is a list"),
        ({"stepz": 5}, "sets 'stepz', which nothing reads. Did you mean 'steps'"),
        ({"hidden_size": 5}, r"which nothing reads.* table \[settings\]"),
        ({"steps": [5, 6]}, "'steps' has one value in a sweep"),
        ({"setting": {"lr": 1.0}}, r"a table \[setting\].* Did you mean 'settings'"),
        ({"settings": {"lr": []}}, r"'lr' of \[settings\] is a value or a list"),
        ({"settings": {"lr": [1.0, 1.0]}}, r"'lr' of \[settings\] names a value twice"),
        ({"evaluation": {"episode": 3}}, "sets 'episode', which.* Did you mean 'episodes'"),
        ({"evaluation": {"episodes": -1}}, "'episodes' of .* is a whole number from 0, not -1"),
        ({"evaluation": {"env": 3}}, "'env' of .* is the id of an environment, not 3"),
        ({"format": 2}, "format 2|another format"),
    ],
)
@pytest.mark.parametrize("kind", ["file", "mapping"])
def test_a_word_that_is_off_is_named(changes: dict[str, Any], said: str, kind: str, tmp_path: Path):
    table = {key: value for key, value in (GOOD | changes).items() if value is not None}
    path = tmp_path / "sweep.toml"
    path.write_text(tomli_w.dumps(table))
    with pytest.raises(OffrlError, match=said):
        read_sweep(path if kind == "file" else table)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(NotFoundError, match=r"no file .*none\.toml"):
        read_sweep(tmp_path / "none.toml")


def test_code_that_a_file_names_runs_only_where_it_is_typed_too(tmp_path: Path):
    mine = tmp_path / "mine.py"
    mine.write_text("raise SystemExit('it ran')")
    path = tmp_path / "sweep.toml"
    path.write_text(tomli_w.dumps(GOOD | {"algos": [f"{mine}:Mine"]}))
    with pytest.raises(ConfigError, match=rf"code of yours.*--algo {mine}:Mine"):
        read_sweep(path)
    with pytest.raises(SystemExit, match="it ran"):
        read_sweep(path, [f"{mine}:Mine"])
