"""Names of datasets, what a reference means, and what lies under the root."""

import json
from collections.abc import Callable
from pathlib import Path

import minari
import pytest
from hypothesis import given
from hypothesis import strategies as st
from minari.dataset.minari_dataset import parse_dataset_id

from offrl.data import catalogue
from offrl.data.catalogue import (
    check_id,
    dataset_path,
    datasets_root,
    list_local,
    resolve,
    shipped_recipes,
)
from offrl.data.dataset import load
from offrl.errors import ConfigError, NotFoundError
from offrl.testing import toy_dataset

Run = Callable[..., tuple[int, str, str]]
HOSTILE = [
    "",
    "x",
    "../x-v0",
    "/abs-v0",
    "a/../../x-v0",
    "me/./x-v0",
    "me//x-v0",
    "me/x-v0/",
    "a\nb-v0",
    "me/x-v0\n",
    "a\0b-v0",
    "me/" + "x" * 300 + "-v0",
    "con",
    "con/x-v0",
    "me/COM1/x-v0",
    "data/x-v0",
    "me/x-v0.",
    "me/x.y-v0",
    "mе/x-v0",
    "me\\x-v0",
    "me/x v0",
    "~/x-v0",
    "-me/x-v0",
    "me/x-v",
    "m/x-v0",
]


@pytest.mark.parametrize("id", HOSTILE)
def test_an_id_that_could_leave_the_root_is_refused_untouched(
    id: str, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    """Fault S6."""
    for name in ("stat", "open", "resolve", "exists", "is_dir", "is_file", "mkdir"):
        monkeypatch.setattr(Path, name, _never)
    with pytest.raises(ConfigError, match=r"cannot be the id"):
        check_id(id)
    with pytest.raises(ConfigError, match=r"cannot be the id"):
        dataset_path(id)
    if not id.startswith(("m/", "data/", "con/", "me/COM1")):
        with pytest.raises(ConfigError):
            resolve(f"minari:{id}")
    monkeypatch.undo()
    assert not list(root.rglob("*"))


def _never(*arguments: object, **named: object) -> None:
    raise AssertionError("the file system was asked")


@pytest.mark.parametrize("id", ["../x-v0", "a\nb", "", "x" * 300, "me/x.y"])
def test_a_reference_to_nothing_ends_with_status_2(id: str, typed: Run) -> None:
    status, out, err = typed("data", "show", id)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) <= 3


@given(st.from_regex(r"[a-z]{2}(/[a-z0-9_-]{1,5})?/[a-z0-9]{1,5}-v[0-9]", fullmatch=True))
def test_every_id_that_is_taken_minari_takes_too(id: str) -> None:
    try:
        check_id(id)
    except ConfigError:
        return
    assert parse_dataset_id(id)[2] is not None
    assert dataset_path(id, "/top").as_posix() == f"/top/{id}"


def test_the_root_is_the_one_that_minari_uses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    assert datasets_root() == tmp_path / "sets"
    assert not datasets_root().exists()
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert datasets_root() == tmp_path / ".minari" / "datasets"


def test_every_way_of_naming_a_dataset_opens_the_same_one(made: Path) -> None:
    expected = load("me/made-v0").fingerprint
    for ref in (
        "minari:me/made-v0",
        str(made),
        made,
        made / "data",
        made / "data" / "main_data.hdf5",
        made / "data" / "metadata.json",
    ):
        data = load(ref)
        assert data.fingerprint == expected
        assert data.id == "me/made-v0"


def test_a_relative_path_is_a_path(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.parent)
    assert load("made-v0").n_episodes == 3
    assert load("./made-v0").n_episodes == 3


