"""`offrl collect` is killed, stopped and starved of room anywhere, and goes on to the same data."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import visible

from offrl.collect.recorder import record
from offrl.data import shards
from offrl.data.catalogue import datasets_root
from offrl.data.dataset import load
from offrl.data.publishing import unfinished_folder
from offrl.errors import LockedError, OffrlError

ID = "me/made-v0"
FOLDER = Path("me/made-v0")
ENV = """
import os, time
import gymnasium
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
class Slow(CartPoleEnv):
    def step(self, action):
        time.sleep(float(os.environ.get('SLOW', '0')))
        return super().step(action)
gymnasium.register('Slow-v0', entry_point=Slow, max_episode_steps=40)
"""
WORDS = ("--env", "slowenv:Slow-v0", "--policy", "random", "--seed", "5", "--out", ID)


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path) -> None:
    (tmp_path / "slowenv.py").write_text(ENV)


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "offrl_cli", "collect", *WORDS, *map(str, words)]


def begin(*words: object, slow: float = 0.0005) -> "subprocess.Popen[str]":
    """Start collecting in a process of its own."""
    environment = {**os.environ, "SLOW": str(slow)}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), *sys.path])
    return subprocess.Popen(
        command(*words),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(*words: object) -> dict[str, Any]:
    """Collect to the end and return what `--json` prints."""
    process = begin(*words, "--json", slow=0.0)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return json.loads(out)


def unfinished() -> Path:
    return unfinished_folder(datasets_root() / FOLDER)


def committed() -> int:
    """The episodes whose shards are listed, all of them verified."""
    manifest = shards.read_manifest(unfinished())
    if manifest is None:
        return 0
    shards.verify_files(unfinished(), manifest)
    return len(manifest["episodes"])


def await_episodes(n: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 200
    while committed() < n and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def killed(times: int, seed: int) -> None:
    """Kill a recording at random moments, checking what is left, and let it end at last."""
    rng = np.random.default_rng(seed)
    episodes = 30 * times
    kept = 0
    for number in range(times):
        process = begin(
            "--episodes", episodes, "--workers", int(rng.integers(1, 4)), "--resume"
        )  # fmt: skip
        # Beyond the start of the interpreter, where nothing happens yet, or a little after it.
        if number % 4:
            await_episodes(kept + 1, process)
        time.sleep(rng.uniform(0.0, 0.4))
        process.kill()
        process.communicate()
        if (datasets_root() / FOLDER).exists():
            break  # it was quicker than the last kill
        assert visible() == []
        now = committed()
        assert now >= kept
        kept = now
    resumed = finish("--episodes", episodes, "--workers", 2, "--resume")
    assert [e.id for e in load(ID)] == list(range(episodes))
    assert resumed["fingerprint"] == undisturbed(episodes)


def undisturbed(episodes: int) -> str:
    """The fingerprint of what one process records in one sitting."""
    words = [*command("--episodes", episodes, "--json")]
    words[words.index(ID)] = "me/whole-v0"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["fingerprint"]


class TestKill9:
    def test_three_times_at_any_moment_loses_nothing_that_was_listed(self) -> None:
        killed(3, seed=1)

    @pytest.mark.slow
    def test_twenty_times(self) -> None:
        killed(20, seed=0)

    @pytest.mark.parametrize("where", ["_consolidate", "swap", "_remove"])
    def test_while_it_is_published_and_again_while_it_is_mended(self, where: str) -> None:
        """Before the one file is made, before the folder is renamed, before the shards go."""
        patched = {
            "_consolidate": "publishing.Workshop._consolidate = end",
            "swap": "publishing.Path.rename = end",
            "_remove": "publishing.Workshop._remove = end",
        }[where]
        code = (
            "import os, signal, sys\n"
            "from offrl.data import publishing\n"
            "from offrl.collect.recorder import record\n"
            "def end(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
            f"{patched}\n"
            "record(env='CartPole-v1', policies='random', episodes=9, seed=5,\n"
            f"       out={ID!r}, resume=True)\n"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        for again in (False, True):
            published = (datasets_root() / FOLDER / "data").is_dir()
            done = subprocess.run([sys.executable, "-c", code], check=False, env=environment)
            # Once it is published, resuming has nothing to do and dies of nothing.
            assert done.returncode == (0 if published else -signal.SIGKILL)
            assert again or not published
        options: dict[str, Any] = {"env": "CartPole-v1", "policies": "random", "seed": 5}
        resumed = record(**options, episodes=9, out=ID, resume=True)
        assert record(out=ID, resume=True).fingerprint == resumed.fingerprint
        whole = record(**options, episodes=9, out="me/whole-v0")
        assert resumed.fingerprint == whole.fingerprint
        assert visible() == [ID, "me/whole-v0"]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)  # fmt: skip
@pytest.mark.parametrize("workers", [1, 3])
def test_a_stop_closes_the_shard_and_says_how_to_go_on(
    number: signal.Signals, status: int, workers: int
) -> None:
    process = begin("--episodes", 10_000, "--workers", workers)
    await_episodes(8, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=200)
    assert process.returncode == status
    # The environment is code, which runs only where it is typed: so the whole command comes back.
    said = err.splitlines()[-1]
    assert said.startswith("try: offrl collect --env slowenv:Slow-v0 ")
    assert said.endswith(f" --out {ID} --resume")
    assert "Traceback" not in err
    assert visible() == []
    assert 8 <= committed() < 10_000


class TestRoom:
    def limited(self, limit: int) -> "subprocess.CompletedProcess[str]":
        def limits() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
        return subprocess.run(
            command("--episodes", 60, "--workers", 2, "--resume"),
            preexec_fn=limits,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def test_that_runs_out_is_an_error_and_loses_nothing(self) -> None:
        """A shard, then the manifest, then the one file do not fit."""
        kept = 0
        for limit in (1_000, 20_000, 60_000):
            done = self.limited(limit)
            assert done.returncode == 1, done.stderr
            cause, remedy = done.stderr.splitlines()[-2:]
            assert cause.startswith("error: ")
            assert "File too large" in cause or "put together" in cause
            assert remedy.startswith("try: ")
            assert "Traceback" not in done.stderr
            assert not list(datasets_root().rglob("*.tmp-*"))
            assert visible() == []
            assert committed() >= kept
            kept = committed()
        resumed = finish("--episodes", 60, "--resume")
        assert resumed["fingerprint"] == undisturbed(60)

    def test_below_what_may_be_needed_is_told_before_the_start(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = shutil.disk_usage(Path.cwd())._replace(free=20_000)
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda path: usage)
            with pytest.raises(OffrlError, match="are free"):
                record(env="CartPole-v1", policies="random", episodes=400, out=ID)
        assert "400 episodes may take up to" in caplog.text
        assert "0.0 MB are free" in caplog.text


class TestTwoCollectors:
    def test_of_one_id_exclude_each_other_until_one_is_dead(self) -> None:
        process = begin("--episodes", 30_000, "--workers", 2)
        await_episodes(8, process)
        with pytest.raises(LockedError, match=f"process {process.pid}"):
            record(env="CartPole-v1", policies="random", episodes=3, out=ID)
        second = subprocess.run(
            command("--episodes", 30_000, "--resume"),
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (second.returncode, second.stdout) == (1, "")
        assert f"is being recorded by process {process.pid}" in second.stderr
        process.kill()
        process.communicate()
        kept = committed()
        assert kept >= 8
        # The dead one's lock is nobody's.
        resumed = begin("--episodes", 30_000, "--resume")
        await_episodes(kept + 8, resumed)
        resumed.kill()
        resumed.communicate()
        assert committed() > kept

    def test_a_reader_of_the_old_data_is_not_disturbed_by_an_overwrite(self) -> None:
        record(env="CartPole-v1", policies="random", episodes=9, out=ID)
        before = load(ID).fingerprint
        process = begin("--episodes", 30_000, "--overwrite", "--workers", 2)
        await_episodes(16, process)
        assert load(ID).fingerprint == before
        process.kill()
        process.communicate()
        assert load(ID).fingerprint == before


class TestEveryCallThatCanFail:
    """Each write, sync, rename and new folder of a recording is refused in turn."""

    EPISODES = 10

    def recorded(self) -> Any:
        return record(
            env="CartPole-v1",
            policies="random",
            episodes=self.EPISODES,
            seed=5,
            out=ID,
            resume=True,
        )

    def failing(self, monkeypatch: pytest.MonkeyPatch, at: int) -> int:
        """Record with the `at`-th call failing; the number of calls that were made."""
        calls = 0

        def guarded(call: Any) -> Any:
            def counted(*args: Any, **options: Any) -> Any:
                nonlocal calls
                inside = "datasets" in str(args[0]) or isinstance(args[0], int)
                if inside:
                    calls += 1
                    if calls == at:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return call(*args, **options)

            return counted

        with monkeypatch.context() as patch:
            for name in ("replace", "rename", "mkdir"):
                patch.setattr(Path, name, guarded(getattr(Path, name)))
            patch.setattr(os, "fsync", guarded(os.fsync))
            plain = Path.open

            def opened(path: Path, mode: str = "r", **options: Any) -> Any:
                return (guarded(plain) if mode[0] in "wa" else plain)(path, mode, **options)

            patch.setattr(Path, "open", opened)
            try:
                self.recorded()
            except OffrlError:
                told = True
            else:
                told = False
        assert told == (calls >= at)
        return calls

    @pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])
    def test_leaves_the_state_before_or_after_it(
        self, monkeypatch: pytest.MonkeyPatch, stride: int
    ) -> None:
        expected = record(
            env="CartPole-v1", policies="random", episodes=self.EPISODES, seed=5, out="me/whole-v0"
        ).fingerprint
        at, seen = 1 - stride, set[str]()
        while True:
            at += stride
            made = self.failing(monkeypatch, at)
            assert not list(datasets_root().rglob("*.tmp-*"))
            target = datasets_root() / FOLDER
            if target.exists():
                seen.add("published")
                assert load(ID).fingerprint == expected
            else:
                seen.add("unfinished")
                assert committed() in (0, 8, self.EPISODES)
            assert visible() in (["me/whole-v0"], [ID, "me/whole-v0"])
            assert self.recorded().fingerprint == expected
            shutil.rmtree(target)
            if made < at:
                break
        assert at > 20
        assert seen == {"published", "unfinished"}
