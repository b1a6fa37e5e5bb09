"""Write the cards of shipped datasets: record each recipe and measure what came out.

python benchmarks/cards.py [ID ...]    write datasets/*/*/README.md, of all or of those named
    --check                            say which cards no longer hold here, and end with 1
    --kept                             measure what is collected already, record only the rest
"""

import os
import platform
import sys
import tempfile
from typing import Any

import numpy as np

from offrl.collect.recorder import record
from offrl.collect.weights import read_page
from offrl.data.catalogue import shipped_recipes
from offrl.data.dataset import Dataset
from offrl.data.recipe import Recipe, load_recipe
from offrl.evaluation.references import lookup, score
from offrl.evaluation.statistics import interval

CARD = """\
# {id}

{description}

| | |
|---|---|
| environment | `{env}`, with its own time limit |
| episodes, steps | {episodes}, {steps} ({ends}) |
| log-probabilities | {log_prob} |
| seed | {seed}; episode i draws from (seed, i) alone |
| licence | {license} |
{facts}
Returns are undiscounted sums of rewards per episode; the interval is a 95 % Student t interval of
the mean over episodes. A score is 100 (return - random) / (expert - random); {references}.

| behavior | policy | n | mean return | 95 % interval | standard deviation | score |
|---|---|---|---|---|---|---|
{rows}

Returns of single episodes, {histogram}
## Repeat it

    offrl collect {id}

makes the data and prints its mean return and fingerprint; `python benchmarks/cards.py` makes this
card. On {machine} with {versions} the fingerprint is

    {fingerprint}

Other processors and versions may round otherwise: the fingerprint then differs, and the returns
agree within their intervals.

## What to know

{notes}
{policies}"""
POLICIES = """
## The policies

Networks that offrl trained, played in numpy. Each lies in `datasets/{folder}/weights` with a page
of its settings, versions and SHA-256.

{rows}
"""
LOG_PROB = {
    "logged": "logged for every step",
    "partial": "logged where the behavior has a density, NaN for the others",
    "none": "none: a deterministic continuous behavior has no density",
}
NOTES = {
    "random": "- A uniform action at every step: every action is covered, few good states are.",
    "medium": "- Half of the actions are uniform: good and bad ones are seen in the same states.",
    "expert": "- One action per state: nothing here says what another one would have done.",
    "mixed": "- Behaviors take turns, episode by episode; `infos/behavior` tells them apart.",
    "umaze": """\
- `PointMaze_UMaze-v3` as gymnasium-robotics registers it: `continuing_task=True`,
  `reset_target=False` and the sparse reward. The goal stays where it is for the whole episode,
  every step within 0.45 m of it is rewarded with 1, and only the limit of 300 steps ends an
  episode. Minari's sets of this maze have `reset_target=True`, where a goal that is reached moves
  elsewhere: returns of the two do not compare.
- Start and goal are drawn anew for each episode, at least half a cell apart. The observation holds
  both; flat, it is achieved goal, desired goal, position, velocity, 8 numbers.
- The controller knows the way; the noise is what pushes it aside. Most of a return is how near the
  goal the episode began.""",
}
OF_WEIGHTS = {
    "medium": "- One policy that was taken before it was good.",
    "expert": "- The best policy of its run: near one action per state.",
    "medium-replay": """\
- A ladder of checkpoints of one run, from the first up to the medium policy, equal episodes each:
  what a policy sees while it learns. `infos/behavior` tells the rungs apart.""",
    "medium-expert": """\
- The medium and the expert policy take turns, episode by episode; `infos/behavior` tells them
  apart. Where episodes of the expert are longer, more of the steps are its.""",
}
VERSIONS = ("python", "numpy", "gymnasium", "mujoco", "gymnasium-robotics")
_BINS, _BAR = 10, 30


def card(recipe_id: str, data: Dataset) -> str:
    """Return the card of a dataset that was just recorded."""
    recipe, summary = load_recipe(recipe_id), data.summary()
    returns: list[list[float]] = [[] for _ in recipe.behaviors]
    for episode in data:
        returns[int(episode.infos["behavior"][1])].append(episode.episode_return)
    rows = [
        _row(recipe_id, str(i), f"`{b}`", r)
        for i, (b, r) in enumerate(zip(recipe.behaviors, returns, strict=True))
    ]
    if len(rows) > 1:
        rows.append(_row(recipe_id, "all", "", [value for one in returns for value in one]))
    made = data.metadata["offrl"]["versions"]
    ended, cut = summary["terminated_episodes"], summary["truncated_episodes"]
    return CARD.format(
        id=recipe_id,
        description=recipe.description,
        env=recipe.env,
        episodes=summary["episodes"],
        steps=summary["steps"],
        ends=f"{ended} episodes terminated, {cut} truncated",
        log_prob=LOG_PROB[summary["log_prob"]],
        seed=recipe.seed,
        license=recipe.license,
        facts=_facts(recipe, data),
        references=_references(recipe_id),
        rows="\n".join(rows),
        histogram=histogram(returns),
        machine=f"{platform.system()} {platform.machine()}",
        versions=", ".join(f"{name} {made[name]}" for name in VERSIONS if name in made),
        fingerprint=summary["fingerprint"],
        notes=_notes(recipe_id, recipe),
        policies=_policies(recipe_id, recipe),
    )


