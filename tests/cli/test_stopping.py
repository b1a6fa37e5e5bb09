"""Ctrl-C ends with 130 and SIGTERM with 143, each with the command that goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from offrl_cli.stopping import Stopped, Terminated, going_on, sigterm_raises

STATUSES = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


def stopped(number: signal.Signals, ready: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Start `offrl <words>`, send it a signal once `ready` exists, and wait for its end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "offrl_cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ.copy(),
    )
    deadline = time.monotonic() + 200
    while not any(ready.parent.glob(ready.name)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=200)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


@pytest.mark.parametrize(("number", "status"), STATUSES)
class TestStopping:
    def test_training_names_the_command_that_goes_on(
        self, number: signal.Signals, status: int, shop: str, tmp_path: Path
    ):
        words = ["train", "--algo", "bc", "--dataset", shop, "--steps", "1000000"]
        words += ["--compile", "off", "--hidden-size", "8", "--out", "mine", "--log-every", "100"]
        done = stopped(number, tmp_path / "mine" / "seed_0" / "checkpoints" / "step_*", *words)
        assert (done.returncode, done.stdout) == (status, "")
        *_, cause, remedy = done.stderr.splitlines()
        assert cause.startswith("error: Stopped by ")
        assert remedy == "try: offrl train --out mine --resume"
        assert "Traceback" not in done.stderr

    def test_collecting_names_the_command_that_goes_on(
        self, number: signal.Signals, status: int, tmp_path: Path
    ):
        words = ["collect", "--env", "Pendulum-v1", "--policy", "random", "--episodes", "5000"]
        words += ["--seed", "3", "--out", "me/long-v0"]
        root = Path(os.environ["MINARI_DATASETS_PATH"])
        done = stopped(number, root / "me" / "long-v0.incomplete" / "*", *words)
        assert (done.returncode, done.stdout) == (status, "")
        assert done.stderr.splitlines()[-1] == "try: offrl collect --out me/long-v0 --resume"
        assert "Traceback" not in done.stderr

    def test_collecting_by_code_names_the_words_that_run_it_again(
        self, number: signal.Signals, status: int, tmp_path: Path
    ):
        (tmp_path / "pol.py").write_text("def push(obs):\n    return [0.5]\n")
        policy = f"{tmp_path / 'pol.py'}:push"
        words = ["collect", "--env", "Pendulum-v1", "--episodes", "5000", "--policy", policy]
        words += ["--out", "me/long-v0"]
        root = Path(os.environ["MINARI_DATASETS_PATH"])
        done = stopped(number, root / "me" / "long-v0.incomplete" / "*", *words)
        assert done.returncode == status
        again = f"try: offrl {' '.join(words)} --resume"
        assert done.stderr.splitlines()[-1] == again


class TestGoingOn:
    @pytest.mark.parametrize(("stop", "status"), [(KeyboardInterrupt, 130), (Terminated, 143)])
    def test_says_how_and_with_which_status(self, stop: type[BaseException], status: int):
        with pytest.raises(Stopped) as caught, going_on("offrl demo"):
            raise stop
        assert (caught.value.exit_code, caught.value.go_on) == (status, "offrl demo")

    def test_sigterm_is_an_interrupt_and_the_old_handler_comes_back(self):
        before = signal.getsignal(signal.SIGTERM)
        with sigterm_raises(), pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is before


IN_CALLBACKS = """
import sys, time, weakref
from offrl_cli.stopping import sigterm_raises
class Thing: pass
with sigterm_raises():
    try:
        print("ready", flush=True)
        while True:  # nearly all the time goes by in callbacks, which drop what is raised in them
            thing = Thing()
            reference = weakref.ref(thing, lambda _: time.sleep(0.01))
            del thing
            time.sleep(0.001)
    except KeyboardInterrupt as stop:
        print(type(stop).__name__, flush=True)
"""


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "Terminated")]
)
def test_a_stop_that_falls_into_a_callback_comes_again(number: signal.Signals, said: str):
    words = [sys.executable, "-c", IN_CALLBACKS]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy()
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=200)
    assert (process.returncode, out, err) == (0, f"{said}\n", "")
