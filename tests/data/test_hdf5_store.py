"""An HDF5 file is scanned before it is read: nothing in it reaches another file or fills memory."""

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from gymnasium import spaces
from minari_files import column, episode, metadata, replace_column, write_folder

import offrl
from offrl.data.dataset import load
from offrl.errors import CorruptDataError, UnsafeDataError

Run = Callable[..., tuple[int, str, str]]
SECRET = b"a secret of another file"


@pytest.fixture
def file(made: Path) -> Path:
    return made / "data" / "main_data.hdf5"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that no dataset may show: raw, and as an HDF5 file."""
    (tmp_path / "secret.txt").write_bytes(SECRET)
    with h5py.File(tmp_path / "secret.hdf5", "w") as other:
        other["values"] = np.arange(8.0)
    return tmp_path


def external_storage(file: h5py.File, secret: Path) -> None:
    file.create_dataset(
        "episode_0/infos/secret",
        shape=(len(SECRET),),
        dtype=np.uint8,
        external=[(str(secret / "secret.txt"), 0, len(SECRET))],
    )


def external_link(file: h5py.File, secret: Path) -> None:
    file["episode_0/infos/secret"] = h5py.ExternalLink(str(secret / "secret.hdf5"), "/values")


def neighbour_link(file: h5py.File, secret: Path) -> None:
    file["episode_0/infos/secret"] = h5py.ExternalLink("other.hdf5", "/values")


def virtual(file: h5py.File, secret: Path) -> None:
    layout = h5py.VirtualLayout((8,), "f8")
    layout[:] = h5py.VirtualSource(str(secret / "secret.hdf5"), "values", (8,))
    file.create_virtual_dataset("episode_0/infos/secret", layout)


def virtual_without_source(file: h5py.File, secret: Path) -> None:
    layout = h5py.VirtualLayout((8,), "f8")
    layout[:] = h5py.VirtualSource(str(secret / "gone.hdf5"), "values", (8,))
    file.create_virtual_dataset("episode_0/infos/secret", layout)


def soft_link(file: h5py.File, secret: Path) -> None:
    file["episode_0/infos/secret"] = h5py.SoftLink("/episode_1/rewards")


def soft_cycle(file: h5py.File, secret: Path) -> None:
    file["episode_0/infos/loop"] = h5py.SoftLink("/episode_0/infos")


def hard_cycle(file: h5py.File, secret: Path) -> None:
    file["episode_0/infos/loop"] = file["episode_0"]


def reference(file: h5py.File, secret: Path) -> None:
    made = file.create_dataset("episode_0/infos/pointer", (4,), dtype=h5py.ref_dtype)
    made[0] = file["episode_1"].ref


def region_in_a_record(file: h5py.File, secret: Path) -> None:
    dtype = np.dtype([("x", "f8"), ("at", h5py.regionref_dtype)])
    file.create_dataset("episode_0/infos/record", (2,), dtype=dtype)


def linked_episode(file: h5py.File, secret: Path) -> None:
    del file["episode_1"]
    file["episode_1"] = h5py.ExternalLink(str(secret / "secret.hdf5"), "/")


def declared_without_contents(file: h5py.File, secret: Path) -> None:
    file.create_dataset("episode_0/infos/bomb", (10**12,), dtype="f8", chunks=(1024,))


HOSTILE = [
    external_storage,
    external_link,
    neighbour_link,
    virtual,
    virtual_without_source,
    soft_link,
    soft_cycle,
    hard_cycle,
    reference,
    region_in_a_record,
    linked_episode,
    declared_without_contents,
]


@pytest.mark.parametrize("attack", HOSTILE, ids=lambda attack: attack.__name__)
def test_what_reaches_out_is_refused_before_anything_is_read(
    attack: Callable[[h5py.File, Path], None], file: Path, secret: Path, typed: Run
) -> None:
    """Faults S9, S10 and S11."""
    good = file.read_bytes()
    with h5py.File(file, "r+") as opened:
        attack(opened, secret)
    with pytest.raises(UnsafeDataError, match=r"main_data\.hdf5: episode_"):
        load("me/made-v0")
    with pytest.raises(UnsafeDataError):
        offrl.check("me/made-v0")
    for command in ("show", "check"):
        status, out, err = typed("data", command, "me/made-v0")
        assert (status, out) == (1, "")
        assert SECRET.decode() not in err
    file.write_bytes(good)
    assert load("me/made-v0").n_steps == 8


def test_names_nested_without_end_are_refused(file: Path) -> None:
    with h5py.File(file, "r+") as opened:
        opened.create_group("episode_0/infos/" + "/".join("a" * 40))
    with pytest.raises(CorruptDataError, match="nested too deeply"):
        load("me/made-v0")


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"not HDF5 at all" * 100])
def test_what_is_no_hdf5_file_is_named(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(CorruptDataError, match=rf"main_data\.hdf5 \({len(content)} bytes\)"):
        load("me/made-v0")
    file.unlink()
    with pytest.raises(CorruptDataError, match=r"main_data\.hdf5 is missing"):
        load("me/made-v0")


@pytest.mark.parametrize(
    ("name", "change", "fragment"),
    [
        ("observations", lambda a: a[:-1], "observations has 3 rows|has 4 rows, where 5"),
        ("observations", lambda a: a[:, :2], r"observations has the shape \(5, 2\)"),
        ("observations", lambda a: a.astype("c8"), "observations is complex64"),
        ("observations", lambda a: None, "observations is missing"),
        ("actions", lambda a: np.concatenate([a, a[:1]]), "actions has 5 rows, where 4"),
        ("actions", lambda a: a.reshape(-1), "actions has"),
        ("actions", lambda a: None, "actions is missing"),
        ("rewards", lambda a: a[:-1], "rewards has 3 rows, where 4"),
        ("rewards", lambda a: a[:0], "rewards has 0 rows, where 4"),
        ("rewards", lambda a: None, "rewards is missing"),
        ("terminations", lambda a: a[:-1], "terminations has 3 rows"),
        ("terminations", lambda a: a.astype(float), "terminations is float64, where bool"),
        ("truncations", lambda a: None, "truncations is missing"),
    ],
)
def test_a_column_that_does_not_fit_is_named_with_its_episode_at_open(
    file: Path, typed: Run, name: str, change: Callable[..., object], fragment: str
) -> None:
    """Faults R9, R10, R11 and R17, at read."""
    replace_column(file, f"episode_0/{name}", change(column(file, f"episode_0/{name}")))
    with pytest.raises(CorruptDataError, match=fragment) as refused:
        load("me/made-v0")
    assert "episode 0: " in refused.value.cause
    status, out, _ = typed("data", "check", "me/made-v0", "--json")
    assert status == 1
    assert '"ok": false' in out


def test_an_empty_episode_is_refused_and_a_single_step_is_not(root: Path) -> None:
    """Fault R17."""
    one, none = episode(1, 0), episode(1, 1)
    nothing = offrl.Episode(
        1,
        none.observations[:1],
        none.actions[:0],
        none.rewards[:0],
        none.terminations[:0],
        none.truncations[:0],
    )
    write_folder(root / "me/made-v0", [one], metadata([one]))
    assert len(load("me/made-v0").transitions) == 1
    write_folder(root / "me/none-v0", [one, nothing], metadata([one, nothing], id="me/none-v0"))
    with pytest.raises(CorruptDataError, match="episode 1: rewards has no steps"):
        load("me/none-v0")


def test_a_missing_episode_is_named(file: Path) -> None:
    """Fault R4."""
    with h5py.File(file, "r+") as opened:
        del opened["episode_1"]
    folder = file.parent.parent
    text = (folder / "data" / "metadata.json").read_text()
    text = text.replace('"total_episodes": 3', '"total_episodes": 2')
    (folder / "data" / "metadata.json").write_text(
        text.replace('"total_steps": 8', '"total_steps": 7')
    )
    with pytest.raises(CorruptDataError, match="the group episode_1 is missing"):
        load("me/made-v0")


def test_a_dataset_without_episodes_is_refused(root: Path) -> None:
    write_folder(root / "me/made-v0", [], metadata([]))
    with pytest.raises(CorruptDataError, match="holds no episodes"):
        load("me/made-v0")


def image_folder(root: Path, jpeg: list[bytes], shape: tuple[int, ...] = (32, 40, 3)) -> None:
    space = spaces.Box(0, 255, shape, np.uint8)
    one = episode(len(jpeg) - 1, observation_space=space)
    file = write_folder(root / "me/image-v0", [one], metadata([one], space, id="me/image-v0"))
    rows = np.empty(len(jpeg), dtype=object)
    rows[:] = [np.frombuffer(content, np.uint8) for content in jpeg]
    with h5py.File(file, "r+") as opened:
        del opened["episode_0/observations"]
        made = opened.create_dataset(
            "episode_0/observations", (len(jpeg),), dtype=h5py.vlen_dtype(np.uint8)
        )
        made[:] = rows


def encoded(height: int, width: int, codec: str = "JPEG") -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(buffer, format=codec)
    return buffer.getvalue()


def test_images_decode_to_the_shape_of_their_space(root: Path) -> None:
    image_folder(root, [encoded(32, 40), encoded(32, 40, "PNG")])
    frames = load("me/image-v0")[0].observations
    assert frames.shape == (2, 32, 40, 3)
    assert abs(int(frames[0, 5, 5, 1]) - 90) <= 2
    assert frames[1, 5, 5, 1] == 90


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (encoded(64, 40), r"row 1 is an image of \(64, 40\), not \(32, 40\)"),
        (encoded(2000, 2000), r"row 1 is an image of \(2000, 2000\)"),
        (encoded(32, 40, "TIFF"), "row 1 is not a whole JPEG or PNG"),
        (encoded(32, 40)[:-200], "row 1 is not a whole JPEG or PNG"),
        (b"", "row 1 is not a whole JPEG or PNG"),
    ],
)
def test_an_image_of_another_size_or_codec_is_named(
    root: Path, content: bytes, fragment: str
) -> None:
    """Faults R18 and S12, at read."""
    image_folder(root, [encoded(32, 40), content])
    with pytest.raises(
        CorruptDataError, match=rf"episode 0: observations cannot be read.*{fragment}"
    ):
        _ = load("me/image-v0").transitions


def test_a_flipped_byte_is_found_where_nothing_vouches_for_the_file(file: Path) -> None:
    """Fault R2: by the checksums inside it, as offrl writes them."""
    saved = load("me/made-v0").save("me/kept-v0")
    assert saved.path is not None
    (saved.path / "manifest.json").unlink()
    target = saved.path / "data" / "main_data.hdf5"
    content = bytearray(target.read_bytes())
    at = content.find(load("me/made-v0")[2].rewards.tobytes())
    assert at > 0
    content[at + 3] ^= 1
    target.write_bytes(bytes(content))
    with pytest.raises(CorruptDataError, match=r"main_data\.hdf5 .* is damaged"):
        load("me/kept-v0")
    found = {problem.code: problem.places for problem in offrl.check("me/kept-v0").problems}
    assert found["unreadable"] == ("episode 2",)


def test_reading_works_from_a_folder_that_cannot_be_written(file: Path, root: Path) -> None:
    folder = file.parent
    file.chmod(0o444)
    folder.chmod(0o555)
    try:
        assert len(load("me/made-v0").transitions) == 8
    finally:
        folder.chmod(0o755)
    shutil.rmtree(root)


def test_dictionary_keys_cannot_climb_to_other_groups(root: Path) -> None:
    one = episode(2)
    described = metadata([one])
    described["observation_space"] = (
        '{"type": "Dict", "subspaces": {"../rewards": {"type": "Discrete", "n": 2, "start": 0}}}'
    )
    write_folder(root / "me/made-v0", [one], described)
    with pytest.raises(offrl.OffrlError, match=r"\.\./rewards"):
        load("me/made-v0")
