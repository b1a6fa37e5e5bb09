"""kill -9 at random moments: fine-tuning ends in the bits of a run that was left alone.

OFFRL_KILLS says how many kills; the suite does with a few.
"""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import python

import offrl
from offrl import checkpoint as checkpoints
from offrl.online import training
from offrl.online.plan import resolve

KILLS = int(os.environ.get("OFFRL_KILLS", "3"))
ONLINE: dict[str, Any] = {
    "warmup": 100, "eval_every": 400, "eval_episodes": 1, "log_every": 20, "save_every": 90,
    "n_envs": 2,
}  # fmt: skip
CHILD = """
import json, sys, torch; torch.set_num_threads(1)
from offrl.online import training; from offrl.online.plan import resolve
given = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {"out": "killed", "resume": True}
for event in training.train(resolve(**given)):
    print(type(event).__name__, flush=True)
"""


def settings(env: str, out: str) -> dict[str, Any]:
    online = {**ONLINE, "record": f"me/{out}-v0"}
    return {
        "run": "log", "env": env, "env_steps": 100 * KILLS + 600, "out": out, "online": online,
        "compile": "off",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("env", ["Pendulum-v1", "Hopper-v5"])
def test_killed_at_random_moments_fine_tuning_ends_in_the_same_bits(env: str):
    offrl.record(env=env, policies="random", episodes=6, out="me/log-v0")
    small: dict[str, Any] = {"hidden_size": 16, "batch_size": 32, "compile": "off"}
    offrl.fit("td3-bc", "me/log-v0", out="log", steps=50, **small)
    list(training.train(resolve(**settings(env, "whole"))))
    chance, kills, first = (
        np.random.default_rng(len(env) + KILLS),
        0,
        [json.dumps(settings(env, "killed"))],
    )
    while kills < KILLS:
        process = python(CHILD, *first)
        try:
            assert process.stdout is not None
            for _ in range(int(chance.integers(1, 12))):
                process.stdout.readline()
                if Path("killed", "run.toml").exists():
                    first = []
            time.sleep(chance.uniform(0.0, 0.2))
            assert process.poll() is None, "the run is too short for so many kills"
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        kills += 1
    list(training.train(resolve(out="killed", resume=True)))
    found = [checkpoints.newest(Path(out, "seed_0")) for out in ("whole", "killed")]
    assert found[0] is not None
    assert found[1] is not None
    one, two = found[0].tensors, found[1].tensors
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert offrl.load("me/whole-v0").fingerprint == offrl.load("me/killed-v0").fingerprint
