"""What this machine offers offrl: versions, devices, compiler, rendering, disk, dataset roots.

Nothing here changes the machine, and a part that is missing is a finding, never an exception.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Literal

Level = Literal["ok", "note", "problem"]

REQUIRED = (
    "torch",
    "numpy",
    "gymnasium",
    "jinja2",
    "minari",
    "h5py",
    "pandas",
    "plotly",
    "safetensors",
    "tensorboard",
    "typer",
    "rich",
    "tomli-w",
    "scipy",
)
EXTRAS = {
    "mujoco": ("mujoco", "MuJoCo environments", "pip install 'offrl[mujoco]'"),
    "video": ("imageio_ffmpeg", "films of episodes", "pip install 'offrl[video]'"),
    "figures": ("matplotlib", "figures of reports", "pip install 'offrl[figures]'"),
    "arrow": ("pyarrow", "tables of sweeps, Arrow storage of Minari", "pip install 'offrl[arrow]'"),
}
SCARCE = 2 * 1024**3  # bytes; a collected set is written twice before it is in place


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was found and, where it matters, what to do."""

    topic: str
    name: str
    level: Level
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Examination:
    """All findings; `ok` where nothing stands in the way of offrl's commands."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return all(finding.level != "problem" for finding in self.findings)

    def to_dict(self) -> dict[str, object]:
        return {"ok": self.ok, "findings": [asdict(finding) for finding in self.findings]}


def examine(runs: Path = Path("runs")) -> Examination:
    """Look at everything offrl depends on; `runs` is where runs would be written."""
    parts: tuple[Callable[[], list[Finding]], ...] = (
        _versions,
        _devices,
        _compiler,
        _rendering,
        lambda: _roots(runs),
        _extras,
    )
    return Examination(tuple(finding for part in parts for finding in part()))


def _versions() -> list[Finding]:
    found = [Finding("versions", "python", "ok", f"{platform.python_version()} {sys.executable}")]
    for name in ("offrl", *REQUIRED):
        try:
            found.append(Finding("versions", name, "ok", metadata.version(name)))
        except metadata.PackageNotFoundError:
            advice = f"pip install {name}"
            found.append(Finding("versions", name, "problem", "not installed", advice))
    return found


def _devices() -> list[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = [Finding("devices", "cpu", "ok", f"{cores} cores, {platform.machine()}")]
    if util.find_spec("torch") is None:
        return found
    import torch

    for index in range(torch.cuda.device_count()):
        found.append(Finding("devices", f"cuda:{index}", "ok", torch.cuda.get_device_name(index)))
    if torch.backends.mps.is_available():
        found.append(Finding("devices", "mps", "ok", "Apple GPU"))
    if len(found) == 1:
        found.append(Finding("devices", "gpu", "note", "none; offrl trains on the processor"))
    return found


def _compiler() -> list[Finding]:
    for name in filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++", "cl")):
        path = shutil.which(name)
        if path is not None and _compiles(path):
            return [Finding("compiler", "c++", "ok", path)]
    advice = "install g++ or clang++; without one, --compile auto trains eagerly"
    return [Finding("compiler", "c++", "note", "none that works", advice)]


def _compiles(compiler: str) -> bool:
    """Tell whether `compiler` turns a source file that uses the standard library into an object."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text("#include <vector>\nint main() { return std::vector<int>().size(); }\n")
        command = [compiler, "-c", str(source), "-o", str(Path(folder, "probe.o"))]
        try:
            done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return False
    return done.returncode == 0


def _rendering() -> list[Finding]:
    """Report which way of drawing without a window is open to MuJoCo."""
    chosen = os.environ.get("MUJOCO_GL", "")
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or ""
    found = [
        Finding("rendering", "MUJOCO_GL", "ok", chosen or "not set"),
        Finding("rendering", "display", "ok" if display else "note", display or "none"),
    ]
    from ctypes.util import find_library

    for name, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
        there = find_library(library)
        found.append(Finding("rendering", name, "ok" if there else "note", there or "not found"))
    if not display and all(finding.found == "not found" for finding in found[2:]):
        found[2] = Finding(
            "rendering",
            "egl",
            "note",
            "not found",
            "pictures of environments need EGL or OSMesa (libegl1 or libosmesa6)",
        )
    return found


def _roots(runs: Path) -> list[Finding]:
    from offrl.data.catalogue import datasets_root

    root = Path(datasets_root())
    return [
        *_folder("datasets", root, "set MINARI_DATASETS_PATH to a folder that you may write to"),
        *_folder("runs", runs.absolute(), "name another folder with --out"),
    ]


def _folder(name: str, folder: Path, advice: str) -> list[Finding]:
    there = folder
    while not there.exists():
        there = there.parent
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        return [Finding("disk", name, "problem", f"{folder}, not writable", advice)]
    free = shutil.disk_usage(there).free
    state = "" if folder.exists() else ", made when it is needed"
    text = f"{folder}{state}, {free / 1024**3:.1f} GiB free"
    if free < SCARCE:
        return [Finding("disk", name, "note", text, "free some space before collecting")]
    return [Finding("disk", name, "ok", text)]


def _extras() -> list[Finding]:
    found = []
    for extra, (module, use, install) in EXTRAS.items():
        if util.find_spec(module) is None:
            found.append(Finding("extras", extra, "note", f"not installed ({use})", install))
        else:
            found.append(Finding("extras", extra, "ok", metadata.version(module)))
    return found
