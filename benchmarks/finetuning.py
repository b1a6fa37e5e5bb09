"""From offline to online: `python -m benchmarks.finetuning REF --out FOLDER`.

Each recipe learns from the same log, then acts in the log's environment; sac-rlpd learns nothing
from it first. FOLDER keeps the runs: a second call goes on with what is missing. The table holds
the mean return before acting, of the lowest evaluation, and at the end, over seeds, and of the
regret by evaluations; a dip is the lowest evaluation less the first, the mean of the seeds' own.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import offrl
from benchmarks.quality import told


class Recipe(NamedTuple):
    """An algorithm, its settings on the log and those it acts with."""

    algo: str
    settings: dict[str, Any]
    acting: dict[str, Any]
    online: dict[str, Any]
    steps: int | None = None  # on the log; None is what was asked for


MANY = {"critics": 10, "layer_norm": True}
RECIPES = {
    "td3": Recipe("td3", {}, {}, {"mix": 0.0}),
    # td3 that starts from a good policy: a weight of 1e4 leaves nothing of the log's pull
    "td3-bc-let-go": Recipe("td3-bc", {}, {"q_weight": 1e4}, {"mix": 0.0}),
    "td3-mixed": Recipe("td3", {}, {}, {"mix": 0.5}),
    "iql": Recipe("iql", {}, {}, {"mix": 0.5}),
    "cql": Recipe("cql", {"samples": 4}, {}, {"mix": 0.5}),
    "cal-ql": Recipe("cal-ql", {"samples": 4}, {}, {"mix": 0.5}),
    "sac-rlpd": Recipe(
        "sac",
        MANY,
        {"target_critics": 2, "follow_mean": True, "policy_period": 4, "dimension_entropy": -0.5},
        {"mix": 0.5, "updates_per_step": 4.0},
        steps=1,
    ),
}


def run(name: str, ref: str, given: argparse.Namespace) -> dict[str, Any]:
    """What came of a recipe: the result.json of its seeds' acting."""
    recipe, folder = RECIPES[name], Path(given.out, name)
    steps = recipe.steps or given.steps
    seeds = tuple(range(given.seeds))
    same = {"compile": given.compile, "resume": True}
    offrl.fit(
        recipe.algo, ref, steps=steps, seeds=seeds, out=folder / "log", holdout=0.0,
        hidden_size=given.width, save_every=steps, **recipe.settings, **same,
    )  # fmt: skip
    offrl.finetune(
        folder / "log",
        given.env,
        given.env_steps,
        out=folder / "acting",
        hyperparameters=recipe.acting,
        online={
            **recipe.online,
            "warmup": given.env_steps // 20 if recipe.steps else 0,
            "eval_every": given.env_steps // 10,
            "eval_episodes": given.episodes,
        },
        **same,
    )
    return json.loads((folder / "acting" / "result.json").read_text())


def table(found: dict[str, dict[str, Any]]) -> list[str]:
    """Markdown: one line for each recipe, means over seeds with 95 % intervals."""
    lines = ["| recipe | before | lowest | after | dip | regret | seeds |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, result in found.items():
        seeds = list(result["outcome"].values())
        columns = [[seed[key] for seed in seeds] for key in ("before", "dip", "after")]
        before, dip, after = columns
        lowest = [a + b for a, b in zip(before, dip, strict=True)]
        regret = [r for seed in seeds if (r := seed["regret_evaluations"]) is not None]
        shown = [told(values) for values in (before, lowest, after, dip)]
        three = f"{sum(regret) / len(regret):.3f}" if regret else "-"
        lines.append(f"| {name} | {' | '.join(shown)} | {three} | {len(seeds)} |")
    return lines


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--env", default="Pendulum-v1")
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--env-steps", type=int, default=5_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--compile", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    for name in given.recipes.split(","):
        found[name] = run(name, given.dataset, given)
        print(table({name: found[name]})[-1], file=sys.stderr, flush=True)
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
