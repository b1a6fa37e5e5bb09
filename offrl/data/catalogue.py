"""The catalogue: where datasets lie, what a name may be, and what a reference means."""

import difflib
import os
import re
from pathlib import Path
from typing import Any

from offrl.data.cache import own_files
from offrl.data.minari_store import data_folder, env_id_of, read_metadata
from offrl.errors import ConfigError, NotFoundError, OffrlError, UnsafeDataError, suggest

_ID = re.compile(
    r"(?P<namespace>(?:[A-Za-z0-9_][A-Za-z0-9_-]*/)*)[A-Za-z0-9_][A-Za-z0-9_-]*-v[0-9]+", re.ASCII
)
_MAX_ID = 200
_MAX_DEPTH = 8  # of the folders below the root
# Names that some file systems keep for themselves, and the folder that marks a Minari dataset.
_RESERVED = {"con", "prn", "aux", "nul", "data"} | {
    f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)
}


def datasets_root() -> Path:
    """Return the Minari root: $MINARI_DATASETS_PATH, else ~/.minari/datasets."""
    named = os.environ.get("MINARI_DATASETS_PATH")
    return Path(named).expanduser() if named else Path.home() / ".minari" / "datasets"


def check_id(id: str) -> str:
    """Return the id if it can name a dataset; no file system is asked.

    Raises ConfigError for anything that Minari would not take, or that could leave the root.
    """
    match = _ID.fullmatch(id) if len(id) <= _MAX_ID else None
    if match is None or not _RESERVED.isdisjoint(id.lower().split("/")):
        shown = id if len(id) <= 60 else f"{id[:60]}..."
        raise ConfigError(
            f"{shown!r} cannot be the id of a dataset.",
            "An id looks like me/shop/first-v0: letters, digits, - and _ between slashes,"
            " and -v with a number at the end.",
        )
    if len(match["namespace"]) == 2:  # one character and its slash
        raise ConfigError(
            f"{id!r} cannot be the id of a dataset: Minari cannot list a namespace of one letter.",
            "Give the namespace at least two letters.",
        )
    return id


def dataset_path(id: str, root: Path | str | None = None) -> Path:
    """Return the folder of a dataset id under the root, whether or not it exists.

    Raises ConfigError for an id that cannot name a dataset.
    """
    return (datasets_root() if root is None else Path(root)).joinpath(*check_id(id).split("/"))


def refuse_links(root: Path, target: Path) -> None:
    """Raise UnsafeDataError where a link below the root leads to `target`.

    What is replaced or removed through a link could lie anywhere.
    """
    path = root
    for part in target.relative_to(root).parts:
        path = path / part
        if path.is_symlink():
            raise UnsafeDataError(
                f"{path} is a link, and nothing is replaced or removed through a link.",
                "Remove the link, or name the folder it points to by MINARI_DATASETS_PATH.",
            )


def resolve(ref: str | Path) -> Path:
    """Return the dataset folder that a reference means.

    A reference is a Minari id, one with the prefix `minari:`, or a path to a dataset folder or to
    a file inside it. Raises ConfigError for what can be neither, NotFoundError for what is absent.
    """
    if isinstance(ref, str):
        prefixed = ref.startswith("minari:")
        id = ref.removeprefix("minari:")
        if prefixed or _ID.fullmatch(id):
            found = dataset_path(id)
            if data_folder(found) is not None:
                return found
            if (found / "data").is_dir():
                raise NotFoundError(
                    f"{found} holds no dataset: there is no data/metadata.json in it.",
                    f"Copy it again whole, or remove what is left of it: offrl data delete {id}",
                )
            if prefixed or not Path(id).exists():
                raise _absent(id, prefixed)
        elif not ref or not ref.isprintable() or len(ref) > 4096:
            check_id(ref)
    try:
        return _at_path(Path(ref).expanduser(), str(ref))
    except (OSError, ValueError, RuntimeError) as error:  # too long, not permitted, ~nobody
        shown = str(ref) if len(str(ref)) <= 60 else f"{str(ref)[:60]}..."
        raise NotFoundError(
            f"There is no dataset '{shown}': {error.args[-1] if error.args else error}.",
            "See what there is: offrl data list",
        ) from error


def _at_path(path: Path, ref: str) -> Path:
    if path.is_file() and path.name in ("main_data.hdf5", "metadata.json"):
        path = path.parent
    if data_folder(path) is None:
        raise _absent_path(path, ref)
    # `<id>/data` means the dataset around it, so that the manifest beside the data is found.
    if path.name == "data" and (path / "metadata.json").is_file():
        return path.resolve().parent
    return path


