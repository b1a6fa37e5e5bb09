"""Deleting removes a dataset's own files, inside the root, after a yes, and nothing else.

Fault S7 of the matrix.
"""

import io
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from offrl.data.catalogue import list_local
from offrl.data.dataset import load
from offrl.data.deletion import delete, deletion
from offrl.data.manifest import sealed
from offrl.errors import ConfigError, NotFoundError, UnsafeDataError

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ours(made: Path) -> Path:
    """The folder of me/ours-v0, which offrl wrote."""
    path = load("me/made-v0").save("me/ours-v0").path
    assert path is not None
    return path


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder outside the root that looks like a dataset."""
    folder = tmp_path / "victim-v0"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "metadata.json").write_text("{}")
    (folder / "data" / "main_data.hdf5").write_text("mine")
    return folder


def untouched(victim: Path) -> bool:
    return (victim / "data" / "main_data.hdf5").read_text() == "mine"


@pytest.mark.parametrize("id", ["me/ours-v0", "minari:me/made-v0"])
def test_a_dataset_goes_and_others_stay(ours: Path, made: Path, root: Path, id: str) -> None:
    name = id.removeprefix("minari:")
    other = {"me/ours-v0", "me/made-v0"} - {name}
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    gone = delete(id)
    assert not gone.path.exists()
    assert [entry["id"] for entry in list_local()] == sorted(other)
    left = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert left == {path: content for path, content in before.items() if path not in gone.files}
    assert gone.size == sum(len(before[path]) for path in gone.files)
    assert root.is_dir()


def test_folders_of_the_name_go_when_they_are_empty(ours: Path, made: Path, root: Path) -> None:
    delete("me/ours-v0")
    assert (root / "me").is_dir()
    delete("me/made-v0")
    assert root.is_dir()
    assert not (root / "me").exists()


def test_what_is_not_of_the_dataset_is_left(ours: Path, typed: Run) -> None:
    (ours / "notes.txt").write_text("mine")
    (ours / "data" / "more").mkdir()
    (ours / "data" / "more" / "part-0.hdf5").write_text("mine")
    status, out, _ = typed("data", "delete", "me/ours-v0", "--yes", "--json")
    assert status == 0
    assert json.loads(out)["kept"] == [
        str(ours / "data" / "more" / "part-0.hdf5"),
        str(ours / "notes.txt"),
    ]
    assert sorted(path.name for path in ours.rglob("*") if path.is_file()) == [
        "notes.txt",
        "part-0.hdf5",
    ]


def test_the_columns_that_were_kept_for_it_go_too(ours: Path) -> None:
    cache = ours / ".offrl-cache" / "0123"
    cache.mkdir(parents=True)
    (cache / "reward.npy").write_bytes(b"x")
    delete("me/ours-v0")
    assert not ours.exists()


def test_a_dataset_that_is_damaged_can_be_deleted(ours: Path) -> None:
    (ours / "manifest.json").write_text("[")
    (ours / "data" / "metadata.json").unlink()
    delete("me/ours-v0")
    assert not ours.exists()


@pytest.mark.parametrize("removed", range(10))
def test_after_a_stop_it_is_repeated(
    removed: int, ours: Path, typed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three files, then three folders, of which that of the other dataset is not empty."""
    calls = [0]

    def stopping(name: str) -> Callable[..., None]:
        plain = getattr(Path, name)

        def stop(path: Path, *args: Any, **kwargs: Any) -> None:
            calls[0] += 1
            if calls[0] > removed:
                raise KeyboardInterrupt
            plain(path, *args, **kwargs)

        return stop

    with monkeypatch.context() as patch:
        for name in ("unlink", "rmdir"):
            patch.setattr(Path, name, stopping(name))
        with suppress(KeyboardInterrupt):
            delete("me/ours-v0")
    assert calls[0] == min(removed + 1, 6)
    if removed == 0:
        assert load("me/ours-v0").n_episodes == 3
    elif removed < 4:  # the folder that holds the data is there
        status, _, err = typed("data", "show", "me/ours-v0")
        assert status == 2
        assert "there is no data/metadata.json in it" in err
        assert "offrl data delete me/ours-v0" in err
    if removed < 4:
        assert typed("data", "delete", "me/ours-v0", "--yes")[0] == 0
    assert not (ours / "data").exists()
    assert [entry["id"] for entry in list_local()] == ["me/made-v0"]


