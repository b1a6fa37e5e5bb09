"""Environments behind a guard: the same bits, and an end where one hangs."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_runs import python

import offrl
from offrl import checkpoint as checkpoints
from offrl.environments import make_env
from offrl.errors import ConfigError, NotFoundError, WorkError
from offrl.guard import Guard, makers

SECONDS = 3.0  # where something hangs
HERE = Path(__file__).parent
ONLINE: dict[str, Any] = {"warmup": 20, "eval_episodes": 1, "eval_every": 100, "save_every": 30}
SMALL: dict[str, Any] = {"hidden_size": 8, "batch_size": 16}


@pytest.fixture(autouse=True)
def _found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    shutil.copy(HERE / "stuck_worlds.py", tmp_path / "code")
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.setenv("STUCK_WORLDS", str(tmp_path / "hang"))


@pytest.fixture
def guard() -> Iterator[Guard]:
    made = Guard(SECONDS)
    yield made
    made.close()


@pytest.fixture
def patient() -> Iterator[Guard]:
    """A guard where nothing hangs, so that a machine that stands still a while changes nothing."""
    made = Guard(60.0)
    yield made
    made.close()


def walk(env: Any, steps: int = 60) -> list[Any]:
    """What an environment gives to seeded actions, over several episodes."""
    rng, seen = np.random.default_rng(0), []
    obs, _ = env.reset(seed=5)
    env.action_space.seed(3)
    for _ in range(steps):
        seen.append(obs)
        action = env.action_space.sample()
        action = int(action) if np.ndim(action) == 0 else action
        obs, reward, terminated, truncated, _ = env.step(action)
        seen.append((float(reward), terminated, truncated))
        if terminated or truncated:
            obs, _ = env.reset(seed=int(rng.integers(100)))
    return seen


def same(one: Any, two: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)
    if isinstance(one, np.ndarray):
        return one.dtype == two.dtype and np.array_equal(one, two)
    return bool(one == two)


@pytest.mark.parametrize("id", ["Pendulum-v1", "CartPole-v1", "stuck_worlds:Parts-v0"])
def test_what_is_behind_a_guard_gives_the_bits_it_gives_here(patient: Guard, id: str):
    here, there = make_env(id), patient.make(id)
    assert there.observation_space == here.observation_space
    assert there.action_space == here.action_space
    assert here.spec is not None
    assert there.spec is not None
    assert (there.spec.id, there.spec.max_episode_steps) == (
        here.spec.id, here.spec.max_episode_steps,
    )  # fmt: skip
    assert all(same(a, b) for a, b in zip(walk(here), walk(there), strict=True))


def test_observations_may_be_written_to(patient: Guard):
    obs, _ = patient.make("Pendulum-v1").reset(seed=0)
    obs[:] = 0


@pytest.mark.parametrize("how", ["sleep", "lock"])
def test_a_step_that_never_ends_is_ended_and_named(guard: Guard, how: str):
    Path("hang").write_text(f"{how} 3")
    env = guard.make("stuck_worlds:Stuck-v0")
    env.reset(seed=7)
    action = np.zeros(1, np.float32)
    for _ in range(2):
        env.step(action)
    started = time.monotonic()
    with pytest.raises(WorkError, match=r"'Stuck-v0' at step 2 after reset\(seed=7\) took longer"):
        env.step(action)
    assert SECONDS <= time.monotonic() - started < 60
    gone(int(Path("hang.pid").read_text()))
    env.close()


def gone(pid: int, within: float = 60.0) -> None:
    """Assert that a process is not there, or not after a while."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError(pid)


def test_a_reset_that_never_ends_is_ended_and_named(guard: Guard):
    Path("hang").write_text("sleep reset")
    env = guard.make("stuck_worlds:Stuck-v0")
    with pytest.raises(WorkError, match=r"'Stuck-v0' in reset\(\) took longer than 3 s"):
        env.reset(seed=7)


def test_a_process_that_dies_is_told_with_its_signal(patient: Guard):
    Path("hang").write_text("crash 1")
    env = patient.make("stuck_worlds:Stuck-v0")
    env.reset(seed=7)
    with pytest.raises(WorkError, match=r"at step 0 .* ended its process with signal 11"):
        env.step(np.zeros(1, np.float32))


