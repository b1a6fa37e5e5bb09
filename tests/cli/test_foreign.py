"""`offrl data import` and `export`: one command each, and what is said when it cannot be."""

import base64
import json
import pickle
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_files import d4rl_arrays, rllib_line, save_d4rl, save_npz, stored_frame, walk

import offrl
from offrl.data.catalogue import datasets_root

Type = Callable[..., Any]

TABLE = "e,x,c,a,r\n0,1,=u,stop,0.5\n0,2,v,go,1.5\n1,3,v,go,2.5\n"
ROLES = ("--episode", "e", "--obs", "x,c", "--action", "a", "--reward", "r")


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "shop.csv"
    path.write_text(TABLE)
    return path


class TestImport:
    def test_json_is_that_of_show_and_what_was_assumed(self, type_: Type, tmp_path: Path):
        path = save_npz(tmp_path / "a.npz", **walk())
        typed = type_("data", "import", path, "--out", "me/walk-v0", "--json")
        assert typed.status == 0
        shown = type_("data", "show", "me/walk-v0", "--json").json
        assert {key: shown[key] for key in typed.json if key != "import"} == {
            key: value for key, value in typed.json.items() if key != "import"
        }
        assert typed.json["import"]["format"] == "npz"
        assert typed.json["import"]["sha256"].startswith("sha256:")
        assert typed.json["import"]["notes"]

    def test_every_format_takes_one_command(self, type_: Type, tmp_path: Path, table: Path):
        batch = {"type": "SampleBatch", "obs": [[0.0], [1.0]], "actions": [0, 1],
                 "rewards": [1.0, 1.0], "dones": [False, True], "eps_id": [3, 3]}  # fmt: skip
        (tmp_path / "log.json").write_text(json.dumps(batch))
        commands = {
            "walk": (save_npz(tmp_path / "a.npz", **walk()),),
            "flat": (save_d4rl(tmp_path / "a.hdf5", d4rl_arrays()), "--boundaries", "d4rl"),
            "log": (tmp_path / "log.json",),
            "shop": (table, *ROLES, "--ends", "terminated"),
        }
        for name, words in commands.items():
            typed = type_("data", "import", *words, "--out", f"me/{name}-v0")
            assert (typed.status, typed.next) == (0, f"offrl data check me/{name}-v0")
            assert type_(*shlex.split(typed.next)[1:]).status == 0

    def test_show_and_check_name_the_columns_of_the_table(self, type_: Type, table: Path):
        type_("data", "import", table, *ROLES, "--ends", "terminated", "--out", "me/shop-v0")
        shown = type_("data", "show", "me/shop-v0")
        lines = [line.split() for line in shown.out.splitlines()]
        assert ["x", "observation", "number"] in lines
        assert ["c", "observation", "choices", "=u,", "v"] in lines
        assert ["a", "action", "choices", "go,", "stop"] in lines
        described = type_("data", "show", "me/shop-v0", "--json").json["table"]
        assert [one["name"] for one in described] == ["x", "c", "a"]
        table.write_text("e,x,y,a,r\n0,1,5,0.5,1\n0,2,5,0.5,1\n1,4,5,0.5,2\n")
        words = ("--episode", "e", "--obs", "x,y", "--action", "a", "--reward", "r")
        type_("data", "import", table, *words, "--ends", "truncated", "--out", "me/flat-v0")
        found = type_("data", "check", "me/flat-v0").out
        assert "never changes in column 'y'" in found
        assert "the action never changes in column 'a'" in found

    def test_an_environment_that_the_log_is_not_of_is_named(self, refused: Type, tmp_path: Path):
        path = save_npz(tmp_path / "a.npz", **walk())
        typed = refused("data", "import", path, "--env", "CartPole-v1", "--out", "me/a-v0")
        assert "in the environment" in typed.err
        assert "--env ENV" in typed.err
        typed = refused("data", "import", path, "--episode", "e", "--out", "me/a-v0")
        assert "--episode means nothing for an npz archive" in typed.err
        assert "--observation-space" not in typed.err

    def test_a_word_for_all_ends_is_no_column_whatever_its_case(self, refused: Type, table: Path):
        typed = refused("data", "import", table, *ROLES, "--ends", "Truncated", "--out", "me/a-v0")
        assert "--ends truncated" in typed.err

    def test_the_environment_gives_its_spaces(self, type_: Type, tmp_path: Path):
        rows = walk(width=3)
        rows["action"] *= 2
        path = save_npz(tmp_path / "a.npz", **rows)
        typed = type_("data", "import", path, "--out", "me/p-v0", "--env", "Pendulum-v1")
        assert typed.status == 0
        data = offrl.load("me/p-v0")
        assert data.env_id == "Pendulum-v1"
        assert data.spec.action_high.tolist() == [2]

    @pytest.mark.parametrize(
        "form", [("--action-bounds", "-3,3"), ("--action-bounds=-3,3",)], ids=["apart", "joined"]
    )
    def test_bounds_may_begin_with_a_minus(self, type_: Type, tmp_path: Path, form: Any):
        path = save_npz(tmp_path / "a.npz", **walk())
        assert type_("data", "import", path, "--out", "me/a-v0", *form).status == 0
        assert offrl.load("me/a-v0").spec.action_low.tolist() == [-3]

    def test_a_failed_import_leaves_what_was_there(self, type_: Type, tmp_path: Path, table: Path):
        words = (*ROLES, "--ends", "terminated", "--out", "me/shop-v0")
        assert type_("data", "import", table, *words).status == 0
        before = offrl.load("me/shop-v0").fingerprint
        table.write_text(TABLE.replace("2.5", "much"))
        typed = type_("data", "import", table, *words, "--overwrite")
        assert (typed.status, typed.out) == (1, "")
        assert "the column 'r' holds 'much' in row 2" in typed.err.lower()
        assert offrl.load("me/shop-v0").fingerprint == before
        assert not [path for path in datasets_root().rglob("*") if "incomplete" in path.name]

    def test_an_id_that_exists_is_refused_and_can_be_replaced(
        self, type_: Type, refused: Type, tmp_path: Path
    ):
        path = save_npz(tmp_path / "a.npz", **walk())
        words = ("data", "import", path, "--out", "me/walk-v0")
        assert type_(*words).status == 0
        assert "exists already" in refused(*words).err
        assert type_(*words, "--overwrite").status == 0

    def test_ends_have_no_default_and_the_message_explains_the_choice(
        self, refused: Type, table: Path
    ):
        err = refused("data", "import", table, *ROLES, "--out", "me/shop-v0").err
        assert "--ends is missing" in err
        assert "--ends terminated where nothing follows" in err
        assert "--ends truncated where the log stops and the world goes on" in err

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("no.csv",), "There is no file no.csv"),
            (("shop.csv", "--format", "npz"), "is a CSV table, not an npz archive"),
            (("shop.csv", "--masks", "ignore"), "--masks means nothing for a CSV table"),
            (("shop.csv", "--obs", "y"), "has no column 'y'"),
            (("shop.csv", "--time-limit", "0"), "not at least 1"),
            (("shop.csv", "--action-bounds", "3,1"), "not two numbers LOW,HIGH"),
            (("shop.csv", "--split", "jump"), "Did you mean 'jumps'?"),
            (("shop.csv", "--out", "../x"), "cannot be the id of a dataset"),
            (("shop.csv", "--env", "Pendulum-v11"), "Pendulum-v1"),
        ],
    )
    def test_words_that_are_off_are_answered(
        self, refused: Type, table: Path, words: tuple[str, ...], said: str
    ):
        assert table.exists()
        given = {"--out": "me/shop-v0", "--ends": "terminated", "--episode": "e", "--obs": "x",
                 "--action": "a", "--reward": "r"}  # fmt: skip
        rest = [part for pair in given.items() if pair[0] not in words for part in pair]
        assert said in refused("data", "import", *words, *rest).err
        assert not (datasets_root() / "me").exists()

    @pytest.mark.parametrize(
        ("content", "status"), [(b"PK\x03\x04junk", 1), (b"", 1), (b"\x89HDF\r\n\x1a\njunk", 1),
                                (b"PAR1junk", 2), (b"{junk", 1), (b"\x80\x04junk", 2)]
    )  # fmt: skip
    def test_a_damaged_file_is_one_cause_and_one_remedy(
        self, type_: Type, tmp_path: Path, content: bytes, status: int
    ):
        path = tmp_path / "a.bin"
        path.write_bytes(content)
        typed = type_("data", "import", path, "--out", "me/a-v0")
        assert (typed.status, typed.out) == (status, "")
        cause, remedy = typed.err.splitlines()
        assert cause.startswith("error: ")
        assert remedy.startswith("try: ")

    @pytest.mark.parametrize("form", ["npz", "pickle", "rllib"])
    def test_nothing_in_a_file_is_run(self, type_: Type, tmp_path: Path, form: str):
        ran, path = tmp_path / "ran", tmp_path / "a.npz"
        payload = Payload(ran)
        if form == "npz":
            save_npz(path, **walk() | {"reward": np.array([payload] * 12, dtype=object)})
        elif form == "pickle":
            path.write_bytes(pickle.dumps(payload))
        else:
            packed = base64.b64encode(stored_frame(pickle.dumps(payload))).decode()
            line = json.loads(rllib_line(walk())) | {"obs": packed}
            path.write_text(json.dumps(line))
        typed = type_("data", "import", path, "--out", "me/a-v0")
        assert typed.status in (1, 2)
        assert typed.out == ""
        assert not ran.exists()
        assert not (datasets_root() / "me").exists()

    def test_check_repeats_what_the_import_found(self, type_: Type, tmp_path: Path):
        rows = walk((6, 5))
        rows["truncated"][:] = rows["done"][:] = 0
        path = save_npz(tmp_path / "a.npz", **rows)
        typed = type_("data", "import", path, "--out", "me/walk-v0")
        assert "an episode ends there, as truncated" in typed.out
        problems = type_("data", "check", "me/walk-v0", "--json").json["problems"]
        (found,) = [p for p in problems if p["code"] == "jump-without-end"]
        assert (found["count"], found["places"]) == (1, ["row 5"])


