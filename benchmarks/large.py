"""Datasets of many steps: how soon they open, and whether they train without filling memory.

    python -m benchmarks.large open  [--steps 1000000]    first and later loads beside Minari
                                                 of sets that Minari and that offrl wrote
    python -m benchmarks.large train [--gigabytes 3]      mapped against in memory, RssAnon

Datasets are made below --root (a temporary folder by default) and left there if it is named.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import minari
import numpy as np
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from offrl.data.dataset import load
from offrl.data.episodes import Episode
from offrl.data.writer import Writer

LENGTH = 1000


def episodes(n: int, obs_dim: int, action_dim: int, dtype: type) -> Iterator[Episode]:
    """n episodes of noise, each cut off after LENGTH steps."""
    rng = np.random.default_rng(0)
    for number in range(n):
        yield Episode(
            id=number,
            observations=rng.standard_normal((LENGTH + 1, obs_dim), np.float32).astype(dtype),
            actions=rng.uniform(-1, 1, (LENGTH, action_dim)).astype(np.float32),
            rewards=rng.standard_normal(LENGTH),
            terminations=np.zeros(LENGTH, bool),
            truncations=np.arange(LENGTH) == LENGTH - 1,
            infos={},
            seed=None,
        )


def make(id: str, n: int, obs_dim: int, action_dim: int, dtype: type) -> None:
    """Write the dataset unless it is there."""
    try:
        load(id)
        return
    except Exception as missing:
        print(f"making {id}: {missing.__class__.__name__}", file=sys.stderr)
    observation = spaces.Box(-np.inf, np.inf, (obs_dim,), dtype)
    action = spaces.Box(-1, 1, (action_dim,), np.float32)
    with Writer(id, observation, action, shard_episodes=64, keep_unfinished=False) as writer:
        for episode in episodes(n, obs_dim, action_dim, dtype):
            writer.add(episode)


def make_with_minari(id: str, n: int) -> None:
    """Let Minari write a dataset of HalfCheetah's shape, unless it is there."""
    if (Path(os.environ["MINARI_DATASETS_PATH"]) / id).exists():
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it misses an environment and who made the data
        minari.create_dataset_from_buffers(
            id,
            [
                EpisodeBuffer(
                    id=e.id,
                    observations=e.observations,
                    actions=e.actions,
                    rewards=list(e.rewards),
                    terminations=list(e.terminations),
                    truncations=list(e.truncations),
                )
                for e in episodes(n, 17, 6, np.float64)
            ],
            observation_space=spaces.Box(-np.inf, np.inf, (17,), np.float64),
            action_space=spaces.Box(-1, 1, (6,), np.float32),
        )


def timed(code: str) -> float:
    """Seconds that a statement takes in a process of its own, imports aside."""
    program = (
        "import sys, time, h5py, minari, numpy as np\n"
        "import offrl.data.catalogue, offrl.data.hdf5_store, offrl.data.minari_store\n"
        "from offrl.data.dataset import load\n"
        f"t = time.perf_counter()\n{code}\nprint(time.perf_counter() - t)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def opening(steps: int, writer: str) -> dict[str, float]:
    """Seconds of Minari's iteration, of our first load and of a later one, HalfCheetah's shape."""
    id = f"bench/halfcheetah{steps}-{writer}-v0"
    if writer == "minari":
        make_with_minari(id, steps // LENGTH)
    else:
        make(id, steps // LENGTH, 17, 6, np.float64)
    cache = Path(load(id).path or "") / ".offrl-cache"
    read = "for e in minari.load_dataset(ID).iterate_episodes(): e.observations.sum()"
    rounds: dict[str, list[float]] = {"minari": [], "first": [], "later": []}
    for _ in range(5):
        rounds["minari"].append(timed(read.replace("ID", repr(id))))
        shutil.rmtree(cache, ignore_errors=True)
        for name in ("first", "later"):
            rounds[name].append(timed(f"load({id!r}).transitions"))
    ratios = np.array(rounds["first"]) / np.array(rounds["minari"])
    medians = {name: float(np.median(seconds)) for name, seconds in rounds.items()}
    named = zip(
        ("ratio", "ratio_least", "ratio_most"), np.quantile(ratios, [0.5, 0, 1]), strict=True
    )
    return medians | {name: float(value) for name, value in named}


TRAIN = """
import json, sys, time, numpy as np, torch
torch.set_num_threads(1)
from dataclasses import replace
from offrl.algorithm import start
from offrl.algos import get
from offrl.batch import Table
from offrl.data.dataset import load
from offrl.learner import Progress, make_update, steps
from offrl.sampler import Sampler
data = load(sys.argv[1])
columns = data.transitions
if sys.argv[2] == "memory":
    columns = replace(columns, observations=np.array(columns.observations))
table, algorithm = Table.of(columns), get("bc")(get("bc").Config(), data.spec)
modules, state = start(algorithm, table, 0)
sampler, update = Sampler(table, 0, 256), make_update(algorithm, modules)
begun = None
for now in steps(algorithm, modules, sampler, Progress(0, state, state, {}), 1200, update):
    if now.step == 200:
        begun = time.perf_counter()
rate = 1000 / (time.perf_counter() - begun)
status = open("/proc/self/status").read()
anonymous = int(status.split("RssAnon:")[1].split()[0]) / 1024
print(json.dumps({"steps_per_second": rate, "anonymous_megabytes": anonymous}))
"""


def training(gigabytes: float) -> dict[str, dict[str, float]]:
    """Steps per second and anonymous memory of BC, columns mapped and in memory; median of 3."""
    n = int(gigabytes * 2**30 / (376 * 4 * LENGTH))
    id = f"bench/humanoid{n}-v0"
    make(id, n, 376, 17, np.float32)
    found: dict[str, list[dict[str, float]]] = {"mapped": [], "memory": []}
    for _ in range(3):
        for how, results in found.items():
            words = [sys.executable, "-c", TRAIN, id, how]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            results.append(json.loads(done.stdout))
    return {
        how: {key: float(np.median([r[key] for r in results])) for key in results[0]}
        for how, results in found.items()
    }


def main() -> None:
    """Run one of the two and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["open", "train"])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--root", type=Path)
    words = parser.parse_args()
    root = words.root or Path(tempfile.mkdtemp())
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    try:
        if words.what == "open":
            found = {writer: opening(words.steps, writer) for writer in ("minari", "offrl")}
        else:
            found = training(words.gigabytes)
        print(json.dumps(found, indent=2))
    finally:
        if words.root is None:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
