"""Columns read as plain bytes are what HDF5 reads, and what cannot be is left to HDF5."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from minari_files import column, replace_column

from offrl.data import hdf5_store
from offrl.data.dataset import load
from offrl.data.hdf5_runs import Run, fletcher32, read_run
from offrl.data.hdf5_scan import Declared, declared_column
from offrl.data.hdf5_store import read_column

DTYPES = ("<f8", "<f4", ">f8", "<i8", ">i2", "u1", "?", "<f2")


def declared(path: Path, name: str = "x") -> Declared:
    with h5py.File(path, "r") as file:
        return declared_column(h5py.h5d.open(file.id, name.encode()), path, name.encode())


def by_bytes(path: Path, found: Declared, *, vouched: bool = False) -> Any:
    assert found.run is not None
    with path.open("rb", buffering=0) as file:
        return read_run(file, found.run, found.shape, found.dtype, vouched)


@example(shape=[5, 6, 7], chunk=[1, 1, 3], dtype="<f8", checked=False, seed=0)
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    chunk=st.lists(st.integers(1, 9), min_size=3, max_size=3),
    dtype=st.sampled_from(DTYPES),
    checked=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_run_holds_what_hdf5_reads(
    tmp_path_factory: pytest.TempPathFactory,
    shape: list[int],
    chunk: list[int],
    dtype: str,
    checked: bool,
    seed: int,
) -> None:
    path = tmp_path_factory.mktemp("run") / "a.hdf5"
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2 if dtype == "?" else 100, shape).astype(dtype)
    chunks = tuple(min(pair) for pair in zip(shape, chunk, strict=False))
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=values, chunks=chunks, fletcher32=checked)
    found = declared(path)
    with h5py.File(path, "r") as file:
        expected = read_column(file.id, "x")
        stored = [file["x"].id.get_chunk_info(i) for i in range(file["x"].id.get_num_chunks())]
    # Beyond 64 chunks their index has more than one node, which may lie between two of them.
    ends = [(chunk.byte_offset, chunk.byte_offset + chunk.size) for chunk in stored]
    if any(end != start for (_, end), (start, _) in pairwise(ends)):
        assert len(stored) > 64
        assert found.run is None
        return
    read = by_bytes(path, found)
    np.testing.assert_array_equal(read, expected)
    assert (read.dtype, read.shape) == (expected.dtype, expected.shape)
    assert read.flags.c_contiguous
    assert read.flags.writeable


@given(st.binary(min_size=1, max_size=3000))
def test_the_checksum_is_hdf5s_own(data: bytes) -> None:
    with h5py.File("a", "w", driver="core", backing_store=False) as file:
        values = np.frombuffer(data, np.uint8)
        file.create_dataset("x", data=values, chunks=values.shape, fletcher32=True)
        _, stored = file["x"].id.read_direct_chunk((0,))
    assert fletcher32(values) == int.from_bytes(stored[-4:], "little")


def test_the_checksum_of_large_words_is_exact() -> None:
    values = np.full(2**20 + 6, 255, np.uint8)
    with h5py.File("a", "w", driver="core", backing_store=False) as file:
        file.create_dataset("x", data=values, chunks=values.shape, fletcher32=True)
        _, stored = file["x"].id.read_direct_chunk((0,))
    assert fletcher32(values) == int.from_bytes(stored[-4:], "little")


def test_a_wrong_checksum_is_not_read_unless_the_bytes_are_vouched_for(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    values = np.arange(50.0).reshape(10, 5)
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=values, chunks=(4, 2), fletcher32=True)
    found = declared(path)
    content = bytearray(path.read_bytes())
    content[content.find(np.float64(42).tobytes()) + 2] ^= 1
    path.write_bytes(bytes(content))
    assert by_bytes(path, found) is None
    assert by_bytes(path, found, vouched=True) is not None


def compressed(file: h5py.File) -> None:
    file.create_dataset("x", data=np.zeros((9, 3)), chunks=(3, 3), compression="gzip")


def never_written(file: h5py.File) -> None:
    file.create_dataset("x", (9, 3), "f8", chunks=(3, 3), fillvalue=7.0)


def in_part(file: h5py.File) -> None:
    file.create_dataset("x", (9, 3), "f8", chunks=(3, 3), fillvalue=7.0)[:3] = 1.0


def out_of_order(file: h5py.File) -> None:
    made = file.create_dataset("x", (9, 3), "f8", chunks=(3, 3))
    for start in (6, 0, 3):
        made[start : start + 3] = start
        file.flush()


def apart(file: h5py.File) -> None:
    made = file.create_dataset("x", (9, 3), "f8", chunks=(3, 3))
    for start in (0, 3, 6):
        made[start : start + 3] = start
        file.flush()
        file.create_dataset(f"other{start}", data=np.zeros(1000))


def twelve_bits(file: h5py.File) -> None:
    kind = h5py.h5t.STD_I16LE.copy()
    kind.set_precision(12)
    space = h5py.h5s.create_simple((5,))
    made = h5py.h5d.create(file.id, b"x", kind, space)
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array([-1, 2, -3, 4, 5], np.int16))


def text(file: h5py.File) -> None:
    file.create_dataset("x", data=np.array([b"ab", b"c"]))


def an_enumeration(file: h5py.File) -> None:
    kind = h5py.enum_dtype({"a": 0, "b": 1}, basetype="u1")
    file.create_dataset("x", data=np.array([0, 1], np.uint8), dtype=kind)


def nothing(file: h5py.File) -> None:
    file.create_dataset("x", data=np.zeros((0, 3)))


def a_vast_chunk(file: h5py.File) -> None:
    file.create_dataset("x", data=np.zeros(3), chunks=(2**18,), maxshape=(None,))


SCATTERED = [
    compressed, never_written, in_part, out_of_order, apart, twelve_bits, text, an_enumeration,
    nothing, a_vast_chunk,
]  # fmt: skip


@pytest.mark.parametrize("write", SCATTERED, ids=lambda write: write.__name__)
def test_what_is_not_a_run_of_plain_bytes_is_left_to_hdf5(write: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        write(file)
    assert declared(path).run is None


def test_a_file_that_was_cut_ends_in_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(1000.0), chunks=(500,))
    found = declared(path)
    assert found.run is not None
    with path.open("r+b") as file:
        file.truncate(found.run.offset + 100)
    with pytest.raises(OSError, match="the file ends before byte"):
        by_bytes(path, found)


def test_a_place_that_no_file_has_is_an_error(tmp_path: Path) -> None:
    """Fault R14: found by mutations of a file that nothing vouches for."""
    (tmp_path / "a").write_bytes(b"")
    nowhere = Run(2**64 - 512, (3,), checked=False)
    with (tmp_path / "a").open("rb", buffering=0) as file, pytest.raises(OSError, match="ends"):
        read_run(file, nowhere, (3,), np.dtype("<f8"), vouched=False)


def test_a_file_with_a_block_before_it_is_read_from_the_right_place(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset("x", data=np.arange(9.0), chunks=(3,))
        file.create_dataset("y", data=np.arange(9.0))
    for name in "xy":
        found = declared(path, name)
        if found.run is not None:
            assert by_bytes(path, found).tolist() == list(range(9))


def test_episodes_are_read_as_plain_bytes(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load(made)[0]

    def unused(*arguments: object) -> None:
        raise AssertionError("a column was read by HDF5")

    monkeypatch.setattr(hdf5_store, "read_column", unused)
    read = load(made)[0]
    np.testing.assert_array_equal(read.observations, expected.observations)


def test_a_file_replaced_since_it_was_scanned_is_not_read_from_where_columns_were(
    made: Path,
) -> None:
    """Fault C7."""
    data = load(made)
    file = made / "data" / "main_data.hdf5"
    rewards = column(file, "episode_0/rewards")
    copy = made / "copy.hdf5"
    copy.write_bytes(file.read_bytes())
    with h5py.File(copy, "r+") as opened:
        opened.create_dataset("filler", data=np.zeros(10_000))
    replace_column(copy, "episode_0/rewards", rewards + 1)
    copy.replace(file)
    assert data[0].rewards.tolist() == (rewards + 1).tolist()
