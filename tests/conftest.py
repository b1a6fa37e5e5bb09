"""What every test starts from: its own folders, one thread, no machine but this one."""

import ipaddress
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from offrl import workers

ROOT = Path(__file__).parent.parent

# The machine is shared and slow at times: how long an example takes says nothing here.
settings.register_profile("offrl", deadline=None, print_blob=True)
settings.load_profile("offrl")

torch.set_num_threads(1)

# A suite in the background is told to ignore Ctrl-C, and so would be the commands that it tries.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets, caches and `runs/` land in this test's temporary folder."""
    home = tmp_path / "offrl-test-home"
    home.mkdir()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(home / "datasets"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("HF_HOME", str(home / "huggingface"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting anywhere but the loopback raises, unless the test is marked `network`."""
    if request.node.get_closest_marker("network") is None:
        connect = socket.socket.connect

        def guarded(self: socket.socket, address: Any) -> None:
            if isinstance(address, tuple) and not _loopback(str(address[0])):
                raise RuntimeError(f"a test tried to reach {address[0]}")
            connect(self, address)

        monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def spread(monkeypatch: pytest.MonkeyPatch) -> list["subprocess.Popen[str]"]:
    """Seeds go to two processes however short the run is; those that were started."""
    started: list[subprocess.Popen[str]] = []
    start = workers._start

    def kept(*args: Any) -> "subprocess.Popen[str]":
        started.append(start(*args))
        return started[-1]

    monkeypatch.setattr(workers, "SPREAD_FROM", 1)
    monkeypatch.setattr(workers, "_start", kept)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    return started


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Other people's logs, from $OFFRL_REALDATA, else ../shared/realdata beside the checkout."""
    folder = Path(os.environ.get("OFFRL_REALDATA", ROOT.parent / "shared" / "realdata"))
    if not folder.is_dir():
        pytest.skip("real data is not here: set OFFRL_REALDATA to its folder")
    return folder.resolve()
