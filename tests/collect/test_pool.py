"""Several processes record the data of one, and what happens to one of them is told."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from recordings import kept_of, visible

from offrl.collect import pool
from offrl.collect.recorder import record
from offrl.data.catalogue import dataset_path
from offrl.data.episodes import Episode, digest
from offrl.data.frames import episode_of, read_message, write_episode
from offrl.errors import ConfigError, NotFoundError, WorkError

ID = "me/made-v0"
CARTPOLE: dict[str, Any] = {
    "env": "CartPole-v1",
    "policies": ["cartpole-balance,epsilon=0.8", "random,weight=2"],
    "seed": 3,
}
SLOW = """
import time
import gymnasium
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
class Slow(CartPoleEnv):
    def step(self, action):
        time.sleep(0.01)
        return super().step(action)
if 'Slow-v0' not in gymnasium.registry:
    gymnasium.register('Slow-v0', entry_point=Slow, max_episode_steps=60)
"""


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An environment of a module of one's own, slow enough to be interrupted."""
    (tmp_path / "slowenv.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    yield "slowenv:Slow-v0"
    sys.modules.pop("slowenv", None)
    gymnasium.registry.pop("Slow-v0", None)


def workers_of(parent: int) -> list[int]:
    """The collecting processes of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes()
            above = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if above == parent and b"worker.py" in words:
            found.append(int(entry.name))
    return sorted(found)


def gone(process: int) -> bool:
    """Whether a process has ended within a minute; it may have to start before it can."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


class TestAnyNumberOfProcesses:
    @pytest.mark.parametrize("amount", [{"episodes": 21}, {"env_steps": 500}])
    def test_records_the_same_data(self, amount: dict[str, Any]) -> None:
        made = [
            record(**CARTPOLE, **amount, out=f"me/w{k}-v0", workers=k).fingerprint
            for k in (1, 2, 4)
        ]
        assert len(set(made)) == 1

    def test_may_go_on_with_what_another_number_began(self) -> None:
        whole = record(**CARTPOLE, episodes=14, out="me/whole-v0").fingerprint
        for first, second in ((3, 1), (1, 2), (2, 3)):

            def stop(done: int, total: int) -> None:
                if done == 6:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                record(**CARTPOLE, episodes=14, out=ID, progress=stop, workers=first)
            assert (visible(), kept_of(ID)) == (["me/whole-v0"], 6)
            resumed = record(out=ID, resume=True, workers=second, overwrite=True)
            assert resumed.fingerprint == whole
            shutil.rmtree(dataset_path(ID))

    def test_is_not_started_for_less_than_there_is_to_do(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any) -> None:
            raise AssertionError("a process was started")

        monkeypatch.setattr(pool, "_start", refuse)
        assert record(**CARTPOLE, episodes=1, out=ID, workers=4).n_episodes == 1

    def test_is_at_least_one(self) -> None:
        with pytest.raises(ConfigError, match="workers=0"):
            record(**CARTPOLE, episodes=1, out=ID, workers=0)


class TestWhatOnlyThisProcessHas:
    def test_is_refused_before_anything_is_written(self) -> None:
        env = gymnasium.make("CartPole-v1")
        options: dict[str, Any] = {"episodes": 2, "out": ID, "workers": 2}
        with pytest.raises(ConfigError, match="was made here"):
            record(env=env, policies="random", **options)
        env.close()
        with pytest.raises(ConfigError, match=r"exists in this process .*"):
            record(env="CartPole-v1", policies=lambda obs: 0, **options)
        assert visible() == []

    def test_an_id_that_is_registered_here_alone_is_told(self) -> None:
        gymnasium.register(
            "Mine-v0",
            entry_point="gymnasium.envs.classic_control.cartpole:CartPoleEnv",
            max_episode_steps=5,
        )
        try:
            with pytest.raises(NotFoundError, match="no environment 'Mine-v0'") as caught:
                record(env="Mine-v0", policies="random", episodes=4, out=ID, workers=2)
            assert "module:Id-v0" in caught.value.remedy
        finally:
            gymnasium.registry.pop("Mine-v0")

    def test_a_module_that_it_can_import_its_processes_can(self, slow: str) -> None:
        data = record(env=slow, policies="random", episodes=2, out=ID, workers=2)
        assert data.n_episodes == 2


class TestAPolicyThatRaises:
    def test_is_named_as_by_one_process_and_the_episodes_before_are_kept(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "mine.py"
        # The eighth takes long: with two processes the ninth has failed well before it ends.
        path.write_text(
            "import time\n"
            "import numpy as np\n"
            "def act(obs, rng):\n"
            "    if rng.bit_generator.seed_seq.spawn_key[1] == 8:\n"
            "        time.sleep(0.1)\n"
            "    if rng.bit_generator.seed_seq.spawn_key[1] == 9 and abs(obs[0]) > 0.05:\n"
            "        raise ZeroDivisionError('by nothing')\n"
            "    return int(rng.integers(2)), -np.log(2.0)\n"
        )
        told = []
        for k in (1, 2):
            with pytest.raises(WorkError, match="ZeroDivisionError in episode 9") as caught:
                record(env="CartPole-v1", policies=f"{path}:act", episodes=20, workers=k,
                       out=f"me/w{k}-v0")  # fmt: skip
            told.append(str(caught.value))
            assert kept_of(f"me/w{k}-v0") == 9
        assert told[0] == told[1]


class TestAProcessThatIsKilled:
    def test_is_told_and_the_recording_goes_on(self, slow: str) -> None:
        options: dict[str, Any] = {"env": slow, "policies": "random", "episodes": 12, "out": ID}

        def kill_one(done: int, of: int) -> None:
            if done == 1:
                os.kill(workers_of(os.getpid())[0], signal.SIGKILL)

        with pytest.raises(WorkError, match="was ended by signal 9"):
            record(**options, workers=2, progress=kill_one)
        assert workers_of(os.getpid()) == []
        resumed = record(**options, resume=True, workers=2)
        options["out"] = "me/whole-v0"
        assert resumed.fingerprint == record(**options).fingerprint

    def test_takes_its_processes_along(self, slow: str, tmp_path: Path) -> None:
        words = ["collect", "--env", slow, "--policy", "random", "--episodes", "500"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
        process = subprocess.Popen(
            [sys.executable, "-m", "offrl_cli", *words, "--out", ID, "--workers", "3"],
            env=environment,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 200
        while len(workers_of(process.pid)) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.0)
        children = workers_of(process.pid)
        process.kill()
        process.wait()
        assert len(children) == 3
        assert all(gone(child) for child in children)


@pytest.mark.parametrize(
    "observations",
    [
        np.arange(6, dtype=np.float64).reshape(3, 2),
        {"a": np.ones((3, 2, 2), np.uint8), "b": (np.arange(3), np.zeros((3, 1), np.float32))},
        {"text": np.array(["x", "ü", ""], object), "n": np.array([True, False, True])},
    ],
)
def test_an_episode_comes_out_of_a_pipe_as_it_went_in(observations: Any) -> None:
    ends = np.array([False, True])
    episode = Episode(
        4, observations, np.array([[1.0], [np.pi]]), np.array([0.1, 0.2]), ends, ~ends,
        {"behavior_log_prob": np.array([np.nan, -1.0, -2.0])}, 17,
    )  # fmt: skip
    read, write = os.pipe()
    with os.fdopen(write, "wb") as out:
        write_episode(out, episode)
    with os.fdopen(read, "rb") as source:
        message = read_message(source)
        assert read_message(source) is None
    assert message is not None
    found = episode_of(*message)
    assert digest(found) == digest(episode)
    assert (found.id, found.seed) == (4, 17)


def test_a_frame_that_is_cut_off_is_none(tmp_path: Path) -> None:
    ends = np.array([True])
    episode = Episode(
        0, np.zeros((2, 1)), np.zeros(1, np.int64), np.zeros(1), ends, ~ends, {}, None
    )
    whole = tmp_path / "frame"
    with whole.open("wb") as out:
        write_episode(out, episode)
    content = whole.read_bytes()
    for length in (0, 4, 8, 20, len(content) - 1):
        whole.write_bytes(content[:length])
        with whole.open("rb") as source:
            assert read_message(source) is None
