"""Folders whose metadata, counts or sizes are off are named before anything in them is read."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offrl.data.dataset import load
from offrl.data.manifest import sealed
from offrl.data.minari_store import read_metadata
from offrl.errors import CorruptDataError, IncompatibleVersionError, UnsafeDataError

Run = Callable[..., tuple[int, str, str]]


# Faults R6: metadata.json that is not what a writer wrote.


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b'{"total_episodes": 3', "not valid JSON"),
        (b'{"total_episodes": "\xff"}', "not UTF-8"),
        (b'{"a": 1, "a": 2}', "'a' appears twice"),
        (b'{"ref_max_score": NaN}', "NaN"),
        (b"[1, 2]", "holds a list"),
        (b"[" * 200_000, "nested too deeply"),
    ],
)
def test_metadata_that_is_no_object_is_named(
    made: Path, typed: Run, content: bytes, fragment: str
) -> None:
    path = made / "data" / "metadata.json"
    before = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(CorruptDataError, match=fragment) as refused:
        load("me/made-v0")
    assert str(path) in refused.value.cause
    status, out, err = typed("data", "show", "me/made-v0")
    assert (status, out) == (1, "")
    assert "metadata.json" in err
    assert len(err.splitlines()) == 2
    path.write_bytes(before)
    assert load("me/made-v0").n_steps == 8


REQUIRED = (
    "dataset_id",
    "minari_version",
    "data_format",
    "total_episodes",
    "total_steps",
    "observation_space",
    "action_space",
)


@pytest.mark.parametrize("key", REQUIRED)
def test_a_key_that_is_missing_is_named(made: Path, typed: Run, key: str) -> None:
    """Fault R7."""
    edit(made, lambda content: (content.pop(key), content.pop("env_spec")))
    with pytest.raises(CorruptDataError, match=f"'{key}' is missing"):
        load("me/made-v0")
    status, out, err = typed("data", "show", "me/made-v0")
    assert (status, out) == (1, "")
    assert f"'{key}'" in err


@pytest.mark.parametrize("key", [*REQUIRED, "env_spec", "jpeg_encoding", "offrl", "author"])
def test_a_key_of_the_wrong_type_is_named(made: Path, key: str) -> None:
    """Fault R7."""
    edit(made, lambda content: content.update({key: 4.5}))
    with pytest.raises(CorruptDataError, match=f"'{key}' is 4.5, which has the wrong type"):
        load("me/made-v0")


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"total_episodes": -5}, "'total_episodes' is -5, below 0"),
        ({"total_steps": -1}, "'total_steps' is -1, below 0"),
        ({"total_episodes": True}, "'total_episodes' is True"),
        ({"total_episodes": "4"}, "'total_episodes' is '4'"),
        ({"data_format": "pickle"}, "'data_format' is 'pickle', not one of"),
        ({"dataset_id": "../../etc"}, "'dataset_id' is not the id"),
        ({"dataset_id": "a\nb"}, "'dataset_id' is not the id"),
        ({"minari_version": "soon"}, "'minari_version' is 'soon'"),
        ({"env_spec": "{"}, "env_spec is not JSON"),
        ({"env_spec": "[]"}, "env_spec is not an object"),
        ({"offrl": {"format": "one"}}, "'offrl.format' is 'one'"),
    ],
)
def test_a_value_that_cannot_be_is_named(made: Path, change: dict[str, Any], fragment: str) -> None:
    """Faults R7 and S6."""
    edit(made, lambda content: content.update(change))
    with pytest.raises(CorruptDataError, match=fragment):
        load("me/made-v0")


@pytest.mark.parametrize(
    ("key", "value", "fragment"),
    [
        ("total_episodes", 10_000_000, "claims 10000000 episodes .*hold 3"),
        ("total_episodes", 2, "claims 2 episodes .*hold 3"),
        ("total_steps", 9, "claims 9 steps .*hold 8"),
    ],
)
def test_counts_that_lie_are_found_at_open(
    made: Path, typed: Run, key: str, value: int, fragment: str
) -> None:
    """Fault R8."""
    edit(made, lambda content: content.update({key: value}))
    with pytest.raises(CorruptDataError, match=fragment):
        load("me/made-v0")
    status, out, _ = typed("data", "check", "me/made-v0", "--json")
    assert status == 1
    assert [problem["code"] for problem in json.loads(out)["problems"]] == ["count-mismatch"]


@pytest.mark.parametrize("version", ["0.5.4", "0.4.0", "~=0.4.1", ">=0.4.0,<0.6", "0.5.0.dev1"])
def test_layouts_of_minari_0_4_and_0_5_are_read(made: Path, version: str) -> None:
    edit(made, lambda content: content.update(minari_version=version))
    assert load("me/made-v0").n_episodes == 3


@pytest.mark.parametrize(
    "change", [{"minari_version": "1.2.0"}, {"minari_version": "0.3.1"}, {"offrl": {"format": 2}}]
)
def test_a_layout_of_another_version_says_so(made: Path, change: dict[str, Any]) -> None:
    edit(made, lambda content: content.update(change))
    with pytest.raises(IncompatibleVersionError, match="written in"):
        load("me/made-v0")


# Faults S1 to S3: an environment in the metadata is data.


def marker_spec(marker: Path) -> str:
    return json.dumps(
        {
            "id": "Evil-v0",
            "entry_point": "os:system",
            "kwargs": {"command": f"touch {marker}"},
            "additional_wrappers": [
                {"name": "x", "entry_point": "os:system", "kwargs": {"command": f"touch {marker}"}}
            ],
        }
    )


@pytest.mark.parametrize("key", ["observation_space", "action_space"])
def test_a_missing_space_never_makes_the_environment(
    made: Path, tmp_path: Path, typed: Run, key: str
) -> None:
    """Fault S1."""
    marker = tmp_path / "ran"
    edit(made, lambda content: (content.pop(key), content.update(env_spec=marker_spec(marker))))
    with pytest.raises(UnsafeDataError, match=f"'{key}' is missing"):
        load("me/made-v0")
    with pytest.raises(UnsafeDataError):
        read_metadata(made)
    for command in ("show", "check"):
        status, _, err = typed("data", command, "me/made-v0")
        assert status == 1
        assert key in err
    status, _, _ = typed("data", "list")
    assert status == 0
    assert not marker.exists()


def test_a_named_environment_is_shown_and_not_made(
    made: Path, tmp_path: Path, typed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faults S2 and S3."""
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for spec in (marker_spec(marker), json.dumps({"id": "evil:Env-v0"})):
        edit(
            made,
            lambda content, spec=spec: content.update(env_spec=spec, eval_env_spec=spec),
        )
        data = load("me/made-v0")
        assert data.env_id == json.loads(spec)["id"]
        assert data.transitions.n_episodes == 3
        status, out, _ = typed("data", "show", "me/made-v0", "--json")
        assert status == 0
        assert json.loads(out)["env"] == data.env_id
        assert typed("data", "list")[0] == typed("data", "check", "me/made-v0")[0] == 0
    assert not marker.exists()


