"""Ten policies judged from a log, beside what they are worth: `python -m benchmarks.ope_truth`.

    python -m benchmarks.ope_truth offrl/cartpole/medium-v0 cartpole/large.json --out FILE.csv

FILE.csv gets a row for each policy and estimator; a second call goes on with the datasets that are
not in it.

The ten are the imitation of the log, sharpened, flattened and mixed with uniform actions, so that
they lie at known distances from it. Their values are means of discounted returns over rollouts in
the environment without its time limit, until what is left is a thousandth. The imitation learns
from one half of the episodes and the other half judges. No estimate is refused
here (`min_ess=0`): the table shows what would have been, with and without five effective episodes.
"""

import argparse
import csv
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

import offrl
from offrl.data.dataset import Dataset
from offrl.distributions import Categorical, Gaussian
from offrl.evaluation.statistics import interval
from offrl.policy import Policy, threads

FIELDS = (
    *("dataset", "policy", "truth", "truth_lo", "truth_hi", "ess"),
    *("estimator", "value", "lo", "hi"),
)
ESTIMATORS = ("fqe", "dr", "wis", "wpdis")
# How sharp (of log-probabilities, or the inverse of a deviation), and how much is uniform.
SHARPNESS = (1.0, 1.5, 3.0, 0.5, 1.0, 1.0, 1.0, 1.5, 3.0, 0.0)
UNIFORM = (0.0, 0.0, 0.0, 0.0, 0.1, 0.3, 0.6, 0.1, 0.3, 0.0)
SCALE = {"pendulum_medium_sac_50eps": 2.0}  # logged in [-1, 1], where the environment has [-2, 2]
Acting = Callable[[np.ndarray], Any]


def candidates(policy: Policy) -> Iterator[tuple[str, Acting]]:
    """Ten policies around an imitation of the log, as functions that `offrl.judge` takes."""
    for sharp, uniform in zip(SHARPNESS, UNIFORM, strict=True):
        yield f"sharp={sharp:g} uniform={uniform:g}", _around(policy, sharp, uniform)


def _around(policy: Policy, sharp: float, uniform: float) -> Acting:
    def act(obs: np.ndarray) -> Any:
        with torch.no_grad():
            pi = policy.network(torch.as_tensor(obs))
        if isinstance(pi, Categorical):
            probability = torch.softmax(sharp * pi.log_probs, -1).numpy()
            mixed = (1 - uniform) * probability + uniform / probability.shape[1]
            return mixed / mixed.sum(1, keepdims=True)
        if not isinstance(pi, Gaussian):
            raise TypeError(f"{type(pi).__name__} has no sharpness.")
        # No Gaussian is a mixture with uniform actions: its mean moves to the middle instead.
        middle = (pi.low + pi.high) / 2
        mean = (1 - uniform) * pi.mean + uniform * middle
        return mean.numpy(), (pi.std / max(sharp, 0.25)).expand_as(mean).numpy()

    return act


def truth(act: Acting, data: Dataset, discount: float, episodes: int, scale: float) -> np.ndarray:
    """Discounted returns of rollouts, [episodes]; all environments step side by side."""
    steps = math.ceil(math.log(1e-3) / math.log(discount))
    if data.env_id is None:
        raise ValueError(f"{data.id} names no environment.")
    envs = [gymnasium.make(data.env_id, max_episode_steps=steps) for _ in range(episodes)]
    obs = np.stack([env.reset(seed=k)[0] for k, env in enumerate(envs)]).astype(np.float32)
    rng, going = np.random.default_rng(0), np.ones(episodes, bool)
    found = np.zeros(episodes)
    for t in range(steps):
        actions = _drawn(act(obs), data, rng) * scale
        for k in np.flatnonzero(going):
            given = int(actions[k]) if data.spec.discrete else actions[k].astype(np.float32)
            seen, reward, terminated, _, _ = envs[k].step(given)
            obs[k], going[k] = seen, not terminated
            found[k] += discount**t * float(reward)
        if not going.any():
            break
    for env in envs:
        env.close()
    return found


def _drawn(answer: Any, data: Dataset, rng: np.random.Generator) -> np.ndarray:
    if isinstance(answer, tuple):
        mean, std = answer
        low, high = data.spec.action_low, data.spec.action_high
        return np.clip(mean + std * rng.standard_normal(mean.shape), low, high)
    below = answer.cumsum(1) < rng.random((len(answer), 1))
    return below.sum(1).clip(max=answer.shape[1] - 1) + data.spec.action_start


