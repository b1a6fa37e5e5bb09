"""Small runs for the tests of training: a dataset on disk, short settings, ways to compare."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from offrl.data.dataset import Dataset
from offrl.events import Event, Trained
from offrl.testing import toy_dataset

# A pass of AWR is 12 + 12 steps, so 60 of them hold several stages and refreshes.
SMALL: dict[str, Any] = {"hidden_size": 8, "batch_size": 16, "value_steps": 12, "policy_steps": 12}
SHORT: dict[str, Any] = {"steps": 60, "log_every": 5, "save_every": 7, "compile": "off"}


def saved_dataset(id: str = "toy/box-v0", *, discrete: bool = False, episodes: int = 12) -> Dataset:
    """A toy dataset under this test's Minari root."""
    return toy_dataset(discrete=discrete, episodes=episodes).save(id)


def settings_of(algo: str, **changes: Any) -> dict[str, Any]:
    """Keyword arguments of `fit` for a short run."""
    sizes = SMALL if algo == "awr" else {k: SMALL[k] for k in ("hidden_size", "batch_size")}
    return {**SHORT, **sizes, **changes}


def last_state(seed_folder: Path) -> tuple[str, str]:
    """The name of the newest checkpoint and a digest of its tensors."""
    newest = max((seed_folder / "checkpoints").glob("step_*"))
    return newest.name, digest(newest / "state.safetensors")


def outcome(run: Path) -> dict[str, Any]:
    """What must be equal between a run that was stopped and one that was not."""
    return {
        seed.name: (*last_state(seed), (seed / "metrics.csv").read_text())
        for seed in sorted(run.glob("seed_*"))
    }


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder by its digest, to see that nothing changed."""
    return {
        str(path.relative_to(folder)): digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def raise_at(seed: int, step: int, error: type[BaseException], kind: type[Any] = Trained) -> Any:
    """A consumer of events that raises `error` at the first `kind` of a seed from `step` on."""

    def consume(event: Event) -> None:
        if isinstance(event, kind) and event.seed == seed and event.step >= step:
            raise error

    return consume


def python(code: str, *words: str, stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[str]":
    """A process of its own that runs `code`."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def killed(code: str, out: str, checkpoints: int) -> None:
    """Run code in a process that is killed once seed 0 of `out` has so many checkpoints."""
    process = python(code)
    try:
        deadline = time.monotonic() + 200
        while len(list(Path(out, "seed_0", "checkpoints").glob("step_*"))) < checkpoints:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
