"""Write the card of every shipped dataset: record its recipe and measure what came out.

python benchmarks/cards.py            write datasets/*/*/README.md
python benchmarks/cards.py --check    say which cards no longer hold here, and end with 1
"""

import os
import platform
import sys
import tempfile

import numpy as np

from offrl.collect.recorder import record
from offrl.data.catalogue import shipped_recipes
from offrl.data.dataset import Dataset
from offrl.data.recipe import BehaviorSpec, load_recipe
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

Returns are undiscounted sums of rewards per episode; the interval is a 95 % Student t interval of
the mean over episodes.

| behavior | policy | n | mean return | 95 % interval | standard deviation |
|---|---|---|---|---|---|
{rows}

## Repeat it

    offrl collect {id}

makes the data and prints its mean return and fingerprint; `python benchmarks/cards.py` makes this
card. On {machine} with {versions} the fingerprint is

    {fingerprint}

Other processors and versions may round otherwise: the fingerprint then differs, and the returns
agree within their intervals.

## What to know

{notes}
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
}
VERSIONS = ("python", "numpy", "gymnasium")


def card(recipe_id: str, data: Dataset) -> str:
    """Return the card of a dataset that was just recorded."""
    recipe, summary = load_recipe(recipe_id), data.summary()
    returns: list[list[float]] = [[] for _ in recipe.behaviors]
    for episode in data:
        returns[int(episode.infos["behavior"][1])].append(episode.episode_return)
    rows = [
        _row(str(i), _policy(b), r)
        for i, (b, r) in enumerate(zip(recipe.behaviors, returns, strict=True))
    ]
    if len(rows) > 1:
        rows.append(_row("all", "", [value for one in returns for value in one]))
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
        rows="\n".join(rows),
        machine=f"{platform.system()} {platform.machine()}",
        versions=", ".join(f"{name} {made[name]}" for name in VERSIONS),
        fingerprint=summary["fingerprint"],
        notes=NOTES[recipe_id.rpartition("/")[2].removesuffix("-v0")],
    )


def _policy(behavior: BehaviorSpec) -> str:
    return f"`{behavior}`"


def _row(name: str, policy: str, returns: list[float]) -> str:
    values = np.array(returns)
    low, high = interval(values) or (np.nan, np.nan)
    spread = f"{values.std(ddof=1):.2f}"
    cells = [name, policy, str(len(values)), f"{values.mean():.2f}", f"{low:.2f} to {high:.2f}"]
    return f"| {' | '.join([*cells, spread])} |"


def main() -> int:
    """Write or check every card and return the exit status."""
    stale = 0
    with tempfile.TemporaryDirectory() as root:
        os.environ["MINARI_DATASETS_PATH"] = root
        for recipe_id, folder in shipped_recipes().items():
            text = card(recipe_id, record(recipe_id))
            path = folder / "README.md"
            if "--check" in sys.argv[1:]:
                same = path.is_file() and path.read_text(encoding="utf-8") == text
                stale += not same
                print(f"{recipe_id}: {'holds' if same else 'differs'}")
            else:
                path.write_text(text, encoding="utf-8")
                print(path)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
