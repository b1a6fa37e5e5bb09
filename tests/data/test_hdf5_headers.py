"""Headers read as plain bytes say what HDF5 says, and what is in any way unusual is left to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from minari_files import episode, metadata, write_folder

from offrl import check
from offrl.data import hdf5_headers, hdf5_scan
from offrl.data.dataset import load
from offrl.data.hdf5_runs import read_run
from offrl.data.hdf5_scan import Declared, scan
from offrl.data.manifest import identity
from offrl.errors import OffrlError, UnsafeDataError

Scanned = dict[int, dict[str, Declared]]


@contextmanager
def hdf5_alone() -> Iterator[None]:
    """Let HDF5 open every column, as where no header can be read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hdf5_scan._Known, "object_at", lambda *arguments: None)
        yield


@contextmanager
def counted() -> Iterator[list[bytes]]:
    """The columns that HDF5 opens."""
    opened: list[bytes] = []
    original = hdf5_scan.declared_column

    def noted(column: Any, path: Path, name: bytes) -> Declared:
        opened.append(name)
        return original(column, path, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hdf5_scan, "declared_column", noted)
        yield opened


def write_episodes(
    path: Path, lengths: tuple[int, ...] = (90, 100, 90, 1, 700), **how: Any
) -> None:
    """Episodes with columns of many layouts, like those that Minari, offrl and others write."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w", **how) as file:
        for number, steps in enumerate(lengths):
            group = file.create_group(f"episode_{number}")
            group.attrs["id"] = number
            group["observations"] = rng.standard_normal((steps + 1, 5))
            group.create_dataset("actions", data=rng.random((steps, 3), np.float32), chunks=True)
            group.create_dataset(
                "rewards", data=rng.random(steps), chunks=(min(steps, 40),), maxshape=(None,)
            )
            flags = np.zeros(steps, bool)
            group.create_dataset("terminations", data=flags, chunks=True, fletcher32=True)
            group.create_dataset("truncations", data=flags, compression="gzip")
            group.create_group("infos")["x"] = np.arange(steps + 1)
            group.create_group("infos/none")
            write_within(group, "infos/few", np.full(4, number, ">i2"), h5py.h5t.STD_I16BE)


def write_within(group: h5py.Group, name: str, values: Any, kind: Any) -> None:
    """A column whose values lie in its header."""
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple(values.shape)
    column = h5py.h5d.create(group.id, name.encode(), kind, space, made)
    column.write(h5py.h5s.ALL, h5py.h5s.ALL, values)


def without_places_in_headers(found: Scanned) -> Scanned:
    """HDF5 does not say where in a header values lie."""
    return {
        number: {
            # Told by its name or by its type: damage may have changed one of them.
            name: replace(column, run=None)
            if name.endswith("/few") or column.dtype == ">i2"
            else column
            for name, column in columns.items()
        }
        for number, columns in found.items()
    }


def both(path: Path, *, vouched: bool = True) -> tuple[Scanned | str, Scanned | str]:
    """What a scan finds, and what it finds where HDF5 opens every column."""

    def outcome() -> Scanned | str:
        try:
            found = scan(path, identity(path) if vouched else None)
            return without_places_in_headers(found)
        except OffrlError as error:
            return f"{type(error).__name__}: {error}"

    with hdf5_alone():
        told = outcome()
    return outcome(), told


LIBRARIES = ["earliest", ("earliest", "v108"), ("v108", "v108"), ("v108", "latest"), "latest"]


@pytest.mark.parametrize("vouched", [True, False])
@pytest.mark.parametrize("libver", LIBRARIES, ids=str)
def test_a_scan_finds_what_hdf5_tells(tmp_path: Path, libver: Any, vouched: bool) -> None:
    write_episodes(tmp_path / "a.hdf5", libver=libver)
    found, told = both(tmp_path / "a.hdf5", vouched=vouched)
    assert found == told
    assert len(found) == 5


@given(
    shapes=st.lists(st.lists(st.integers(1, 30), min_size=2, max_size=2), min_size=2, max_size=5),
    chunk=st.lists(st.integers(1, 12), min_size=2, max_size=2),
    checked=st.booleans(),
    dtype=st.sampled_from(["<f8", ">f4", "<i2", "?", "u1"]),
    bounded=st.booleans(),
)
def test_indexes_of_any_chunks_are_read_as_hdf5_does(
    tmp_path_factory: pytest.TempPathFactory,
    shapes: list[list[int]],
    chunk: list[int],
    checked: bool,
    dtype: str,
    bounded: bool,
) -> None:
    path = tmp_path_factory.mktemp("headers") / "a.hdf5"
    with h5py.File(path, "w") as file:
        for number, shape in enumerate(shapes):
            sides = tuple(chunk) if bounded else tuple(map(min, chunk, shape))
            file.create_dataset(
                f"episode_{number}/x",
                data=np.ones(shape, dtype),
                chunks=sides,
                maxshape=(None, None) if bounded else None,
                fletcher32=checked,
            )
    found, told = both(path)
    assert found == told


@pytest.mark.parametrize("libver", ["earliest", ("v108", "latest")], ids=str)
def test_hdf5_opens_one_column_of_a_kind(tmp_path: Path, libver: Any) -> None:
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w", libver=libver) as file:
        for number in range(50):
            group, steps = file.create_group(f"episode_{number}"), 200 + number
            group["observations"] = np.zeros((steps + 1, 17))
            group.create_dataset("actions", data=np.zeros((steps, 6), np.float32), chunks=(99, 3))
            group.create_dataset("rewards", data=np.zeros(steps), chunks=(steps,))
    with counted() as opened:
        scan(path, identity(path))
    assert opened == [b"episode_0/actions", b"episode_0/observations", b"episode_0/rewards"]


def test_what_offrl_writes_is_scanned_by_its_headers(root: Path) -> None:
    episodes = [episode(3000 + 100 * i, i) for i in range(6)]
    write_folder(root / "me/made-v0", episodes, metadata(episodes))
    data = load("me/made-v0")
    data.save("me/again-v0")
    with counted() as opened:
        again = load("me/again-v0")
    assert 0 < len(opened) <= 6
    assert again.fingerprint == data.fingerprint


@pytest.mark.parametrize("libver", ["earliest", ("v108", "latest")], ids=str)
def test_values_within_a_header_are_read_from_there(tmp_path: Path, libver: Any) -> None:
    path = tmp_path / "a.hdf5"
    write_episodes(path, libver=libver)
    found = [columns["infos/few"] for columns in scan(path, identity(path)).values()]
    with path.open("rb", buffering=0) as file:
        for number, column in enumerate(found[1:], 1):
            assert column.run is not None
            values = read_run(file, column.run, column.shape, column.dtype, vouched=False)
            assert values is not None
            assert values.tolist() == [number] * 4
    assert found[0].run is None  # HDF5 was asked


def test_values_within_a_header_that_are_no_bytes_of_an_array_are_left_to_hdf5(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.hdf5"
    kind = h5py.h5t.STD_I16LE.copy()
    kind.set_precision(12)
    with h5py.File(path, "w") as file:
        for number in range(3):
            group = file.create_group(f"episode_{number}")
            write_within(group, "x", np.array([-1, 2, -3], np.int16), kind)
    assert [columns["x"].run for columns in scan(path).values()] == [None] * 3


def test_a_check_opens_one_column_of_a_kind(root: Path) -> None:
    episodes = [episode(1, i) for i in range(20)]
    write_folder(root / "me/made-v0", episodes, metadata(episodes))
    load("me/made-v0").save("me/again-v0")
    expected = load("me/made-v0").fingerprint
    with counted() as opened:
        assert check("me/again-v0").fingerprint == expected
    assert 0 < len(opened) <= 6


def test_checksums_of_headers_are_hdf5s_to_look_at_unless_the_file_is_vouched_for(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w", libver=("v108", "latest")) as file:
        for number in range(3):
            file[f"episode_{number}/x"] = np.zeros(5)
        at = h5py.h5g.get_objinfo(file.id, b"episode_2/x").objno[0]
    content = bytearray(path.read_bytes())
    content[content.index(b"OHDR", at) + 9] ^= 64  # of the shape
    path.write_bytes(bytes(content))
    found, told = both(path, vouched=False)
    assert found == told
    assert "is damaged" in str(found)


def structure(path: Path) -> list[int]:
    """The bytes of a file that are not values."""
    values: set[int] = set()
    for columns in scan(path).values():
        for column in columns.values():
            if column.run:
                size = int(np.prod(column.shape)) * column.dtype.itemsize
                values.update(range(column.run.offset, column.run.offset + size))
    return [at for at in range(path.stat().st_size) if at not in values]


@pytest.mark.parametrize("count", [250, pytest.param(10_000, marks=pytest.mark.slow)])
def test_of_a_damaged_file_a_scan_finds_what_hdf5_tells(tmp_path: Path, count: int) -> None:
    """Fault R14: no damage is seen by HDF5 and missed in the bytes of a header."""
    path, damaged, rng = tmp_path / "a.hdf5", tmp_path / "b.hdf5", np.random.default_rng(0)
    write_episodes(path, (100, 110, 100))
    whole, places, outcomes = path.read_bytes(), structure(path), set[bool]()
    for _ in range(count):
        at, content = int(rng.choice(places)), bytearray(whole)
        flipped = bytes([content[at] ^ 1 << int(rng.integers(8))])
        changed = flipped if rng.random() < 0.5 else rng.bytes(8)[: len(whole) - at]
        content[at : at + len(changed)] = changed
        damaged.write_bytes(bytes(content))
        found, told = both(damaged)
        assert found == told, (at, changed)
        outcomes.add(isinstance(found, str))
    assert outcomes == {True, False}


def test_an_index_that_leaves_out_a_chunk_is_left_to_hdf5(tmp_path: Path) -> None:
    """HDF5 looks for a chunk before the key after the last, and takes it for empty beyond."""
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        for number in range(2):
            file.create_dataset(f"episode_{number}/x", data=np.ones(9), chunks=(3,))
    content = bytearray(path.read_bytes())
    at = content.rindex(b"TREE\x01\x00\x03\x00") + 24 + 3 * 32 + 8
    assert int.from_bytes(content[at : at + 8], "little") == 9
    content[at : at + 8] = (3).to_bytes(8, "little")
    path.write_bytes(bytes(content))
    with counted() as opened:
        scan(path)
    assert opened == [b"episode_0/x", b"episode_1/x"]


def test_a_column_beyond_the_end_of_the_file_is_left_to_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        for number in range(3):
            file[f"episode_{number}/x"] = np.full(50, number)
    found = scan(path)[2]["x"]
    assert found.run is not None
    content = path.read_bytes()
    moved = (len(content) - 8).to_bytes(8, "little")
    path.write_bytes(content.replace(found.run.offset.to_bytes(8, "little"), moved))
    told, alone = both(path)
    assert told == alone
    assert "is damaged" in str(told)


def test_a_group_that_appears_twice_is_refused_with_or_without_columns(tmp_path: Path) -> None:
    for inside in ("episode_0/infos", "episode_0"):
        path = tmp_path / f"{len(inside)}.hdf5"
        with h5py.File(path, "w", libver=("v108", "latest")) as file:
            file.create_group("episode_0/infos")
            file["episode_1"] = file[inside]
        with pytest.raises(UnsafeDataError, match="a group that appears twice"):
            scan(path, identity(path))


def test_files_with_other_addresses_are_left_to_hdf5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hdf5_headers, "read_messages", None)
    path = tmp_path / "a.hdf5"
    write_episodes(path, userblock_size=512)
    found, told = both(path)
    assert found == told


def test_cut_headers_are_left_to_hdf5(tmp_path: Path) -> None:
    whole = (tmp_path / "a.hdf5").open("w+b")
    with whole:
        for content in (b"", b"OHDR", b"OHDR\x02\x00\xff", b"\x01\x00\x05\x00" * 4, b"\x01" * 20):
            whole.truncate(0)
            whole.seek(0)
            whole.write(content)
            whole.flush()
            for vouched in (True, False):
                read = hdf5_headers.read_messages(whole.fileno(), 0, vouched=vouched)
                assert read is None
        assert hdf5_headers.read_messages(whole.fileno(), 2**64 - 8, vouched=True) is None


@pytest.mark.parametrize(
    "messages",
    [
        [(1, 0, b"\x01\x01", 0), (8, 0, b"\x03\x01", 0)],  # cut
        [(1, 0, b"\x01", 0), (8, 0, b"", 0)],
        [(1, 0, b"\x09" * 32, 0), (8, 0, b"\x03\x01" + b"\x01" * 16, 0)],  # of an unknown version
        [(8, 0, b"\x03\x01" + b"\x01" * 16, 0)],  # without a shape
        [(1, 0, b"\x01\x01\x00" + b"\x00" * 5 + b"\x05" + b"\x00" * 7, 0)],  # without a place
    ],
)
def test_malformed_messages_are_left_to_hdf5(messages: list[hdf5_headers.Message]) -> None:
    assert hdf5_headers.column_header(messages) is None
