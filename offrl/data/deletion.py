"""Deleting a dataset: the files that make it up and nothing else, inside the root.

Those files are what the manifest lists beside itself and metadata.json; of a dataset without a
manifest, what Minari writes. The columns that offrl keeps for it go with it. Anything else that
lies in the folder stays, and the folder then stays too.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from offrl.data import cache
from offrl.data.catalogue import check_id, datasets_root, list_local, refuse_links
from offrl.data.manifest import NAME, read_published
from offrl.data.publishing import unfinished_folder
from offrl.errors import CorruptDataError, NotFoundError, OffrlError, UnsafeDataError, suggest

_OURS = (NAME, "data/metadata.json")
_MINARIS = re.compile(
    r"data/(metadata\.json|main_data\.hdf5|[0-9]+/(metadata\.json|[\w-]+\.(arrow|parquet)))",
    re.ASCII,
)


@dataclass(frozen=True)
class Deletion:
    """What deleting a dataset removes, and what lies in its folder and stays."""

    id: str
    root: Path
    path: Path
    files: tuple[Path, ...]
    others: tuple[Path, ...]
    size: int  # bytes of the files

    def carry_out(self) -> None:
        """Remove the files, then the folders that are empty; after a stop it can be repeated.

        Raises OffrlError where a file cannot be removed.
        """
        cache.forget(self.path)
        try:
            # Without its metadata it is no dataset any more, however far this gets.
            for file in sorted(self.files, key=lambda file: file.name != "metadata.json"):
                file.unlink(missing_ok=True)
        except OSError as error:
            raise OffrlError(
                f"{error.filename} could not be removed: {error.strerror}.",
                "Mend that and delete the dataset again: the rest of it is still known.",
            ) from error
        data = self.path / "data"
        folders = {data, *data.parents, *(folder for file in self.files for folder in file.parents)}
        for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
            if folder != self.root and folder.is_relative_to(self.root):
                with suppress(OSError):  # something else is in it
                    folder.rmdir()


def deletion(id: str, *, root: Path | str | None = None) -> Deletion:
    """Return what deleting a dataset would remove; nothing is touched.

    Raises ConfigError for an id that cannot be one, NotFoundError where there is no such dataset,
    UnsafeDataError where a link is on the way to it or in the place of one of its files.
    """
    id = check_id(id.removeprefix("minari:"))
    top = datasets_root() if root is None else Path(root)
    target = top / id
    refuse_links(top, target)
    found = list(_files(target))
    listed = _listed(target)
    files: list[Path] = []
    others: list[Path] = []
    for path in found:
        name = path.relative_to(target).as_posix()
        known = name in listed if listed is not None else _is_minaris(name)
        (files if known else others).append(path)
    for path in (*files, target / "data", target / cache.FOLDER):
        refuse_links(top, path)
    emptied = not found and (target / "data").is_dir()  # by a deletion that was stopped
    if not files and not emptied:
        raise _absent(id, top, target)
    sizes = (path.stat().st_size for path in files)
    return Deletion(id, top, target, tuple(files), tuple(others), sum(sizes))


def delete(id: str, *, root: Path | str | None = None) -> Deletion:
    """Remove a dataset from the root and return what that was; raises as `deletion` does."""
    planned = deletion(id, root=root)
    planned.carry_out()
    return planned


def _files(folder: Path) -> Iterator[Path]:
    """Every file below a folder that is not offrl's cache; no link is followed."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or path.is_file():
            yield path
        elif path.name != cache.FOLDER or path.parent.name == "data":
            yield from _files(path)


def _listed(folder: Path) -> set[str] | None:
    """The names that the manifest lists and those of our own files; None without a manifest."""
    try:
        manifest = read_published(folder)
    except OffrlError as error:
        if isinstance(error, CorruptDataError) and "outside the dataset" in error.cause:
            raise UnsafeDataError(error.cause, "Nothing was removed; look into it.") from error
        manifest = None  # damaged: what a dataset consists of is known all the same
    if manifest is None:
        return None
    return {*_OURS, *(file.path.relative_to(folder).as_posix() for file in manifest.files)}


def _is_minaris(name: str) -> bool:
    return name == NAME or _MINARIS.fullmatch(name) is not None


def _absent(id: str, root: Path, target: Path) -> NotFoundError:
    near = suggest(id, (entry["id"] for entry in list_local(root) if entry["id"] != id)).strip()
    if unfinished_folder(target).is_dir():
        near = f"What was begun of it is in {unfinished_folder(target)}: offrl collect --resume"
    return NotFoundError(
        f"There is no dataset '{id}' in {root}.", near or "See what there is: offrl data list"
    )
