"""IWPG with logged, fitted and wrong mu; IWPG and AWR from the same advantages. Prints two tables.

    python -m benchmarks.ratios --seeds 3 --data DIR

Data: offrl/pendulum/medium-v0 and offrl/cartpole/medium-v0, and 200 episodes of a cloned Gaussian
on the pendulum, which a Gaussian head can be. Wrong mu: the log-probability of the row before, or
of twice the spread. Every return is the mean of 50 episodes of each seed, Student-t over seeds.
"""

import argparse
import csv
import os
import tempfile
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import offrl
from offrl.algorithm import Algorithm, configure, start
from offrl.algos import get
from offrl.batch import Table
from offrl.data.dataset import Dataset
from offrl.errors import NotFoundError
from offrl.evaluation.statistics import interval
from offrl.learner import Learner, Progress, steps
from offrl.policy import Policy
from offrl.sampler import Sampler

SIZES: dict[str, Any] = {"hidden_size": 64, "lr": 1e-3}
STAGES: dict[str, Any] = {"behavior_steps": 1500, "value_steps": 500}
POLICY_STEPS, EPISODES = 1500, 50
GAUSSIAN = "lab/pendulum-gaussian-v0"
SETS = (GAUSSIAN, "offrl/cartpole/medium-v0", "offrl/pendulum/medium-v0")


@dataclass(frozen=True)
class Given(Sampler):
    """A sampler whose advantages are those that it is given."""

    given: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def with_columns(self, columns: dict[str, Tensor]) -> "Given":
        """The algorithm's columns but for the given ones."""
        return replace(self, columns={**columns, **self.given})


def main() -> None:
    """Collect what is missing, train, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, required=True, help="folder for the datasets")
    parser.add_argument("--only", choices=SETS, action="append", help="some of the datasets")
    asked = parser.parse_args()
    os.environ["MINARI_DATASETS_PATH"] = str(asked.data)
    torch.set_num_threads(1)
    sets = {id: gaussian() if id == GAUSSIAN else recorded(id) for id in asked.only or SETS}
    print(
        "| data | mu | return [interval] | first mean ratio | first ESS / n | warned |", flush=True
    )
    for name, data in sets.items():
        for mu, settings, logged in variants(data):
            print(f"| {name} | {mu} | {judged(logged, settings, asked.seeds)} |", flush=True)
    print("| data | algorithm | return [interval] | less AWR, by seed |", flush=True)
    for name, data in sets.items():
        for line in compared(data, asked.seeds):
            print(f"| {name} | {line} |", flush=True)


def recorded(id: str) -> Dataset:
    """A dataset of a recipe, collected where it is not there."""
    try:
        return offrl.load(id)
    except NotFoundError:
        return offrl.record(id)


def gaussian() -> Dataset:
    """200 episodes of a Gaussian that was cloned from the pendulum's medium behavior."""
    try:
        return offrl.load(GAUSSIAN)
    except NotFoundError:
        medium = recorded("offrl/pendulum/medium-v0")
        with tempfile.TemporaryDirectory() as folder:
            offrl.fit("bc", medium, steps=3000, out=f"{folder}/bc", compile="off", **SIZES)
            policy = f"run:{folder}/bc,stochastic"
            return offrl.record(env="Pendulum-v1", policies=[policy], episodes=200, out=GAUSSIAN)


def variants(data: Dataset) -> Iterator[tuple[str, dict[str, Any], Dataset]]:
    """mu in words, settings, and the data that carries it."""
    log_prob = data.transitions.behavior_log_prob
    yield "logged", {"behavior": "logged"}, data
    yield "fitted", {"behavior": "fitted"}, data
    yield "wrong: of the row before", {"behavior": "logged"}, copied(data, np.roll(log_prob, 1))
    if data.id == GAUSSIAN:
        yield "wrong: of twice the spread", {"behavior": "logged"}, copied(data, spread(data, 2.0))


def copied(data: Dataset, log_prob: np.ndarray) -> Dataset:
    """The same data with other log-probabilities."""
    rows = data.transitions
    return Dataset.from_arrays(
        rows.observations,
        rows.action,
        rows.reward,
        rows.terminated,
        rows.truncated,
        behavior_log_prob=log_prob,
        observation_space=data.spec.observation_space,
        action_space=data.spec.action_space,
        env=data.env_id,
        id="lab/wrong-v0",
    )


