"""Behaviour policies of our own: from a run that acted to weights, recipes and cards.

python -m benchmarks.behaviors hopper runs/hopper-sac [--seed 0]

Every checkpoint is played for some episodes as its recipe would have it play. Then are written

    medium-v0          the checkpoint nearest to a third of what an expert returns (references.toml)
    medium-replay-v0   a ladder from the first checkpoint up to that one, equal episodes each
    expert-v0          the checkpoint that returns most, where its score is 75 or more
    medium-expert-v0   both, episode by episode

and the weights that they name. What a run does not bear out is not written, and said so: no name
claims what its policy is not.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from benchmarks import cards
from offrl.algos import get
from offrl.checkpoint import TrainedRun, folders, load_run
from offrl.collect.actors import actors_of
from offrl.collect.episodes import play
from offrl.collect.weights import export_policy
from offrl.data.recipe import BehaviorSpec
from offrl.environments import make_env
from offrl.evaluation.references import Reference, lookup, score
from offrl.nn import DeterministicPolicy
from offrl.online.schedule import SCHEDULES
from offrl.run import Settings

DATASETS = Path(__file__).parent.parent / "datasets"
EPISODES, SEED = 20, 1  # of each checkpoint that is tried; recipes have the seed 0
MEDIUM, BETWEEN = 100 / 3, (20.0, 50.0)  # scores
EXPERT = 75.0  # score
RUNGS, RUNG_EPISODES = 8, 50
STEPS = 100_000
NOISE = 0.1  # std of a deterministic policy, in half ranges of the actions: as td3 explores
FINALISTS, EXPERT_NOISE = 5, 0.02  # an expert acts nearly by its mode, and still has a density


@dataclass(frozen=True)
class Tried:
    """A checkpoint with the mean return of its episodes, and the noise that it acted with."""

    step: int
    mean: float
    score: float
    noise: float = NOISE


def main() -> int:
    """Write what a run bears out and return the exit status: 1 where a recipe is missing."""
    parser = argparse.ArgumentParser(description="Behaviour policies of our own.")
    parser.add_argument("name", help="folder below datasets/: hopper, halfcheetah")
    parser.add_argument("run", help="folder of a run that acted")
    parser.add_argument("--seed", type=int)
    given = parser.parse_args()
    run = load_run(given.run)
    seed = run.seeds[0] if given.seed is None else given.seed
    reference = lookup(run.run.env)
    if run.run.env is None or reference is None:
        print(f"{given.run} acted in no environment with references", file=sys.stderr)
        return 2
    steps = folders(run.dir / f"seed_{seed}")
    tried = [_tried(run, seed, step, reference, NOISE) for step in steps]
    finalists = sorted(tried, key=lambda one: one.mean)[-FINALISTS:]
    again = [_tried(run, seed, one.step, reference, EXPERT_NOISE) for one in finalists]
    medium, expert = picked(tried, again)
    wanted: dict[str, list[Tried]] = {}
    if medium is not None:
        wanted["medium"] = [medium]
        wanted["medium-replay"] = ladder(tried, medium)
    if expert is not None:
        wanted["expert"] = [expert]
    if medium is not None and expert is not None:
        wanted["medium-expert"] = [medium, expert]
    for variant, policies in wanted.items():
        _write(given.name, variant, run, seed, policies, reference)
    if wanted:
        cards.main([f"offrl/{given.name}/{variant}-v0" for variant in wanted])
    missing = {"medium", "medium-replay", "expert", "medium-expert"} - wanted.keys()
    if missing:
        print(f"not borne out, so not written: {', '.join(sorted(missing))}")
    return 1 if missing else 0


def picked(tried: list[Tried], finalists: list[Tried]) -> tuple[Tried | None, Tried | None]:
    """Return the medium and the expert checkpoint, None for what the run does not bear out."""
    medium = min(tried, key=lambda one: abs(one.score - MEDIUM))
    best = max(finalists, key=lambda one: one.mean)
    between = BETWEEN[0] <= medium.score <= BETWEEN[1]
    return medium if between else None, best if best.score >= EXPERT else None


def ladder(tried: list[Tried], top: Tried) -> list[Tried]:
    """Return at most RUNGS checkpoints from the first up to `top`, evenly spaced."""
    below = [one for one in tried if one.step <= top.step]
    places = np.linspace(0, len(below) - 1, min(RUNGS, len(below))).round().astype(int)
    return [below[place] for place in places]


def command_of(run: TrainedRun, seed: int) -> str:
    """Return the command that trains one seed of a run from scratch: what is not the default."""
    made, settings = run.run, run.run.settings
    algorithm = get(made.algorithm)
    if made.env_steps is None or made.parent is not None:
        raise SystemExit(f"{run.dir} is no run from scratch in an environment")
    schedule = SCHEDULES[str(algorithm.acts)]
    usual = asdict(schedule()) | schedule.usual(made.env_steps, scratch=True, logged=False)
    plain = Settings(algo=settings.algo, dataset="")
    words: list[Any] = ["offrl train --algo", settings.algo, "--env", made.env]
    words += ["--env-steps", made.env_steps, "--seed", seed, "--compile", settings.compile]
    for given, defaults in (
        ({name: getattr(settings, name) for name in ("precision", "threads")}, vars(plain)),
        (made.config, asdict(algorithm.Config())),
        (made.online or {}, usual),
    ):
        for name, value in given.items():
            if value != defaults.get(name):
                shown = str(value).lower() if isinstance(value, bool) else value
                words += [f"--{name.replace('_', '-')}", shown]
    return " ".join(str(word) for word in words)


def _tried(run: TrainedRun, seed: int, step: int, reference: Reference, noise: float) -> Tried:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "tried.safetensors")
        export_policy(run, file, command_of(run, seed), seed=seed, checkpoint=step)
        world = make_env(str(run.run.env))
        actors = actors_of([_behavior(run, seed, step, str(file), noise)], world)
    returns = [e.episode_return for e in islice(play(world, actors, seed=SEED), EPISODES)]
    world.close()
    mean = float(np.mean(returns))
    found = Tried(step, mean, score(mean, reference) or 0.0, noise)
    print(f"step {step}: return {mean:.1f} over {EPISODES} episodes, score {found.score:.1f}")
    return found


def _behavior(run: TrainedRun, seed: int, step: int, reference: str, noise: float) -> BehaviorSpec:
    """Return how a policy acts in a recipe: with a density, so that log-probabilities are known."""
    if isinstance(run.policy(seed, step).network, DeterministicPolicy):
        return BehaviorSpec(f"weights:{reference}", noise=noise)
    return BehaviorSpec(f"weights:{reference}", stochastic=True)


def _write(
    name: str,
    variant: str,
    run: TrainedRun,
    seed: int,
    policies: list[Tried],
    reference: Reference,
) -> None:
    env = str(run.run.env)
    behaviors: list[dict[str, Any]] = []
    for one in policies:
        file = DATASETS / name / "weights" / f"{run.run.algorithm}-{one.step}.safetensors"
        export_policy(run, file, command_of(run, seed), seed=seed, checkpoint=one.step)
        spec = _behavior(run, seed, one.step, f"{name}/{file.stem}", one.noise)
        plain = {"noise": 0.0, "epsilon": 0.0, "stochastic": False, "weight": 1.0}
        behaviors.append({k: v for k, v in asdict(spec).items() if plain.get(k) != v})
    replay = variant == "medium-replay"
    amount = {"episodes": RUNG_EPISODES * len(policies)} if replay else {"env_steps": STEPS}
    known = {"random": reference.random, "expert": reference.expert, "source": reference.source}
    recipe = {
        "env": env,
        **amount,
        "seed": 0,
        "description": f"{env}: {DESCRIPTIONS[variant].format(algo=run.run.algorithm)}",
        "license": "MIT",
        "behaviors": behaviors,
        "references": known,
    }
    folder = DATASETS / name / f"{variant}-v0"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe), encoding="utf-8")
    print(folder)


DESCRIPTIONS = {
    "medium": "A policy of {algo}, taken when it returned about a third of what an expert does.",
    "medium-replay": "A ladder of policies of one run of {algo}, up to the medium one.",
    "expert": "The policy of a run of {algo} that returned most in episodes of its own.",
    "medium-expert": "Equal shares of the episodes of the medium and the expert policy of {algo}.",
}


if __name__ == "__main__":
    sys.exit(main())