def _absent(id: str, prefixed: bool) -> NotFoundError:
    # A set of quite another namespace is no slip of the pen.
    spaces = {entry["id"]: entry["id"].split("/")[0] for entry in list_local()}
    close = difflib.get_close_matches(id.split("/")[0], spaces.values(), n=len(spaces) or 1)
    near = suggest(id, (known for known, space in spaces.items() if space in close)).strip()
    if id in shipped_recipes():
        remedy = f"Make it from its recipe: offrl collect {id}"
    elif prefixed or ("/" in id and not id.startswith("offrl/")):
        remedy = f"Fetch it: offrl data download {id}"
    else:
        remedy = "See what there is: offrl data list"
        near = near or suggest(id, shipped_recipes()).strip()
    return NotFoundError(
        f"There is no dataset '{id}' in {datasets_root()}.", f"{near} {remedy}".strip()
    )


def _absent_path(path: Path, ref: str) -> NotFoundError:
    if path.is_file():
        return NotFoundError(
            f"{path} is not a dataset.",
            f"Name a dataset folder, or import the file: offrl data import {path} --out ID",
        )
    if path.is_dir():
        return NotFoundError(
            f"{path} holds no dataset: there is no data/metadata.json in it.",
            "Name the folder that holds data/.",
        )
    near = suggest(ref, [*(entry["id"] for entry in list_local()), *shipped_recipes()]).strip()
    return NotFoundError(
        f"There is no dataset '{ref}': it is neither a folder nor an id in {datasets_root()}.",
        near or "See what there is: offrl data list",
    )


def list_local(root: Path | str | None = None) -> list[dict[str, Any]]:
    """Return what lies under the root, sorted by id, one dictionary each.

    The keys are id, path, episodes, steps, env, bytes, minari_version and problem; problem says why
    a dataset cannot be opened, with the other values None, and is None for a sound one.
    """
    top = datasets_root() if root is None else Path(root)
    found = [_summary(folder, id) for id, folder in sorted(_dataset_folders(top, "", 0))]
    return found


def _dataset_folders(folder: Path, id: str, depth: int) -> list[tuple[str, Path]]:
    if id and (folder / "data").is_dir():
        return [(id, folder)]
    if depth > _MAX_DEPTH or not folder.is_dir():
        return []
    found: list[tuple[str, Path]] = []
    try:
        children = sorted(folder.iterdir())
    except OSError:
        return []  # a folder that may not be read holds nothing that could be opened
    for child in children:
        if not child.name.startswith(".") and "." not in child.name and child.is_dir():
            name = f"{id}/{child.name}" if id else child.name
            found += _dataset_folders(child, name, depth + 1)
    return found


def _summary(folder: Path, id: str) -> dict[str, Any]:
    summary: dict[str, Any] = dict.fromkeys(
        ("id", "path", "episodes", "steps", "env", "bytes", "minari_version", "problem")
    )
    summary.update(id=id, path=str(folder))
    try:
        metadata = read_metadata(folder)
        env = env_id_of(metadata)
    except OffrlError as error:
        return summary | {"problem": error.cause}
    files = (path for path in own_files(folder) if not path.is_symlink())
    return summary | {
        "episodes": metadata["total_episodes"],
        "steps": metadata["total_steps"],
        "env": env,
        "bytes": sum(path.stat().st_size for path in files),
        "minari_version": metadata["minari_version"],
    }


def shipped_recipes() -> dict[str, Path]:
    """Return the folder of each recipe that comes with offrl, by the id of its dataset."""
    folder = _shipped()
    return {
        f"offrl/{recipe.parent.relative_to(folder).as_posix()}": recipe.parent
        for recipe in sorted(folder.glob("*/*/recipe.toml"))
    }


def shipped_weights() -> dict[str, Path]:
    """Return the file of each policy that comes with offrl, by its name: hopper/sac-90000."""
    return {
        f"{file.parent.parent.name}/{file.stem}": file
        for file in sorted(_shipped().glob("*/weights/*.safetensors"))
    }


def _shipped() -> Path:
    package = Path(__file__).parent.parent
    inside = package / "_datasets"  # in a wheel; a checkout keeps them beside the package
    return inside if inside.is_dir() else package.parent / "datasets"