def test_files_that_lead_outside_are_not_read(made: Path, tmp_path: Path) -> None:
    for name in ("main_data.hdf5", "metadata.json"):
        file = made / "data" / name
        file.rename(tmp_path / name)
        file.symlink_to(tmp_path / name)
        with pytest.raises(UnsafeDataError, match=f"{name} is a link to a file outside"):
            load("me/made-v0")
        file.unlink()
        (tmp_path / name).rename(file)
    assert load("me/made-v0").n_episodes == 3


# Faults R1 and R3: sizes that the manifest does not list.


@pytest.mark.parametrize("share", [0.999, 0.9, 0.5, 0.01, 0.0])
def test_a_cut_file_is_found_at_open(made: Path, share: float, typed: Run) -> None:
    """Fault R1, for a dataset without a manifest and for one with."""
    saved = load("me/made-v0").save("me/kept-v0")
    for folder in (made, saved.path):
        assert folder is not None
        file = folder / "data" / "main_data.hdf5"
        size = file.stat().st_size
        os.truncate(file, int(size * share))
        with pytest.raises(CorruptDataError, match=r"main_data\.hdf5") as refused:
            load(folder)
        if folder == saved.path:
            assert f"{int(size * share)} bytes" in refused.value.cause
            assert f"{size} were written" in refused.value.cause
        status, _, err = typed("data", "show", folder)
        assert status == 1
        assert "main_data.hdf5" in err


def test_appended_bytes_are_found_by_the_manifest(made: Path) -> None:
    """Fault R3."""
    saved = load("me/made-v0").save("me/kept-v0")
    assert saved.path is not None
    with (saved.path / "data" / "main_data.hdf5").open("ab") as file:
        file.write(b"x" * 1000)
    with pytest.raises(CorruptDataError, match="were written"):
        load("me/kept-v0")


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"files": 4}, "'files' is missing or malformed"),
        ({"files": [{"name": "data/main_data.hdf5", "sha256": "x"}]}, "valid 'bytes'"),
        ({"files": [{"name": "../../x", "bytes": 1, "sha256": "x"}]}, "outside the dataset"),
        ({"episodes": [{"sha256": 5, "steps": 1}]}, "valid 'sha256'"),
        ({"complete": False}, "not complete"),
        ({"fingerprint": None}, "'fingerprint' is missing"),
    ],
)
def test_a_manifest_that_is_off_is_named(made: Path, change: dict[str, Any], fragment: str) -> None:
    """Faults R6 and R7."""
    saved = load("me/made-v0").save("me/kept-v0")
    assert saved.path is not None
    path = saved.path / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | change))
    with pytest.raises(CorruptDataError, match="not as it was written"):
        load("me/kept-v0")
    content.pop("sha256")
    path.write_bytes(sealed(json.dumps(content | change).encode()))
    with pytest.raises(CorruptDataError, match=fragment):
        load("me/kept-v0")
    path.write_text(json.dumps({"format": 2}))
    with pytest.raises(IncompatibleVersionError, match="format 2"):
        load("me/kept-v0")
    path.write_bytes(b"")
    with pytest.raises(CorruptDataError, match=r"manifest\.json is empty"):
        load("me/kept-v0")
    assert load("me/made-v0").n_episodes == 3


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "data" / "metadata.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
