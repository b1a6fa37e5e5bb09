"""Ten policies judged from a log, beside what they are worth: `python -m benchmarks.ope_truth`.

    python -m benchmarks.ope_truth offrl/cartpole/medium-v0 cartpole/large.json --out FILE.csv

FILE.csv gets the rows of each policy as soon as it was judged; a second call goes on with what is
missing, and without datasets it prints the tables. `ope_policies` says who the ten are. Half of
the episodes judge. True values are means of discounted returns in the environment without its time
limit, until what is left is a thousandth. No estimate is refused here (`min_ess=0`): the tables
show what would have been, with and without five effective episodes.

To take the supposed cause of a failure away: `--horizon N` cuts every episode and every rollout
after N steps, `--behavior fitted` does without the logged probabilities, `--limits-end` takes
RLlib's time limits for ends, `--fqe-*` are the critics'. Each is a set of its own in the tables.
"""

import argparse
import csv
import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn

import offrl
from benchmarks.ope_policies import candidates
from offrl.configuration import configure
from offrl.data.dataset import Dataset
from offrl.data.transitions import Transitions
from offrl.distributions import Deterministic
from offrl.evaluation.statistics import interval
from offrl.ope.candidates import Candidate, candidate_of
from offrl.ope.conclusion import conclude
from offrl.ope.findings import Findings
from offrl.ope.fitting import tensor
from offrl.ope.settings import JudgeConfig
from offrl.ope.weights import Weights
from offrl.ope.work import Work
from offrl.policy import Policy, threads

FIELDS = (
    *("dataset", "policy", "discount", "episodes", "rollouts", "truth", "truth_lo", "truth_hi"),
    *("behavior_value", "ess", "lost_from", "thin_from"),
    *("estimator", "value", "lo", "hi", "told"),
)
ESTIMATORS = ("fqe", "dr", "wis", "wpdis")
TIME_LIMIT = 200  # of both of RLlib's logs
RATE = 0.1  # with it 1,000 steps at a discount of 0.95 leave 1 % of what critics start with


def truth(policy: Policy, data: Dataset, discount: float, rollouts: int, steps: int) -> np.ndarray:
    """Discounted returns of rollouts of `steps`, [rollouts]; all of them act side by side."""
    if data.env_id is None:
        raise ValueError(f"{data.id} names no environment.")
    envs = [gymnasium.make(data.env_id, max_episode_steps=steps) for _ in range(rollouts)]
    obs = np.stack([env.reset(seed=k)[0] for k, env in enumerate(envs)]).astype(np.float32)
    rng, going = np.random.default_rng(0), np.arange(rollouts)
    with torch.no_grad():
        sure = isinstance(policy.network(torch.as_tensor(obs[:1])), Deterministic)
    found = np.zeros(rollouts)
    for t in range(steps):
        actions = data.spec.env_actions(policy.act(obs[going], None if sure else rng))
        left = list[int]()
        for k, action in zip(going.tolist(), actions, strict=True):
            seen, reward, terminated, _, _ = envs[k].step(action)
            obs[k] = seen
            found[k] += discount**t * float(reward)
            if not terminated:
                left.append(k)
        going = np.array(left, dtype=np.int64)
        if not left:
            break
    for env in envs:
        env.close()
    return found


def opened(ref: str, limits_end: bool) -> Dataset:
    """A dataset by its id, recorded where it is not there, or an RLlib log."""
    if Path(ref).is_file():
        limit = None if limits_end else TIME_LIMIT
        if "cartpole" in ref:
            return offrl.import_file(ref, env="CartPole-v1", time_limit=limit)
        env = gymnasium.make("Pendulum-v1")
        return offrl.import_file(
            ref,
            env="Pendulum-v1",
            time_limit=limit,
            unit_actions=True,
            action_space=env.action_space,
            observation_space=env.observation_space,
        )
    try:
        return offrl.load(ref)
    except offrl.OffrlError:
        offrl.record(ref)
        return offrl.load(ref)