def spread(data: Dataset, times: float) -> np.ndarray:
    """Log-probabilities under the cloned Gaussian, fitted again, with `times` the deviation."""
    with tempfile.TemporaryDirectory() as folder:
        run = offrl.fit("bc", data, steps=3000, out=f"{folder}/bc", compile="off", **SIZES)
        network = run.policy().network
    table = Table.of(data.transitions)
    with torch.no_grad():
        pi: Any = network(table.observations[table.obs_row])
        return pi._replace(std=times * pi.std).log_prob(table.action).double().numpy()


def judged(data: Dataset, settings: dict[str, Any], seeds: int) -> str:
    """The rest of a row of the first table."""
    with tempfile.TemporaryDirectory() as folder:
        total = sum(STAGES.values()) + POLICY_STEPS
        run = offrl.fit(
            "iwpg",
            data,
            steps=total,
            seeds=range(seeds),
            out=f"{folder}/run",
            compile="off",
            **SIZES,
            **STAGES,
            **settings,
        )
        found = offrl.evaluate(run, data.env_id, episodes=EPISODES)
        first = [first_check(run.dir / f"seed_{seed}") for seed in range(seeds)]
        warned = sum("do not belong" in text for text in run.result["warnings"])
    returns = shown([one.return_mean for one in found.seeds])
    means, shares = (shown([one[name] for one in first]) for name in ("ratio_mean", "ess"))
    return f"{returns} | {means} | {shares} | {warned} of {seeds}"


def first_check(folder: Path) -> dict[str, float]:
    """Mean ratio and effective sample size before the policy's first step."""
    with (folder / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            if row.get("check/ess"):
                return {name: float(row[f"check/{name}"]) for name in ("ratio_mean", "ess")}
    raise RuntimeError(f"{folder} has no check.")


def compared(data: Dataset, seeds: int) -> Iterator[str]:
    """The rows of the second table: from one fit of V a seed, both algorithms with its A."""
    returns: dict[str, list[float]] = {"awr": [], "iwpg, fitted mu": []}
    table = Table.of(data.transitions)
    for seed in range(seeds):
        alone = made("awr", data, policy_steps=POLICY_STEPS)
        modules, now = trained(alone, table, seed, STAGES["value_steps"])
        advantage = alone.columns(Learner(modules, now.state), table, STAGES["value_steps"])
        given = {"advantage": advantage["advantage"]}
        for name in returns:
            algo, _, mu = name.partition(", ")
            settings = {"policy_steps": POLICY_STEPS} if algo == "awr" else {}
            settings |= {"behavior": mu.removesuffix(" mu")} if mu else {}
            one = made(algo, data, **settings)
            total = one.least_steps() - 1 + POLICY_STEPS
            modules, now = trained(one, table, seed, total, given)
            network = modules["policy"]
            network.load_state_dict(now.state["params"]["policy"] | now.state["buffers"]["policy"])
            acting = Policy(data.spec, network)
            found = offrl.evaluate(acting, data.env_id, episodes=EPISODES, seed=0)
            returns[name].append(found.return_mean)
    for name, values in returns.items():
        less = [a - b for a, b in zip(values, returns["awr"], strict=True)]
        yield f"{name} | {shown(values)} | {'' if name == 'awr' else shown(less)}"


def made(algo: str, data: Dataset, **settings: Any) -> Algorithm[Any]:
    """An algorithm of the sizes that are used here."""
    kind = get(algo)
    stages = STAGES if algo == "iwpg" else {"value_steps": STAGES["value_steps"]}
    return kind(configure(kind.Config, {**SIZES, **stages, **settings}), data.spec)


def trained(
    algorithm: Algorithm[Any],
    table: Table,
    seed: int,
    n: int,
    given: dict[str, Tensor] | None = None,
) -> tuple[dict[str, torch.nn.Module], Progress]:
    """Modules, and the state after n steps."""
    modules, state = start(algorithm, table, seed)
    rows, size = algorithm.rows(table), algorithm.config.batch_size
    sampler = Given(table, seed, size, rows, given=given or {})
    taken = steps(algorithm, modules, sampler, Progress(0, state, state, {}), n)
    return modules, deque(taken, maxlen=1)[0]


def shown(values: list[float]) -> str:
    """Mean and interval over seeds."""
    bounds = interval(values)
    ends = "" if bounds is None else f" [{bounds[0]:.4g}, {bounds[1]:.4g}]"
    return f"{np.mean(values):.4g}{ends}"


if __name__ == "__main__":
    main()
