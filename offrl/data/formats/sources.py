"""Files by other people: what they are by their first bytes, and their digest."""

import hashlib
import lzma
import zipfile
import zlib
from pathlib import Path

from offrl.errors import ConfigError, CorruptDataError, NotFoundError, suggest

# The formats that are read, and what each is called to a person.
NAMES = {
    "d4rl": "a D4RL HDF5 file",
    "npz": "an npz archive",
    "rllib": "RLlib JSON",
    "csv": "a CSV table",
    "parquet": "a Parquet table",
}
_TEXT_SUFFIXES = {".csv": "csv", ".tsv": "csv", ".txt": "csv"}
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
# What reading a damaged archive raises.
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,
    ValueError,
    EOFError,
    RuntimeError,  # encrypted, or (NotImplementedError) of an unknown version
)
REMEDY = "Get the file again, or write it again."


def format_of(path: Path, named: str | None = None) -> str:
    """Return the format of a file, `named` or found from its contents.

    Raises NotFoundError where there is no such file, CorruptDataError for an empty one, ConfigError
    where the contents are not those of the named format or the format is not clear.
    """
    if named is not None and named not in NAMES:
        raise ConfigError(
            f"There is no format '{named}'.{suggest(named, NAMES)}",
            f"The formats are {', '.join(NAMES)}.",
        )
    found = _look(path)
    if found is None and named is None:
        raise ConfigError(
            f"The format of {path} is not clear.", f"Give --format {'|'.join(NAMES)}."
        )
    if found is not None and named is not None and found != named:
        raise ConfigError(
            f"{path} is {NAMES[found]}, not {NAMES[named]}.", f"Leave --format out, or: {found}"
        )
    return named or found or ""


def _look(path: Path) -> str | None:
    if not path.exists():
        raise NotFoundError(f"There is no file {path}.", "Give the path of a file.")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder.", "Give the path of a file.")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CorruptDataError(f"{path} cannot be read: {error.strerror}.", REMEDY) from error
    if not head.strip():
        raise CorruptDataError(f"{path} is empty.", REMEDY)
    if head.startswith(b"\x89HDF\r\n"):
        return "d4rl"
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"PK"):
        return _look_inside(path)
    if head.startswith(_PICKLES):
        raise ConfigError(
            f"{path} is a pickle, which runs code when it is opened; offrl opens none.",
            "Save the arrays with numpy.savez, which holds numbers only.",
        )
    if head.startswith(b"\x93NUMPY"):
        raise ConfigError(
            f"{path} is one array.", "Save all the arrays of the log with numpy.savez."
        )
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return "rllib"
    return _TEXT_SUFFIXES.get(path.suffix.lower())


def _look_inside(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except ZIP_ERRORS as error:
        raise CorruptDataError(f"{path} is a damaged archive: {error}.", REMEDY) from error
    if any(name.endswith(".npy") for name in names):
        return "npz"
    return "rllib" if any(name.endswith((".json", ".jsonl")) for name in names) else None


def digest_of(path: Path) -> str:
    """Return `sha256:` and the digest of a file."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
