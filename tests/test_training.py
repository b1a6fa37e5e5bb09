"""A run that is stopped, killed or resumed ends as one that was not; what fails is said."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interrupting import Lines
from training_runs import (
    last_state,
    outcome,
    python,
    raise_at,
    saved_dataset,
    settings_of,
    tree,
)

from offrl import driving, workers
from offrl.checkpoint import TrainedRun, newest
from offrl.errors import LockedError, OffrlError
from offrl.events import Event, Finished, Saved, Started, Trained
from offrl.plan import resolve
from offrl.training import fit, train

REF = "toy/box-v0"


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


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("algo", ["bc", "awr"])
def test_interrupted_at_any_line_a_run_ends_as_if_it_had_not_been(algo: str, tmp_path: Path):
    saved_dataset()

    def run(out: str) -> TrainedRun:
        return fit(algo, REF, out=tmp_path / out, resume=True, **settings_of(algo, holdout=0.25))

    total, chance = Lines(lambda: run("whole")).count, np.random.default_rng(0)
    for number in range(100):
        stopped = Lines(lambda out=f"cut-{number}": run(out), int(chance.integers(1, total)))
        again = run(f"cut-{number}")
        assert outcome(again.dir) == outcome(tmp_path / "whole"), stopped.where
        assert not [path for path in again.dir.rglob("*") if path.name.endswith(".tmp")]


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
    given = settings_of("bc", seeds=(0, 1), steps=1000)

    def kill(event: Event) -> None:
        if isinstance(event, Saved) and event.seed == 1 and event.step == 21:
            os.kill(spread[1].pid, signal.SIGKILL)

    said = r"The process of seed 1 was ended by signal 9.*--resume"
    with pytest.raises(OffrlError, match=said):
        fit("bc", REF, out=tmp_path / "run", on_event=kill, **given)
    assert last_state(tmp_path / "run" / "seed_0")[0] == "step_00001000"
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


SLOWLY = """
import _thread, time
start = _thread.start_new_thread
def slow(*given):  # once
    _thread.start_new_thread = start
    start(*given)
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        pass
_thread.start_new_thread = slow
"""


@pytest.mark.parametrize("before", ["", SLOWLY], ids=["quick", "and into what tells of it"])
def test_a_stop_that_falls_into_a_callback_is_not_lost(before: str):
    process = python(before + IN_CALLBACKS, stdin=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    told, errors = process.communicate("", timeout=200)
    assert (process.returncode, told, errors) == (0, "saved\n", "")


SAVES = """
import signal, sys, time
from offrl import workers
workers.GRACE, workers.SAVING = 2.0, float(sys.argv[1])
workers.stop_with_parent()
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
try:
    print("ready", flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    time.sleep(5.0)
    print("saved", flush=True)
"""


@pytest.mark.parametrize(
    ("saving", "hears", "status", "said"),
    [(200.0, "well", 0, "saved\n"), (0.0, "well", 1, ""), (200.0, "deaf", 1, "")],
    ids=["it saves for long", "it saves for ever", "it never takes the stop"],
)
def test_a_worker_has_little_time_to_take_a_stop_and_much_to_save(
    saving: float, hears: str, status: int, said: str
):
    process = python(SAVES, str(saving), hears, stdin=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    told, _ = process.communicate("", timeout=200)
    assert (process.returncode, told) == (status, said)