def test_a_folder_outside_the_root_opens_by_its_path(made: Path, tmp_path: Path) -> None:
    made.rename(tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere").n_episodes == 3
    with pytest.raises(NotFoundError):
        load("me/made-v0")


def test_what_is_absent_names_the_nearest_and_the_next_step(made: Path, typed: Run) -> None:
    """Faults U1, U2 and U3."""
    for ref, fragments in {
        "me/mad-v0": ["There is no dataset 'me/mad-v0'", "Did you mean 'me/made-v0'?"],
        "mujoco/hopper/medium-v0": ["offrl data download mujoco/hopper/medium-v0"],
        "minari:mujoco/hopper/medium-v0": ["offrl data download mujoco/hopper/medium-v0"],
        "thing-v0": ["offrl data list"],
        "/nowhere/at/all": ["neither a folder nor an id"],
        str(made.parent): ["holds no dataset"],
    }.items():
        with pytest.raises(NotFoundError) as refused:
            load(ref)
        for fragment in fragments:
            assert fragment in str(refused.value)
        status, out, err = typed("data", "show", ref)
        assert (status, out) == (2, "")
        assert len(err.splitlines()) <= 3


def test_another_kind_of_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("a,b\n")
    with pytest.raises(NotFoundError, match="is not a dataset"):
        load(tmp_path / "log.csv")


def test_a_shipped_recipe_is_collected(
    monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        catalogue, "shipped_recipes", lambda: {"offrl/pendulum/medium-v0": tmp_path}
    )
    with pytest.raises(NotFoundError, match="offrl collect offrl/pendulum/medium-v0"):
        load("offrl/pendulum/medium-v0")
    with pytest.raises(NotFoundError, match="Did you mean 'offrl/pendulum/medium-v0'"):
        load("offrl/pendulum/medum-v0")


def test_recipes_are_found_in_a_checkout() -> None:
    for id, folder in shipped_recipes().items():
        assert check_id(id) == id
        assert (folder / "recipe.toml").is_file()


def test_the_list_survives_a_dataset_whose_environment_is_no_json(made: Path) -> None:
    file = made / "data" / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"env_spec": "{"}))
    assert "env_spec is not JSON" in list_local()[0]["problem"]


def test_the_list_names_each_dataset_and_what_is_wrong_with_one(made: Path, root: Path) -> None:
    made_again = load("me/made-v0").save("me/deep/other-v1")
    (root / "broken-v0" / "data").mkdir(parents=True)
    (root / "broken-v0" / "data" / "metadata.json").write_text("{")
    (root / "me" / "half-v0.incomplete" / "data").mkdir(parents=True)
    (root / ".hidden-v0" / "data").mkdir(parents=True)
    (root / "me" / "note.txt").write_text("not a dataset")
    listed = list_local()
    assert [entry["id"] for entry in listed] == ["broken-v0", "me/deep/other-v1", "me/made-v0"]
    assert "metadata.json" in listed[0]["problem"]
    assert listed[0]["episodes"] is None
    assert listed[2] | {"bytes": 0} == {
        "id": "me/made-v0",
        "path": str(made),
        "episodes": 3,
        "steps": 8,
        "env": "Pendulum-v1",
        "bytes": 0,
        "minari_version": "0.5.4",
        "problem": None,
    }
    assert made_again.path is not None
    size = (made_again.path / "data" / "main_data.hdf5").stat().st_size
    assert listed[1]["bytes"] > size


def test_an_absent_root_lists_nothing_and_is_not_made(tmp_path: Path) -> None:
    assert list_local(tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


def test_minari_lists_what_we_saved(made: Path) -> None:
    load("me/made-v0").save("me/saved-v0")
    assert set(minari.list_local_datasets()) == {"me/made-v0", "me/saved-v0"}


def test_a_missing_set_is_answered_with_one_of_a_like_namespace_only():
    toy_dataset(discrete=True).save("offrl/pendulum/medium-v0")
    with pytest.raises(NotFoundError, match="Did you mean 'offrl/pendulum/medium-v0'"):
        resolve("ofrl/pendulum/medum-v0")
    with pytest.raises(NotFoundError) as missing:
        resolve("minari:mujoco/hopper/medium-v0")
    assert missing.value.remedy == "Fetch it: offrl data download mujoco/hopper/medium-v0"
