"""A run that is stopped, killed or resumed ends as one that was not; what fails is said."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from training_runs import (
    digest,
    last_state,
    outcome,
    python,
    saved_dataset,
    settings_of,
    tree,
)

from offrl import checkpoint, driving, training, workers
from offrl.algos import get
from offrl.checkpoint import newest
from offrl.data.dataset import Dataset
from offrl.errors import LockedError, NumericsError, OffrlError
from offrl.evaluation.evaluate import evaluate
from offrl.events import Diverged, Evaluated, Event, Finished, Saved, Started, Trained
from offrl.plan import resolve
from offrl.testing import toy_dataset
from offrl.training import fit, train

REF = "toy/box-v0"


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


def raise_at(seed: int, step: int, error: type[BaseException], kind: type[Any] = Trained) -> Any:
    def consume(event: Event) -> None:
        if isinstance(event, kind) and event.seed == seed and event.step >= step:
            raise error

    return consume


@pytest.mark.parametrize("algo", ["bc", "awr"])
def test_stopped_anywhere_a_run_ends_as_if_it_had_not_been(algo: str, tmp_path: Path):
    saved_dataset()
    given = settings_of(algo, seeds=(0, 4), holdout=0.25)
    whole = outcome(fit(algo, REF, out=tmp_path / "whole", **given).dir)
    for seed, step in ((0, 5), (0, 40), (4, 15), (4, 60)):
        with pytest.raises(RuntimeError):
            fit(
                algo,
                REF,
                out=tmp_path / "run",
                resume=True,
                **given,
                on_event=raise_at(seed, step, RuntimeError),
            )
    fit(algo, out=tmp_path / "run", resume=True, data=REF)
    assert outcome(tmp_path / "run") == whole


def test_ctrl_c_saves_where_the_run_stands(tmp_path: Path):
    saved_dataset()
    with pytest.raises(KeyboardInterrupt):
        fit(
            "bc",
            REF,
            out=tmp_path / "run",
            on_event=raise_at(0, 25, KeyboardInterrupt),
            **settings_of("bc"),
        )
    # All that step 24 had to do was done; step 25 was still reporting.
    assert last_state(tmp_path / "run" / "seed_0")[0] == "step_00000024"
    whole = outcome(fit("bc", REF, out=tmp_path / "whole", **settings_of("bc")).dir)
    fit("bc", REF, out=tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == whole


def test_a_generator_that_is_closed_saves_and_unlocks(tmp_path: Path):
    saved_dataset()
    plan = resolve("bc", REF, out=tmp_path / "run", steps=60, log_every=5, compile="off")
    events = train(plan)
    while not (isinstance(event := next(events), Trained) and event.step == 30):
        pass
    events.close()
    assert last_state(tmp_path / "run" / "seed_0")[0] == "step_00000029"
    fit("bc", REF, out=tmp_path / "run", resume=True)


def test_one_seed_of_several_equals_that_seed_alone(tmp_path: Path):
    saved_dataset()
    several = fit("awr", REF, out=tmp_path / "all", **settings_of("awr", seeds=(0, 1, 2)))
    alone = fit("awr", REF, out=tmp_path / "one", **settings_of("awr", seeds=(1,)))
    assert outcome(several.dir)["seed_1"] == outcome(alone.dir)["seed_1"]
    states = {name: found[1] for name, found in outcome(several.dir).items()}
    assert len(set(states.values())) == 3


def test_seeds_in_processes_of_their_own_have_the_bits_of_one_process(
    tmp_path: Path, spread: list[Any]
):
    saved_dataset()
    given = settings_of("awr", seeds=(0, 1, 2), holdout=0.25)
    events: list[Event] = []
    run = fit("awr", REF, out=tmp_path / "spread", on_event=events.append, **given)
    assert len(spread) == 2
    assert all(process.returncode == 0 for process in spread)
    assert {e.seed for e in events if isinstance(e, Finished)} == {0, 1, 2}
    spread.clear()
    with pytest.MonkeyPatch.context() as together:
        together.setattr(workers, "SPREAD_FROM", 10**9)
        lone = fit("awr", REF, out=tmp_path / "lone", **given)
    assert not spread
    assert outcome(run.dir) == outcome(lone.dir)


def test_a_worker_that_is_killed_takes_only_its_own_seeds_along(
    tmp_path: Path, spread: list["subprocess.Popen[str]"]
):
    saved_dataset()
    given = settings_of("bc", seeds=(0, 1), steps=400)

    def kill(event: Event) -> None:
        if isinstance(event, Saved) and event.seed == 1 and event.step == 21:
            os.kill(spread[1].pid, signal.SIGKILL)

    said = r"The process of seed 1 was ended by signal 9.*--resume"
    with pytest.raises(OffrlError, match=said):
        fit("bc", REF, out=tmp_path / "run", on_event=kill, **given)
    assert last_state(tmp_path / "run" / "seed_0")[0] == "step_00000400"
    with pytest.MonkeyPatch.context() as together:
        together.setattr(workers, "SPREAD_FROM", 10**9)
        fit("bc", REF, out=tmp_path / "run", resume=True)
        whole = fit("bc", REF, out=tmp_path / "whole", **given)
    assert outcome(tmp_path / "run") == outcome(whole.dir)


def test_workers_save_where_they_stand_when_their_parent_stops(
    tmp_path: Path, spread: list["subprocess.Popen[str]"]
):
    saved_dataset()
    given = settings_of("bc", seeds=(0, 1), steps=20_000, log_every=50, save_every=20_000)
    with pytest.raises(KeyboardInterrupt):
        fit("bc", REF, out=tmp_path / "run", **given, on_event=raise_at(0, 50, KeyboardInterrupt))
    assert all(process.returncode is not None for process in spread)
    found = newest(tmp_path / "run" / "seed_0")
    assert found is not None
    # Nothing but the stop saves between 0 and the end; step 50 was still reporting.
    assert 49 <= found.step < 20_000


CHILD = """
import json, os, sys
from offrl import workers
from offrl.training import fit
workers.SPREAD_FROM = int(sys.argv[4])
os.sched_getaffinity = lambda _: {0, 1}
settings = json.loads(sys.argv[3])
def tell(event):
    print(type(event).__name__, event.step, flush=True)
