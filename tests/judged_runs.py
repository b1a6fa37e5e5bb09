"""Folders of runs that were trained and evaluated, written without training anything."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from offrl.evaluation.references import lookup
from offrl.evaluation.summary import SeedEvaluation, summarise
from offrl.run import Run, Settings


def judged(
    folder: Path,
    returns: Mapping[int, Sequence[float]] | None,
    *,
    algo: str = "bc",
    dataset: str = "toy/pendulum-v0",
    env: str = "Pendulum-v1",
    steps: int = 100,
    reached: int | None = None,
    seeds: Sequence[int] = (),
    curve: Mapping[int, float] | None = None,
    checkpoint: str = "last",
    picked: str = "last",
    fingerprint: str = "sha256:0",
    episode_seed: int = 0,
    config: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """Write a run with an evaluation of `returns` by seed; None is a run that was not evaluated."""
    numbers = tuple(seeds or returns or (0,))
    run = Run(
        settings=Settings(algo=algo, dataset=dataset, steps=steps, seeds=numbers, **settings),
        config={"lr": 1e-3, "batch_size": 256, **(config or {})},
        algorithm=algo,
        fingerprint=fingerprint,
        held_out=(),
        spec={},
        env=env,
        versions={},
    )
    folder.mkdir(parents=True)
    (folder / "run.toml").write_text(run.to_toml())
    for seed in numbers:
        last = steps if reached is None else reached
        (folder / f"seed_{seed}" / "checkpoints" / f"step_{last:08d}").mkdir(parents=True)
        rows = [f"{step},0.5,{value}" for step, value in (curve or {}).items()]
        text = "\n".join(["step,policy/loss,eval/return_mean", "1,0.7,", *rows, ""])
        (folder / f"seed_{seed}" / "metrics.csv").write_text(text)
    if returns is not None:
        found = summarise(
            [SeedEvaluation(k, tuple(v), (200,) * len(v), steps) for k, v in returns.items()],
            env=env,
            reference=lookup(env),
            checkpoint=checkpoint,
            picked=picked,
            episode_seed=episode_seed,
        )
        page = {"format": 1, "checkpoint": "last", "evaluation": found.to_dict()}
        (folder / "result.json").write_text(json.dumps(page))
    return folder