class Judging:
    """The judged half of a dataset, and what is fitted to it once."""

    def __init__(self, data: Dataset, held: np.ndarray, args: argparse.Namespace) -> None:
        self.data, self.discount, self.horizon = data, float(args.discount), int(args.horizon)
        self.part = data.transitions.take_episodes(held)
        settings: dict[str, Any] = {
            "acts": "sample",
            "min_ess": 0.0,
            "behavior": args.behavior,
            "fqe_steps": args.fqe_steps,
            "fqe_seeds": args.fqe_seeds,
            "fqe_target_rate": args.fqe_target_rate,
        }
        config = configure(JudgeConfig, settings)
        self.config, self.prepared = config, False
        self.names = args.estimators.split(",")
        self.work = Work(data, self.part, held, config, self.discount, self.names, None)

    def of(self, network: nn.Module) -> Findings:
        """What is found of one policy."""
        candidate = candidate_of(Policy(self.data.spec, network), self.data, "sample")
        if self.horizon:
            return self._short(candidate)
        if not self.prepared:
            self.work.prepare([candidate])
            self.prepared = True
        evidence = self.work.evidence(candidate, False)
        return conclude(evidence, self.config, self.names)

    def _short(self, candidate: Candidate) -> Findings:
        """Of the first `horizon` steps alone, by weights alone: a Q knows no step."""
        part, limit = self.part, self.horizon
        log_pi = candidate.log_prob(tensor(part.obs), tensor(part.action))
        if isinstance(log_pi, str):
            raise offrl.OffrlError(log_pi)
        step = np.arange(len(part)) - np.repeat(part.starts[:-1], part.lengths)
        chosen = step < limit
        return offrl.ope.estimate(
            part.reward[chosen],
            log_pi[chosen],
            part.behavior_log_prob[chosen],
            _ends(part, limit)[chosen],
            discount=self.discount,
            estimators=["wis", "wpdis"],
            min_ess=0.0,
        )


def _ends(part: Transitions, limit: int) -> np.ndarray:
    """Where episodes of at most `limit` steps end, [N]."""
    found = np.zeros(len(part), bool)
    found[part.starts[:-1] + np.minimum(part.lengths, limit) - 1] = True
    return found


def called(ref: str) -> str:
    """A dataset by its id, a log by whose it is and its file."""
    path = Path(ref)
    return f"rllib/{path.parent.name}/{path.stem}" if path.is_file() else ref


def file_name(ref: str) -> str:
    """The same as one name."""
    return called(ref).replace("/", "-")


def named(ref: str, args: argparse.Namespace) -> str:
    """What a set is called in the tables: the dataset, and what was taken away."""
    words = [called(ref)]
    words += [f"discount {args.discount:g}"] * (args.discount != 0.95)
    words += [f"{args.horizon} steps"] * bool(args.horizon)
    words += ["fitted mu"] * (args.behavior == "fitted")
    words += ["limits end"] * args.limits_end
    words += [f"target rate {args.fqe_target_rate:g}"] * (args.fqe_target_rate != RATE)
    return ", ".join(words)


def measure(ref: str, out: Path, args: argparse.Namespace) -> None:
    """Judge the ten on one dataset and add their rows to `out`, those of each as it is judged."""
    name, data = named(ref, args), opened(ref, args.limits_end)
    folder = out.parent / f"{out.stem}-runs" / f"{file_name(ref)}-{args.limits_end:d}"
    policies, held = candidates(ref, data, folder, args.discount)
    there = {(row["dataset"], row["policy"]) for row in rows_in(out)}
    judging = Judging(data, held, args)
    steps = args.horizon or math.ceil(math.log(1e-3) / math.log(args.discount))
    if args.truth_again:
        _again(name, out, data, policies, args, steps)
        return
    for policy, network in policies.items():
        if (name, policy) in there or (args.horizon and policy in {"td3-bc"}):
            continue
        worth = truth(Policy(data.spec, network), data, args.discount, args.rollouts, steps)
        found = judging.of(network)
        low, high = interval(worth) or (math.nan, math.nan)
        lost = ("", "") if found.weights is None else _steps(found.weights)
        first = (
            *(name, policy, args.discount, found.episodes, args.rollouts),
            *(float(worth.mean()), low, high, found.behavior.value, found.ess, *lost),
        )
        told = " ".join((*found.notes, *found.disagreements))
        rows = [
            (*first, estimator, one.value, *(one.bounds or ("", "")), one.refused or told)
            for estimator, one in found.estimates.items()
        ]
        fresh = not out.exists()
        with out.open("a", newline="") as file:
            csv.writer(file).writerows([FIELDS, *rows] if fresh else rows)


