"""Steps a second of recording, per second of processor time, beside a loop that keeps nothing.

    random, built-in    offrl.record against a loop of `action_space.sample` and `env.step`
    agents              offrl.record of an agent of Stable-Baselines3 against a loop of `predict`
                        and `env.step` of that library, installed elsewhere

What is recorded is written, checksummed and put together; that time is counted, children included.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gymnasium

from benchmarks.one_core import stay_on_one_core
from offrl.collect.recorder import record

PLAIN = (
    ("Pendulum-v1", "random", 300),
    ("Pendulum-v1", "pendulum-swing-up", 300),
    ("Pendulum-v1", "pendulum-swing-up,noise=0.3", 300),
    ("HalfCheetah-v5", "random", 20),
)
AGENTS = (
    ("Pendulum-v1", "ppo/Pendulum-v1", 50),
    ("CartPole-v1", "ppo/CartPole-v1", 20),
    ("Hopper-v5", "trpo/Hopper-v3", 10),
    ("HalfCheetah-v5", "sac/HalfCheetah-v3", 10),
)


def processor_seconds() -> float:
    """Return what this process and those it waited for have used."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def rate(work: Callable[[], int]) -> float:
    """Return the steps that `work` counts per second of processor time."""
    started = processor_seconds()
    steps = work()
    return steps / (processor_seconds() - started)


def bare(env_id: str, episodes: int) -> int:
    """Step an environment with random actions and keep nothing."""
    env = gymnasium.make(env_id)
    env.action_space.seed(0)
    steps = 0
    for number in range(episodes):
        env.reset(seed=number)
        ended = False
        while not ended:
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            ended = terminated or truncated
            steps += 1
    env.close()
    return steps


def recorded(env_id: str, policy: str, episodes: int) -> int:
    """Record into the dataset root of this process."""
    return record(
        env=env_id, policies=policy, episodes=episodes, out="bench/made-v0", overwrite=True
    ).n_steps


def measure(rounds: int, peer: str | None, agents: Path | None) -> dict[str, dict[str, float]]:
    """Return and print medians of interleaved measurements, and their ratios."""
    stay_on_one_core()
    found: dict[str, dict[str, float]] = {}
    for env_id, policy, episodes in PLAIN:
        bare_loop = partial(bare, env_id, episodes)
        recording = partial(recorded, env_id, policy)
        recording(1)  # imports and caches are not what is timed
        pairs = [(rate(bare_loop), rate(partial(recording, episodes))) for _ in range(rounds)]
        found[f"{env_id} {policy}"] = _told(f"{env_id} {policy}", "loop", pairs)
    if peer is None or agents is None:
        return found
    for env_id, name, episodes in AGENTS:
        path = f"{agents}/{name}.zip"
        recording = partial(recorded, env_id, f"sb3:{path}")
        recording(1)
        words = [peer, "-m", "benchmarks.contender_sb3", env_id, path, str(episodes)]
        pairs = []
        for _ in range(rounds):
            theirs = subprocess.run(words, check=True, capture_output=True, text=True)
            ours = rate(partial(recording, episodes))
            pairs.append((float(theirs.stdout.splitlines()[-1]), ours))
        found[f"{env_id} {name}"] = _told(f"{env_id} {name}", "predict", pairs)
    return found


def _told(name: str, other: str, pairs: list[tuple[float, float]]) -> dict[str, float]:
    theirs, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"{name:45} {other} {theirs:8.0f}/s   record {ours:8.0f}/s   ratio {ours / theirs:.2f}")
    return {other: theirs, "record": ours, "ratio": ours / theirs}


def main() -> None:
    """Measure and print; with `--json` also one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recorder", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", help="a Python that has stable-baselines3 and sb3-contrib")
    parser.add_argument("--agents", type=Path, help="a folder of ALGO/ENV.zip")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        os.environ["MINARI_DATASETS_PATH"] = root
        found = measure(given.rounds, given.peer, given.agents)
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