@pytest.mark.parametrize("id", ["../victim-v0", "/victim-v0", "me/../../victim-v0", "", "me"])
def test_an_id_cannot_leave_the_root(root: Path, victim: Path, typed: Run, id: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the id"):
        delete(id)
    assert typed("data", "delete", "--yes", "--", id)[0] == 2
    assert untouched(victim)


def test_nothing_is_removed_through_a_link(
    ours: Path, root: Path, victim: Path, typed: Run
) -> None:
    (root / "me" / "link-v0").symlink_to(victim)
    (root / "there").symlink_to(victim.parent)
    (root / "me" / "inside-v0").mkdir()
    (root / "me" / "inside-v0" / "data").symlink_to(victim / "data")
    (root / "me" / "file-v0" / "data").mkdir(parents=True)
    (root / "me" / "file-v0" / "data" / "main_data.hdf5").symlink_to(
        victim / "data" / "main_data.hdf5"
    )
    (ours / ".offrl-cache").symlink_to(victim)
    for id in ("me/link-v0", "there/victim-v0", "me/inside-v0", "me/file-v0", "me/ours-v0"):
        with pytest.raises(UnsafeDataError, match="is a link"):
            delete(id)
        status, out, err = typed("data", "delete", id, "--yes")
        assert (status, out) == (1, "")
        assert "is a link" in err
    assert untouched(victim)
    assert load("me/ours-v0").n_episodes == 3


@pytest.mark.parametrize("name", ["../../../victim-v0/data/main_data.hdf5", "/etc/hostname"])
def test_a_manifest_cannot_list_what_lies_outside(ours: Path, victim: Path, name: str) -> None:
    path = ours / "manifest.json"
    content = json.loads(path.read_text())
    content.pop("sha256")
    content["files"].append({"name": name, "bytes": 4, "sha256": "0"})
    path.write_bytes(sealed(json.dumps(content).encode()))
    with pytest.raises(UnsafeDataError, match="outside the dataset"):
        delete("me/ours-v0")
    assert untouched(victim)
    assert (ours / "data" / "main_data.hdf5").is_file()


def test_what_is_not_there_is_named(made: Path, typed: Run) -> None:
    with pytest.raises(NotFoundError) as refused:
        delete("me/mad-v0")
    assert "me/made-v0" in refused.value.remedy
    assert typed("data", "delete", "me/mad-v0", "--yes")[0] == 2


def test_nothing_goes_without_a_yes(
    made: Path, typed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, out, err = typed("data", "delete", "me/made-v0", "--json")
    assert status == 3
    assert json.loads(out)["deleted"] is False
    assert "--yes" in err

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for answer, expected in (("\n", 3), ("no\n", 3), ("", 3), ("y\n", 0)):
        assert load("me/made-v0").n_episodes == 3
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        status, _, err = typed("data", "delete", "me/made-v0")
        assert status == expected
        assert "[y/N]" in err
    assert not made.exists()


def test_a_look_touches_nothing(ours: Path) -> None:
    planned = deletion("me/ours-v0")
    assert len(planned.files) == 3
    assert load("me/ours-v0").n_episodes == 3


def test_an_open_dataset_can_still_be_read(ours: Path) -> None:
    """Fault C7."""
    data = load("me/ours-v0")
    reading = iter(data)
    first = next(reading)
    delete("me/ours-v0")
    assert len([first, *reading]) == 3
