"""offrl's policies beside d3rlpy's: `python -m benchmarks.quality REF [REF ...] --out FILE.csv`.

Both learn from the same transitions for the same number of steps of 256 rows with networks of the
same sizes, and are judged by offrl's evaluation over the same episodes. FILE.csv keeps one row a
run; a second call takes only those that are missing. The table that is printed is over seeds.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import offrl
from offrl.algos import get
from offrl.data.dataset import Dataset
from offrl.environments import env_for
from offrl.evaluation.rollouts import WIDTH, rollout
from offrl.evaluation.statistics import interval
from offrl.policy import threads

PEER_PYTHON = ".venv-d3rlpy/bin/python"
SETTINGS: dict[str, dict[str, Any]] = {"cql": {"conservatism": 5.0}}
FIELDS = ("dataset", "algo", "toolkit", "seed", "steps", "width", "return_mean", "seconds")
Columns = dict[str, np.ndarray]


def columns_of(data: Dataset) -> Columns:
    """The transitions as flat arrays; the last of a truncated episode keeps its next_obs."""
    t, spec = data.transitions, data.spec
    found: Columns = {
        "obs": t.obs,
        "next_obs": t.next_obs,
        "action": t.action,
        "reward": t.reward.astype(np.float32),
        "terminated": t.terminated.astype(np.float32),
        "n_actions": np.asarray(spec.action_dim),
    }
    if not spec.discrete:
        found |= {"low": spec.action_low, "high": spec.action_high}
    return found


def by_peer(
    algo: str, data: Dataset, steps: int, seed: int, width: int, episodes: int
) -> tuple[float, float]:
    """Mean return of d3rlpy's policy, and the seconds that training took."""
    name = "discrete-cql" if algo == "cql" and data.spec.discrete else algo
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "columns.npz")
        np.savez(path, allow_pickle=False, **columns_of(data))
        command = [PEER_PYTHON, "-m", "benchmarks.learner_d3rlpy", name, str(path)]
        command += [str(steps), str(seed), str(width)]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        asking, answers = process.stdin, process.stdout
        if asking is None or answers is None:
            raise RuntimeError("The peer's process has no pipes.")
        if answers.readline() != b"trained\n":
            raise RuntimeError(f"The peer ended with status {process.wait()}.")
        seconds = time.perf_counter() - start
        discrete, n = data.spec.discrete, data.spec.action_dim
        kind = np.dtype(np.int64 if discrete else np.float32)

        def act(obs: np.ndarray) -> np.ndarray:
            asking.write(np.ascontiguousarray(obs, np.float32).tobytes())
            asking.flush()
            size = WIDTH * kind.itemsize * (1 if discrete else n)
            action = np.frombuffer(answers.read(size), kind)
            return action if discrete else action.reshape(WIDTH, n)

        found = played(act, data, episodes)
        asking.close()
        process.wait(timeout=60)
    return found, seconds


def by_us(
    algo: str, data: Dataset, steps: int, seed: int, width: int, episodes: int
) -> tuple[float, float]:
    """Mean return of our policy, and the seconds that training took."""
    with tempfile.TemporaryDirectory() as folder:
        run = offrl.fit(
            algo,
            data,
            steps=steps,
            seeds=(seed,),
            out=Path(folder, "run"),
            holdout=0.0,
            hidden_size=width,
            save_every=steps,
            **SETTINGS.get(algo, {}),
        )
        seconds = run.result["wall_seconds"]
        policy = run.policy(seed)
        return played(policy.act, data, episodes), seconds


def played(act: Callable[[np.ndarray], np.ndarray], data: Dataset, episodes: int) -> float:
    """Mean undiscounted return over the episodes that every policy is judged by."""
    with threads(1):
        seen = rollout(act, data.spec, lambda: env_for(data), episodes=episodes, seed=10_000)
    return float(seen.returns.mean())


def rows_in(path: Path) -> list[dict[str, str]]:
    """The rows that are there already."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table(rows: list[dict[str, str]]) -> list[str]:
    """Markdown: one line for each dataset and algorithm, both sides with intervals over seeds."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        cell = found.setdefault((row["dataset"], row["algo"]), {})
        cell.setdefault(row["toolkit"], []).append(float(row["return_mean"]))
    lines = ["| dataset | algorithm | offrl | d3rlpy 2.8.1 | seeds | ours less theirs |"]
    lines.append("|---|---|---|---|---|---|")
    for (dataset, algo), cell in found.items():
        ours, theirs = cell.get("offrl", []), cell.get("d3rlpy", [])
        n = min(len(ours), len(theirs))
        paired = [a - b for a, b in zip(ours, theirs, strict=False)]
        cells = [f"{told(ours)}", f"{told(theirs)}", f"{n}", f"{told(paired)}"]
        lines.append(f"| {dataset} | {algo} | " + " | ".join(cells) + " |")
    return lines


def told(values: list[float]) -> str:
    """The mean of some seeds with its 95 % interval."""
    if not values:
        return "-"
    bounds = interval(values)
    near = "" if bounds is None else f" [{bounds[0]:.1f}, {bounds[1]:.1f}]"
    return f"{np.mean(values):.1f}{near}"


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("datasets", nargs="*")
    parser.add_argument("--algos", default="td3-bc,iql,cql,dqn")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    rows = rows_in(given.out)
    known = {tuple(row[k] for k in FIELDS[:6]) for row in rows}
    for ref in given.datasets:
        data = offrl.load(ref)
        kind = "discrete" if data.spec.discrete else "box"
        for algo in given.algos.split(","):
            if kind not in get(algo).spaces:
                continue
            for seed in range(given.seeds):
                for toolkit, side in (("offrl", by_us), ("d3rlpy", by_peer)):
                    key = (data.id, algo, toolkit, str(seed), str(given.steps), str(given.width))
                    if key in known:
                        continue
                    value, seconds = side(
                        algo, data, given.steps, seed, given.width, given.episodes
                    )
                    row = dict(zip(FIELDS, (*key, str(value), f"{seconds:.1f}"), strict=True))
                    print(" ".join(row.values()), file=sys.stderr, flush=True)
                    fresh = not given.out.exists()
                    with given.out.open("a", newline="") as file:
                        writer = csv.DictWriter(file, FIELDS)
                        if fresh:
                            writer.writeheader()
                        writer.writerow(row)
    print("\n".join(table(rows_in(given.out))))


if __name__ == "__main__":
    main()