def test_what_an_environment_raises_comes_through(patient: Guard):
    Path("hang").write_text("raise 1")
    env = patient.make("stuck_worlds:Stuck-v0")
    env.reset(seed=7)
    with pytest.raises(ZeroDivisionError, match="by nothing"):
        env.step(np.zeros(1, np.float32))


def test_an_environment_that_is_not_there_is_named_as_without_a_guard(patient: Guard):
    with pytest.raises(NotFoundError, match="no environment 'Pendlum-v1'"):
        patient.make("Pendlum-v1")


def test_a_guard_whose_process_asks_no_more_ends_by_itself():
    """Also where an environment hangs, and holds on to its interpreter."""
    Path("hang").write_text("lock 1")
    code = (
        "from offrl.guard import Guard; import numpy as np\n"
        "env = Guard(3.0).make('stuck_worlds:Stuck-v0'); env.reset(seed=0)\n"
        "env.step(np.zeros(1, np.float32))"
    )
    process = python(f"import sys; sys.path.insert(0, {str(Path('code').resolve())!r})\n{code}")
    deadline = time.monotonic() + 200
    while not Path("hang.pid").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    gone(int(Path("hang.pid").read_text()))


def test_no_time_is_no_limit_and_what_is_made_here_cannot_be_watched():
    with pytest.raises(ConfigError, match="cannot have 0 s"), makers(0.0):
        pass
    made = make_env("Pendulum-v1")
    with pytest.raises(ConfigError, match="cannot be ended alone"):
        offrl.record(env=made, policies="random", episodes=1, out="me/a-v0", step_timeout=1.0)


def acting(**changes: Any) -> Any:
    settings: dict[str, Any] = {
        "out": "r",
        "hyperparameters": SMALL,
        "online": ONLINE,
        "compile": "off",
    }
    words: dict[str, Any] = settings | {"step_timeout": allowed()} | changes
    return offrl.fit_online("td3", "stuck_worlds:Stuck-v0", 100, **words)


def recorded(**changes: Any) -> Any:
    words: dict[str, Any] = {"policies": "random", "episodes": 4, "out": "me/stuck-v0"}
    words |= {"step_timeout": allowed()} | changes
    return offrl.record(env="stuck_worlds:Stuck-v0", **words)


def allowed() -> float:
    return SECONDS if Path("hang").exists() else 60.0


@pytest.mark.parametrize("work", [recorded, lambda: recorded(workers=2), acting])
def test_what_hangs_while_acting_is_ended_and_named(work: Callable[[], Any]):
    Path("hang").write_text("lock 30")
    with pytest.raises(WorkError, match=r"'Stuck-v0' at step 29 .* took longer than 3 s"):
        work()


def test_what_hangs_while_a_run_is_evaluated_is_ended_and_named():
    run = acting()
    Path("hang").write_text("sleep 5")
    with pytest.raises(WorkError, match=r"at step 4 .* took longer than 3 s"):
        offrl.evaluate(run, "stuck_worlds:Stuck-v0", episodes=2, step_timeout=SECONDS)


def test_a_run_whose_environment_hung_goes_on_to_the_bits_of_one_that_did_not():
    acting(out="whole")
    Path("hang").write_text("lock 70")
    with pytest.raises(WorkError, match="took longer"):
        acting()
    Path("hang").unlink()
    acting(resume=True)
    found = [checkpoints.newest(Path(out, "seed_0")) for out in ("whole", "r")]
    assert found[0] is not None
    assert found[1] is not None
    one, two = found[0].tensors, found[1].tensors
    assert all(np.array_equal(one[k].numpy(), two[k].numpy()) for k in one)


def test_a_recording_whose_environment_hung_goes_on_to_the_fingerprint_of_one_that_did_not():
    whole = recorded(out="me/whole-v0").fingerprint
    Path("hang").write_text("sleep 110")
    with pytest.raises(WorkError, match="took longer"):
        recorded()
    Path("hang").unlink()
    assert recorded(resume=True).fingerprint == whole