def histogram(returns: list[list[float]]) -> str:
    """Return counts of episodes [behaviors][n] in ten equal bins as a table, a bar for them all."""
    every = np.array([value for one in returns for value in one])
    if every.min() == every.max():
        return f"all equal: {every[0]:.2f}."
    edges = np.linspace(every.min(), every.max(), _BINS + 1)
    counts = np.array([np.histogram(one, edges)[0] for one in returns])
    total = counts.sum(0)
    apart = [f"behavior {i}" for i in range(len(returns))] if len(returns) > 1 else []
    head = ["return", *apart, "episodes", ""]
    lines = ["in ten equal bins:", "", _cells(head), "|" + "---|" * len(head)]
    for low, high, each, number in zip(edges[:-1], edges[1:], counts.T, total, strict=True):
        bar = "#" * int(np.ceil(_BAR * number / total.max()))
        split = [str(n) for n in each] if apart else []
        lines.append(_cells([f"{low:.1f} to {high:.1f}", *split, str(number), bar]))
    return "\n".join(lines) + "\n"


def _facts(recipe: Recipe, data: Dataset) -> str:
    if not recipe.env.startswith("PointMaze"):
        return ""
    first = [int(np.argmax(e.rewards > 0)) + 1 for e in data if (e.rewards > 0).any()]
    share = f"{100 * len(first) / data.n_episodes:.1f} %, {len(first)} of {data.n_episodes}"
    return f"| reached the goal | {share}; first after {np.median(first):.0f} steps (median) |\n"


def _references(recipe_id: str) -> str:
    known = lookup(dataset_id=recipe_id)
    if known is None:
        raise LookupError(f"{recipe_id} has no row in references.toml")
    many = f", {known.n} episodes each" if known.n else ""
    numbers = f"random = {known.random:.2f} and\nexpert = {known.expert:.2f}"
    return f"{numbers} are from {known.source}{many}"


def _notes(recipe_id: str, recipe: Recipe) -> str:
    variant = recipe_id.rpartition("/")[2].removesuffix("-v0")
    learned = any(b.policy.startswith("weights:") for b in recipe.behaviors)
    return (OF_WEIGHTS if learned else NOTES)[variant]


def _policies(recipe_id: str, recipe: Recipe) -> str:
    named = [b.policy for b in recipe.behaviors if b.policy.startswith("weights:")]
    rows: list[str] = []
    for policy in named:
        page = read_page(policy.removeprefix("weights:"))
        rows.append(f"- `{policy}`: {page['algorithm']}, seed {page['seed']}, {_age(page)}, of")
        rows += ["", f"      {page['command']}", ""]
    if not rows:
        return ""
    return POLICIES.format(folder=recipe_id.split("/")[1], rows="\n".join(rows).rstrip())


def _age(page: dict[str, Any]) -> str:
    acted = page.get("env_step")
    steps = f"{page['step']} gradient steps"
    return steps if acted is None else f"{acted} environment steps and {steps}"


def _row(recipe_id: str, name: str, policy: str, returns: list[float]) -> str:
    values = np.array(returns)
    low, high = interval(values) or (np.nan, np.nan)
    scored = score(values.mean(), lookup(dataset_id=recipe_id))
    cells = [name, policy, str(len(values)), f"{values.mean():.2f}", f"{low:.2f} to {high:.2f}"]
    return _cells([*cells, f"{values.std(ddof=1):.2f}", f"{scored:.1f}"])


def _cells(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(words: list[str]) -> int:
    """Write or check the cards and return the exit status."""
    options = {word for word in words if word.startswith("--")}
    ids = [word for word in words if word not in options] or list(shipped_recipes())
    stale = 0
    with tempfile.TemporaryDirectory() as root:
        if "--kept" not in options:
            os.environ["MINARI_DATASETS_PATH"] = root
        for recipe_id in ids:
            text = card(recipe_id, record(recipe_id, resume=True))
            path = shipped_recipes()[recipe_id] / "README.md"
            if "--check" in options:
                same = path.is_file() and path.read_text(encoding="utf-8") == text
                stale += not same
                print(f"{recipe_id}: {'holds' if same else 'differs'}")
            else:
                path.write_text(text, encoding="utf-8")
                print(path)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
