"""Workshop: the folder `<id>.incomplete` in which a dataset is made, and its publication.

Every step leaves either the old state or the new one: a shard is committed when the manifest that
lists it has replaced the last one, and the dataset exists when its folder has the id's name.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from offrl.data import consolidation, shards
from offrl.data.catalogue import check_id, datasets_root, refuse_links
from offrl.data.durable import swap_folders, sync_folder, write_file
from offrl.data.episodes import Episode, fingerprint_of
from offrl.data.manifest import sealed
from offrl.data.metadata import published, versions
from offrl.errors import ConfigError, LockedError, OffrlError

_LOG = logging.getLogger("offrl")
_FINAL = ".final"  # hidden, so that no listing of datasets looks inside
_SPARE_BYTES = 2**20


class Workshop:
    """The unfinished dataset of one id, held by one process at a time."""

    def __init__(
        self,
        dataset_id: str,
        root: Path | str | None,
        settings: Mapping[str, Any],
        *,
        overwrite: bool,
        resume: bool,
    ) -> None:
        check_id(dataset_id)
        self.id = dataset_id
        self.root = Path(root) if root is not None else datasets_root()
        self.target = self.root / dataset_id
        self.folder = unfinished_folder(self.target)
        self.manifest: dict[str, Any] = {}
        self._lock: IO[str] | None = None
        if self.target.exists():
            self._sweep()
            if not overwrite:
                raise ConfigError(
                    f"The dataset {dataset_id} exists already, in {self.target}.",
                    "Choose another id, or replace it with --overwrite (overwrite=True).",
                )
            refuse_links(self.root, self.target)
        try:
            self._begin(settings, resume)
        except OSError as error:
            self._unlock()
            raise OffrlError(
                f"Nothing can be written in {self.root}: {error.strerror}.",
                "Point MINARI_DATASETS_PATH at a folder of yours, or free some space.",
            ) from error

    @property
    def closed(self) -> bool:
        """Whether this process has let go of the folder."""
        return self._lock is None

    def _begin(self, settings: Mapping[str, Any], resume: bool) -> None:
        (self.folder / "shards").mkdir(parents=True, exist_ok=True)
        self._take_lock()
        try:
            kept = shards.read_manifest(self.folder)
            if kept is not None and resume:
                self._continue(kept, settings)
                return
        except OffrlError:
            self._unlock()
            raise
        if kept is not None and kept["episodes"]:
            self._set_aside()
            (self.folder / "shards").mkdir(parents=True)
            self._take_lock()
        self.manifest = shards.new_manifest(settings) | {"versions": self._versions(settings)}
        shards.write_manifest(self.folder, self.manifest)

    @staticmethod
    def _versions(settings: Mapping[str, Any]) -> dict[str, str]:
        # A copy of a dataset keeps the versions that its environment ran with.
        return settings["metadata"]["offrl"].get("versions") or versions()

    def _continue(self, kept: dict[str, Any], settings: Mapping[str, Any]) -> None:
        changed = _differences(kept["settings"], settings)
        if changed:
            raise ConfigError(
                f"{self.folder} was begun with other settings: {', '.join(changed)}.",
                "Repeat the settings it was begun with, or leave out --resume to begin anew.",
            )
        shards.verify_files(self.folder, kept)
        now = self._versions(settings)
        if kept.get("versions") != now:
            _LOG.warning(
                "%s was begun with other versions (%s, now %s): what is added may differ from an "
                "uninterrupted recording.", self.id, kept.get("versions"), now,
            )  # fmt: skip
        self.manifest = kept

    def _set_aside(self) -> None:
        number = 1
        while (aside := self.folder.with_name(f"{self.folder.name}-{number}")).exists():
            number += 1
        self.folder.rename(aside)
        self._unlock()
        _LOG.warning(
            "An interrupted recording of %s was set aside in %s; resume continues one instead.",
            self.id, aside,
        )  # fmt: skip

    def commit(self, episodes: Sequence[Episode], digests: Sequence[str]) -> None:
        """Write episodes as a shard and list it; raises OffrlError with the last state whole."""
        manifest = self.manifest
        name = f"shards/{len(manifest['files']):06d}.hdf5"
        content = shards.image(episodes)
        file = {
            "name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()
        }  # fmt: skip
        entries = [
            {"sha256": sha, "steps": len(e)} for e, sha in zip(episodes, digests, strict=True)
        ]
        new = manifest | {
            "files": [*manifest["files"], file],
            "episodes": [*manifest["episodes"], *entries],
        }
        try:
            write_file(self.folder / name, content)
            shards.write_manifest(self.folder, new)
        except OSError as error:
            raise OffrlError(
                f"The episodes of {self.id} could not be written: {error.strerror}.",
                f"Those before are safe in {self.folder}; free some space and resume.",
            ) from error
        self.manifest = new

    def publish(self) -> Path:
        """Make Minari's one file of the shards and give the folder the id's name."""
        try:
            final = self._assemble()
            if self.target.exists():
                swap_folders(final, self.target)
            else:
                final.rename(self.target)
                sync_folder(self.target.parent)
        except OSError as error:
            raise OffrlError(
                f"{self.id} could not be published: {error.strerror}.",
                f"Its episodes are safe in {self.folder}; resume finishes it.",
            ) from error
        self._remove()
        return self.target

    def _assemble(self) -> Path:
        """Build the final folder beside the shards, checksummed and synced, and return it."""
        final = self.folder / _FINAL
        shutil.rmtree(final, ignore_errors=True)  # of a publication that was cut short
        data = final / "data"
        data.mkdir(parents=True)
        total = sum(entry["bytes"] for entry in self.manifest["files"])
        free = shutil.disk_usage(self.folder).free
        if free < total + _SPARE_BYTES:
            raise OffrlError(
                f"{self.id} needs {total / 1e6:.1f} MB to be put together and {free / 1e6:.1f} MB "
                "are free.",
                f"Its episodes are safe in {self.folder}; free some space and resume.",
            )
        main = data / "main_data.hdf5"
        self._consolidate(main)
        listed = _listed(main)
        fingerprint = fingerprint_of([entry["sha256"] for entry in self.manifest["episodes"]])
        table = published(self.id, self.manifest, fingerprint, listed["bytes"])
        write_file(data / "metadata.json", json.dumps(table).encode())
        whole = self.manifest | {"complete": True, "fingerprint": fingerprint}
        told = whole | {"files": [listed], "metadata": _listed(data / "metadata.json")}
        write_file(final / shards.MANIFEST, sealed(json.dumps(told, allow_nan=False).encode()))
        # From here on `_sweep` knows the folder as one whose dataset is published or can be.
        self.manifest = whole
        shards.write_manifest(self.folder, whole)
        return final

    def _consolidate(self, target: Path) -> None:
        if len(self.manifest["files"]) == 1:  # one shard is the file already
            shards.verify_files(self.folder, self.manifest)
            write_file(target, (self.folder / self.manifest["files"][0]["name"]).read_bytes())
            return
        request = {
            "shards": [
                {"path": str(self.folder / f["name"]), "sha256": f["sha256"]}
                for f in self.manifest["files"]
            ],
            "target": str(target),
        }
        # Our own file run by our own interpreter; -P: no module beside it is picked up.
        done = subprocess.run(
            [sys.executable, "-P", consolidation.__file__],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            ended = f"the process that does it ended with {done.returncode}"
            reason = (done.stderr.strip().splitlines() or [ended])[-1]
            raise OffrlError(
                f"{self.id} could not be put together: {reason}.",
                f"Its episodes are safe in {self.folder}; free some space and resume.",
            )

    def release(self) -> None:
        """Let go and keep the folder for a later resume."""
        self._unlock()

    def discard(self) -> None:
        """Remove the folder, and namespace folders that held nothing else."""
        self._remove()
        for parent in self.folder.parents:
            if parent in (self.root, *self.root.parents):
                break
            with suppress(OSError):
                parent.rmdir()

    def _remove(self) -> None:
        # The manifest goes first: a folder without one is nobody's and may be reused.
        (self.folder / shards.MANIFEST).unlink(missing_ok=True)
        self._unlock()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove the folder of a dataset that is published, left by a kill in between."""
        with suppress(OffrlError, OSError):
            kept = shards.read_manifest(self.folder)
            done = shards.read_manifest(self.target)
            if kept and done and kept["complete"] and kept["episodes"] == done["episodes"]:
                self._take_lock()
                self._remove()

    def _take_lock(self) -> None:
        file = (self.folder / "lock").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read() or "another process"
            file.close()
            raise LockedError(
                f"{self.id} is being recorded by {holder}.", "Wait for it, or choose another id."
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        self._lock = file

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _listed(file: Path) -> dict[str, Any]:
    """What the manifest says of a file in the data folder."""
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return {"name": f"data/{file.name}", "bytes": file.stat().st_size, "sha256": digest}


def unfinished_folder(target: Path) -> Path:
    """Return where the unfinished dataset of a folder is kept."""
    return target.with_name(f"{target.name}.incomplete")


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    found: list[str] = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        name = f"{path}{key}"
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += _differences(before, after, f"{name}.")
        else:
            found.append(
                f"{name.removeprefix('metadata.offrl.')} {_short(before)} -> {_short(after)}"
            )
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