fit(sys.argv[1], "toy/box-v0", out=sys.argv[2], resume=True, on_event=tell, **settings)
"""


def kill_and_resume(
    algo: str, folder: Path, given: dict[str, Any], kills: int, seed: int, *, group: bool
) -> int:
    """Train in a process that is killed after a random number of events; how often it was."""
    rng, done = np.random.default_rng(seed), 0
    while True:
        spread_from = 1 if done < kills else 10**9  # the last sitting may be one process
        process = python(CHILD, algo, str(folder), json.dumps(given), str(spread_from))
        assert process.stdout is not None
        assert process.stderr is not None
        after = int(rng.integers(1, 120)) if done < kills else 10**9
        for number, _ in enumerate(process.stdout):
            if number == after:
                (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
                done += 1
        errors = process.stderr.read()
        process.stdout.close()
        process.stderr.close()
        code = process.wait()
        if code == 0:
            return done
        assert code == -signal.SIGKILL, errors


def test_killed_at_random_moments_one_seed_ends_as_if_it_had_not_been(tmp_path: Path):
    saved_dataset()
    given = settings_of("awr", steps=400)
    whole = outcome(fit("awr", REF, out=tmp_path / "whole", **given).dir)
    kill_and_resume("awr", tmp_path / "run", given, 2, 0, group=True)
    assert outcome(tmp_path / "run") == whole


def test_killed_at_a_random_moment_several_seeds_in_processes_end_alike(tmp_path: Path):
    saved_dataset()
    given = settings_of("bc", steps=400, seeds=(0, 1, 2))
    whole = outcome(fit("bc", REF, out=tmp_path / "whole", **given).dir)
    kill_and_resume("bc", tmp_path / "run", given, 1, 1, group=False)
    assert outcome(tmp_path / "run") == whole


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["bc", "awr"])
@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2, 3)])
@pytest.mark.parametrize(
    ("compile", "precision"), [("off", "fp32"), ("off", "bf16"), ("on", "fp32"), ("on", "bf16")]
)
def test_killed_at_random_moments_every_kind_of_run_ends_alike(
    algo: str, seeds: tuple[int, ...], compile: str, precision: str, tmp_path: Path
):
    saved_dataset()
    given = settings_of(algo, steps=400, seeds=seeds, compile=compile, precision=precision)
    assert kill_and_resume(algo, tmp_path / "whole", given, 0, 0, group=True) == 0
    kills = 3 if compile == "off" else 2
    kill_and_resume(algo, tmp_path / "run", given, kills, 7, group=len(seeds) == 1)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_a_seed_ends_in_the_same_bits_in_any_process(tmp_path: Path):
    """Hashes are salted anew in each, and torch is told to use one thread, then two."""
    saved_dataset()
    given = settings_of("awr", steps=30, hidden_size=256, batch_size=256)
    for threads in ("1", "2"):
        code = f"import os\nos.environ['OMP_NUM_THREADS'] = '{threads}'\n{CHILD}"
        process = python(code, "awr", str(tmp_path / threads), json.dumps(given), str(10**9))
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert outcome(tmp_path / "1") == outcome(tmp_path / "2")


def test_resuming_a_finished_run_does_nothing(tmp_path: Path):
    saved_dataset()
    fit("awr", REF, out=tmp_path / "run", **settings_of("awr", seeds=(0, 1)))
    before, events = tree(tmp_path / "run"), list[Event]()
    fit("awr", REF, out=tmp_path / "run", resume=True, on_event=events.append)
    assert tree(tmp_path / "run") == before
    assert [type(event) for event in events] == [Started, Finished] * 2


def test_a_run_uses_the_threads_it_says_and_gives_them_back(tmp_path: Path):
    saved_dataset()
    before, seen = torch.get_num_threads(), set[int]()
    run = fit(
        "bc",
        REF,
        out=tmp_path / "run",
        threads=2,
        **settings_of("bc", steps=10),
        on_event=lambda _: seen.add(torch.get_num_threads()),
    )
    assert seen == {2}
    assert torch.get_num_threads() == before
    assert run.run.settings.threads == 2


def test_a_folder_in_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(driving, "WAIT", 0.1)
    saved_dataset()
    plan = resolve("bc", REF, out=tmp_path / "run", steps=60, compile="off")
    events = train(plan)
    next(events)
    try:
        with pytest.raises(LockedError, match=r"Another process is training in .*run"):
            fit("bc", REF, out=tmp_path / "run", resume=True)
    finally:
        events.close()
    fit("bc", REF, out=tmp_path / "run", resume=True)


def poison(monkeypatch: pytest.MonkeyPatch, after: int = 9) -> None:
    """The reward scale of seed 1 becomes NaN once its value function took `after` steps."""
    start, awr = training.start, get("awr")
    update = awr.update

    def marked(algorithm: Any, table: Any, seed: int, precision: str) -> Any:
        modules, state = start(algorithm, table, seed, precision)
        state["adam"]["value"]["seed"] = torch.tensor(float(seed))
        return modules, state

    def poisoned(self: Any, learner: Any, batch: Any, stage: str) -> Any:
        adam = learner.state["adam"]["value"]
        if adam["seed"] == 1 and adam["t"] >= after:
            columns = {name: column * torch.nan for name, column in batch.columns.items()}
            batch = batch._replace(columns=columns)
        found, metrics = update(self, learner, batch, stage)
        found.state["adam"]["value"]["seed"] = adam["seed"]
        return found, metrics

    monkeypatch.setattr(training, "start", marked)
    monkeypatch.setattr(awr, "update", poisoned)


def test_a_seed_that_diverges_stops_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved_dataset()
    given, events = settings_of("awr", seeds=(0, 1, 2)), list[Event]()
    with monkeypatch.context() as clean:
        poison(clean, after=10**9)
        whole = fit("awr", REF, out=tmp_path / "whole", **{**given, "save_every": 9})
    poison(monkeypatch)
    said = r"Seed 1 has diverged: value/loss is nan at step 9\."
    with pytest.raises(NumericsError, match=said) as caught:
        fit("awr", REF, out=tmp_path / "run", on_event=events.append, **given)
    assert "Seed 0" not in str(caught.value)
    assert [(e.seed, e.step) for e in events if isinstance(e, Diverged)] == [(1, 9)]
    assert [e.seed for e in events if isinstance(e, Finished)] == [0, 2]
    kept, clean_run = tmp_path / "run" / "seed_1", whole.dir / "seed_1" / "checkpoints"
    assert last_state(kept) == (
        "step_00000009",
        digest(clean_run / "step_00000009" / "state.safetensors"),
    )
    for seed in ("seed_0", "seed_2"):
        assert outcome(tmp_path / "run")[seed] == outcome(whole.dir)[seed]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["diverged"] == {"1": "value/loss is nan at step 9."}


def test_a_diverged_seed_stays_so_when_the_run_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved_dataset()
    with monkeypatch.context() as bad:
        poison(bad)
        with pytest.raises(NumericsError):
            fit("awr", REF, out=tmp_path / "run", **settings_of("awr", seeds=(1, 2)))
    before, events = tree(tmp_path / "run"), list[Event]()
    with pytest.raises(NumericsError, match=r"Seed 1 has diverged: value/loss is nan at step 9"):
        fit("awr", REF, out=tmp_path / "run", resume=True, on_event=events.append)
    assert tree(tmp_path / "run") == before
    assert [type(e) for e in events if e.seed == 1] == [Started, Diverged]


def test_a_loss_that_is_not_finite_at_once_leaves_the_first_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved_dataset()
    poison(monkeypatch, after=0)
    with pytest.raises(NumericsError, match="value/loss is nan at step 0"):
        fit("awr", REF, out=tmp_path / "run", **settings_of("awr", seeds=(1,)))
    assert last_state(tmp_path / "run" / "seed_1")[0] == "step_00000000"


def memory(obs: Callable[[np.ndarray], np.ndarray] = lambda o: o, **changes: Any) -> Dataset:
    data = toy_dataset(discrete=False, **{"episodes": 12, **changes})
    episodes = list(data)
    rows = np.concatenate([episode.observations for episode in episodes])
    ends = np.concatenate([episode.terminations for episode in episodes])
    cuts = np.concatenate([episode.truncations for episode in episodes])
    return Dataset.from_arrays(
        obs(rows).astype(np.float32),
        np.concatenate([episode.actions for episode in episodes]),
        np.concatenate([episode.rewards for episode in episodes]),
        ends,
        cuts,
        action_space=data.spec.action_space,
    )


def notes_of(run: Callable[[Any], Any]) -> list[str]:
    events: list[Event] = []
    run(events.append)
    return [note for event in events if isinstance(event, Started) for note in event.notes]


@pytest.mark.parametrize("value", [0.0, 1.0, 1e6, 0.1])
def test_a_constant_feature_is_reported_and_trains(value: float, tmp_path: Path):
    def with_constant(rows: np.ndarray) -> np.ndarray:
        return np.concatenate([rows[:, :1], np.full_like(rows[:, :1], value)], axis=1)

    data = memory(with_constant)
    notes = notes_of(
        lambda tell: fit("awr", data, out=tmp_path / "run", on_event=tell, **settings_of("awr"))
    )
    assert "obs columns [1] never change: they are centred and not scaled." in notes
    state = getattr(newest(tmp_path / "run" / "seed_0"), "tensors", {})
    assert all(bool(tensor.isfinite().all()) for tensor in state.values())
    assert float(state["state/buffers/policy/normalize.obs_std"][1]) == 1.0


def test_a_feature_in_small_units_is_scaled_like_any_other(tmp_path: Path):
    run = fit("bc", memory(lambda rows: rows * 1e-9), out=tmp_path / "small", **settings_of("bc"))
    tensors = run.checkpoint(0).tensors
    assert float(tensors["state/buffers/policy/normalize.obs_std"].max()) < 1e-8


def test_an_action_without_bounds_that_never_changes_trains(tmp_path: Path):
    ends = np.arange(20) % 5 == 4
    data = Dataset.from_arrays(
        np.random.default_rng(0).normal(size=(24, 2)).astype(np.float32),
        np.full((20, 1), 1000.0, np.float32),
        np.ones(20),
        ends,
        np.zeros(20, bool),
    )
    run = fit("awr", data, out=tmp_path / "run", **settings_of("awr"))
    assert float(run.policy().predict(np.zeros(2, np.float32))[0]) == pytest.approx(
        1000.0, rel=1e-5
    )


@pytest.mark.parametrize("algo", ["bc", "awr"])
def test_one_short_episode_trains_with_a_note(algo: str, tmp_path: Path):
    data = toy_dataset(discrete=True, episodes=1)
    notes = notes_of(
        lambda tell: fit(algo, data, out=tmp_path / "run", on_event=tell, **settings_of(algo))
    )
    assert notes == [
        "5 transitions are fewer than a batch of 16: a batch holds each several times."
    ]


def test_held_out_episodes_enter_no_statistic_and_no_loss(tmp_path: Path):
    clean, spoiled = saved_dataset(), toy_dataset(discrete=False, episodes=12)
    held = resolve("awr", clean, holdout=0.25).run.held_out
    episodes = list(spoiled)
    for number in held:
        episodes[number].observations[:] = 500.0
        episodes[number].rewards[:] = -7.0
    other = Dataset.from_episodes(episodes, clean.spec.observation_space, clean.spec.action_space)
    given = settings_of("awr", holdout=0.25)
    one = fit("awr", clean, out=tmp_path / "one", **given)
    two = fit("awr", other, out=tmp_path / "two", **given)
    assert last_state(one.dir / "seed_0") == last_state(two.dir / "seed_0")
    held_rows = [(run.dir / "seed_0" / "metrics.csv").read_text() for run in (one, two)]
    assert "holdout/log_prob" in held_rows[0]
    assert held_rows[0] != held_rows[1]


def pendulum() -> Dataset:
    rng, n = np.random.default_rng(0), 40
    space = gym.spaces.Box(-2, 2, (1,), np.float32)
    data = Dataset.from_arrays(
        rng.normal(size=(n + 4, 3)).astype(np.float32),
        rng.uniform(-2, 2, (n, 1)).astype(np.float32),
        rng.normal(size=n),
        np.zeros(n, bool),
        np.arange(n) % 10 == 9,
        action_space=space,
        env="Pendulum-v1",
    )
    return data.save("toy/pendulum-v0")


def test_evaluations_while_training_are_logged_and_repeat_when_resumed(tmp_path: Path):
    pendulum()
    given = settings_of("bc", steps=20, eval_every=8, eval_episodes=1)
    events: list[Event] = []
    whole = fit("bc", "toy/pendulum-v0", out=tmp_path / "whole", on_event=events.append, **given)
    assert [e.step for e in events if isinstance(e, Evaluated)] == [8, 16, 20]
    assert "eval/return_mean" in (whole.dir / "seed_0" / "metrics.csv").read_text()
    with pytest.raises(RuntimeError):
        fit(
            "bc",
            "toy/pendulum-v0",
            out=tmp_path / "run",
            **given,
            on_event=raise_at(0, 16, RuntimeError, Evaluated),
        )
    fit("bc", "toy/pendulum-v0", out=tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == outcome(whole.dir)


def test_an_environment_that_fails_while_training_costs_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from offrl.errors import EnvError

    def broken(*_: Any, **__: Any) -> Any:
        raise EnvError("The simulator fell over.", "Restart it.")

    pendulum()
    monkeypatch.setattr(training, "evaluate", broken)
    with pytest.raises(EnvError, match="fell over"):
        fit(
            "bc",
            "toy/pendulum-v0",
            out=tmp_path / "run",
            **settings_of("bc", steps=20, eval_every=11, save_every=20),
        )
    assert last_state(tmp_path / "run" / "seed_0")[0] == "step_00000010"


def test_the_result_says_what_was_done(tmp_path: Path):
    data = saved_dataset()
    run = fit("bc", REF, out=tmp_path / "run", **settings_of("bc", seeds=(0, 1), holdout=0.25))
    result = run.result
    assert result["algo"] == "bc"
    assert result["dataset"] == REF
    assert result["fingerprint"] == data.fingerprint
    assert (result["steps"], result["seeds"], result["held_out_episodes"]) == (60, [0, 1], 3)
    assert result["steps_per_second"] > 0
    assert result["wall_seconds"] > 0
    assert result["format"] == 1
    assert not list(run.dir.rglob("*.tmp*"))


def test_training_leaves_the_callers_random_numbers_alone(tmp_path: Path):
    saved_dataset()
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    fit("bc", REF, out=tmp_path / "run", **settings_of("bc", steps=5))
    assert torch.equal(torch.randn(3), expected)


def test_step_zero_is_a_checkpoint(tmp_path: Path):
    saved_dataset()
    run = fit("bc", REF, out=tmp_path / "run", **settings_of("bc", steps=10))
    assert list(checkpoint.folders(run.dir / "seed_0")) == [0, 7, 10]


def test_a_run_in_bfloat16_is_evaluated_as_its_loaded_policy_acts():
    pendulum()
    seen: list[Evaluated] = []
    given = settings_of("bc", steps=20, eval_every=20, eval_episodes=2, precision="bf16")
    run = fit(
        "bc",
        "toy/pendulum-v0",
        on_event=lambda e: seen.append(e) if isinstance(e, Evaluated) else None,
        **{**given, "hidden_size": 64},
    )
    loaded = evaluate(run, "Pendulum-v1", episodes=2, seed=0)
    assert seen[-1].evaluation["return_mean"] == loaded.return_mean


IN_CALLBACKS = """
import sys, time, weakref
from offrl.workers import stop_with_parent
class Thing: pass
stop_with_parent()
try:
    print("ready", flush=True)
    while True:  # nearly all the time goes by in callbacks, which drop what is raised in them
        thing = Thing()
        reference = weakref.ref(thing, lambda _: time.sleep(0.01))
        del thing
        time.sleep(0.001)
except KeyboardInterrupt:
    print("saved", flush=True)
"""


def test_a_stop_that_falls_into_a_callback_is_not_lost():
    process = subprocess.Popen(
        [sys.executable, "-c", IN_CALLBACKS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    told, errors = process.communicate("", timeout=60)
    assert (process.returncode, told, errors) == (0, "saved\n", "")