def opened(ref: str) -> Dataset:
    """A dataset by its id, recorded where it is not there, or an RLlib log."""
    if Path(ref).is_file():
        env = "CartPole-v1" if "cartpole" in ref else "Pendulum-v1"
        return offrl.import_file(ref, env=env)
    try:
        return offrl.load(ref)
    except offrl.OffrlError:
        offrl.record(ref)
        return offrl.load(ref)


def measure(ref: str, out: Path, args: argparse.Namespace) -> None:
    """Judge the ten on one dataset and add their rows to `out`."""
    name = Path(ref).stem if Path(ref).is_file() else ref
    if any(row["dataset"] == name for row in rows_in(out)):
        return
    data = opened(ref)
    folder = out.parent / f"{out.stem}-runs" / name
    settings: dict[str, Any] = {"steps": 2000, "holdout": 0.5, "hidden_size": 64, "compile": "off"}
    run = offrl.fit("bc", data, out=folder, resume=(folder / "run.toml").exists(), **settings)
    policies = dict(candidates(run.policy()))
    scale, worth = SCALE.get(name, 1.0), dict[str, np.ndarray]()
    with threads(1):
        for policy, act in policies.items():
            worth[policy] = truth(act, data, args.discount, args.episodes, scale)
    given: dict[str, Any] = {"fqe_steps": args.fqe_steps, "fqe_seeds": args.fqe_seeds}
    found = offrl.judge(
        list(policies.values()),
        data.select(run.run.held_out),
        discount=args.discount,
        estimators=ESTIMATORS,
        min_ess=0.0,
        **given,
    )
    rows: list[tuple[Any, ...]] = []
    for policy, (_, findings) in zip(policies, found.candidates, strict=True):
        low, high = interval(worth[policy]) or (math.nan, math.nan)
        first = (name, policy, float(worth[policy].mean()), low, high, findings.ess)
        for estimator, one in findings.estimates.items():
            rows.append((*first, estimator, one.value, *(one.bounds or ("", ""))))
    fresh = not out.exists()
    with out.open("a", newline="") as file:
        csv.writer(file).writerows([FIELDS, *rows] if fresh else rows)


def rows_in(path: Path) -> list[dict[str, str]]:
    """The rows that are there already."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table(rows: list[dict[str, str]], least: float) -> list[str]:
    """Markdown: of the policies with `least` effective episodes, how well each estimator does."""
    lines = [
        "| dataset | estimator | policies | rank correlation | regret@1 | mean error | coverage |",
        "|---|---|---|---|---|---|---|",
    ]
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        for estimator in ESTIMATORS:
            mine = [r for r in rows if (r["dataset"], r["estimator"]) == (dataset, estimator)]
            best = max((float(r["truth"]) for r in mine), default=math.nan)
            worst = min((float(r["truth"]) for r in mine), default=math.nan)
            if estimator != "fqe":
                mine = [r for r in mine if float(r["ess"] or 0) >= least]
            mine = [r for r in mine if r["value"] and math.isfinite(float(r["value"]))]
            cells = [dataset, estimator, str(len(mine))]
            if len(mine) > 2:
                true, value = (np.array([float(r[k]) for r in mine]) for k in ("truth", "value"))
                held = [_holds(r) for r in mine if r["lo"]]
                regret = (best - true[value.argmax()]) / max(best - worst, 1e-12)
                cells += [
                    f"{correlation(true, value):.2f}",
                    f"{regret:.0%} of the range",
                    f"{np.mean(value - true):+.3g}",
                    f"{np.mean(held):.0%} of {len(held)}",
                ]
            lines.append("| " + " | ".join([*cells, "", "", "", ""][:7]) + " |")
    return lines


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation."""
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])


def _holds(row: dict[str, str]) -> bool:
    low, true, high = (float(row[key]) for key in ("lo", "truth", "hi"))
    return low <= true <= high


def main() -> None:
    """Measure what is missing and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("datasets", nargs="*", metavar="REF")
    parser.add_argument("--out", type=Path, default=Path("ope_truth.csv"))
    parser.add_argument("--discount", type=float, default=0.95)
    parser.add_argument("--episodes", type=int, default=200, help="rollouts of each policy")
    parser.add_argument("--fqe-steps", type=int, default=3000)
    parser.add_argument("--fqe-seeds", type=int, default=3)
    args = parser.parse_args()
    for ref in args.datasets:
        measure(ref, args.out, args)
    rows = rows_in(args.out)
    for title, least in (("all", 0.0), ("five effective episodes or more", 5.0)):
        print(f"\n{title}\n")
        print("\n".join(table(rows, least)))


if __name__ == "__main__":
    main()