def _again(
    name: str,
    out: Path,
    data: Dataset,
    policies: dict[str, nn.Module],
    args: argparse.Namespace,
    steps: int,
) -> None:
    """Put the truth of more rollouts into the rows of a dataset."""
    rows = rows_in(out)
    for policy, network in policies.items():
        mine = [r for r in rows if (r["dataset"], r["policy"]) == (name, policy)]
        if not mine or int(mine[0]["rollouts"]) >= args.rollouts:
            continue
        worth = truth(Policy(data.spec, network), data, args.discount, args.rollouts, steps)
        low, high = interval(worth) or (math.nan, math.nan)
        for row in mine:
            values = (args.rollouts, float(worth.mean()), low, high)
            row |= dict(zip(FIELDS[4:8], map(str, values), strict=True))
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)


def _steps(weights: Weights) -> tuple[int | None, int | None]:
    return weights.lost_from, weights.thin_from


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
            if not mine:
                continue
            worths = [float(r["truth"]) for r in rows if r["dataset"] == dataset]
            best, worst = max(worths), min(worths)
            if estimator != "fqe":
                mine = [r for r in mine if float(r["ess"] or 0) >= least]
            mine = [r for r in mine if r["value"] and math.isfinite(float(r["value"]))]
            cells = [dataset, estimator, str(len(mine))]
            if len(mine) > 2:
                true, value = (np.array([float(r[k]) for r in mine]) for k in ("truth", "value"))
                held = [_holds(r) for r in mine if r["lo"]]
                regret = best - true[value.argmax()]
                cells += [
                    f"{correlation(true, value):.2f}",
                    f"{regret:.3g} ({regret / max(best - worst, 1e-12):.0%})",
                    f"{np.mean(value - true):+.3g}",
                    f"{sum(held)} of {len(held)}",
                ]
            lines.append("| " + " | ".join([*cells, "", "", "", ""][:7]) + " |")
    return lines


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation; NaN where one side has one rank alone."""
    from scipy.stats import rankdata

    ranks = rankdata(one), rankdata(other)
    if any(np.ptp(rank) == 0 for rank in ranks):
        return math.nan
    return float(np.corrcoef(*ranks)[0, 1])


def _holds(row: dict[str, str]) -> bool:
    """Whether the interval holds the mean of the rollouts."""
    low, true, high = (float(row[key]) for key in ("lo", "truth", "hi"))
    return low <= true <= high


def main() -> None:
    """Measure what is missing and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("datasets", nargs="*", metavar="REF")
    parser.add_argument("--out", type=Path, default=Path("ope_truth.csv"))
    parser.add_argument("--discount", type=float, default=0.95)
    parser.add_argument("--rollouts", type=int, default=500, help="episodes of each policy")
    parser.add_argument("--horizon", type=int, default=0, help="steps after which all is cut")
    parser.add_argument("--behavior", choices=("auto", "fitted"), default="auto")
    parser.add_argument("--limits-end", action="store_true")
    parser.add_argument("--truth-again", action="store_true", help="by more rollouts")
    parser.add_argument("--estimators", default=",".join(ESTIMATORS))
    parser.add_argument("--fqe-steps", type=int, default=1000)
    parser.add_argument("--fqe-seeds", type=int, default=3)
    parser.add_argument("--fqe-target-rate", type=float, default=RATE)
    args = parser.parse_args()
    with threads(1):
        for ref in args.datasets:
            measure(ref, args.out, args)
    rows = rows_in(args.out)
    for title, least in (("all", 0.0), ("five effective episodes or more", 5.0)):
        print(f"\n{title}\n")
        print("\n".join(table(rows, least)))


if __name__ == "__main__":
    main()