class TestExport:
    def test_the_next_line_imports_it_again(self, type_: Type, table: Path, tmp_path: Path):
        words = (*ROLES, "--ends", "terminated", "--out", "me/shop-v0")
        assert type_("data", "import", table, *words).status == 0
        typed = type_("data", "export", "me/shop-v0", "--out", tmp_path / "out.csv")
        assert typed.status == 0
        assert type_(*shlex.split(typed.next)[1:]).status == 0
        assert offrl.load("me/copy-v0").fingerprint == offrl.load("me/shop-v0").fingerprint

    def test_json_names_the_file(self, type_: Type, shop: str, tmp_path: Path):
        path = tmp_path / "out.hdf5"
        found = type_("data", "export", shop, "--out", path, "--format", "d4rl", "--json").json
        assert found["file"] == str(path)
        assert found["bytes"] == path.stat().st_size
        assert (found["rows"], found["steps"], found["format"]) == (12, 12, "d4rl")

    def test_a_file_that_exists_is_refused(self, refused: Type, shop: str, tmp_path: Path):
        (tmp_path / "a.csv").write_text("mine")
        assert "exists already" in refused("data", "export", shop, "--out", tmp_path / "a.csv").err
        assert (tmp_path / "a.csv").read_text() == "mine"

    def test_parquet_without_its_package_says_what_to_install(
        self, refused: Type, shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        typed = refused("data", "export", shop, "--out", tmp_path / "a.parquet")
        assert "pip install 'offrl[arrow]'" in typed.err
