"""How good a policy is when it acts: returns, their interval, and the score they come to.

Every seed of a run plays the same episodes. With two or more seeds the interval is over the means
of the seeds, else over the episodes.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from offrl.checkpoint import TrainedRun, load_run
from offrl.data.dataset import Dataset, load
from offrl.data.durable import write_file
from offrl.data.spec import Spec
from offrl.environments import env_description, env_for, make_env, version_note
from offrl.errors import ConfigError, CorruptDataError, IncompatibleVersionError, OffrlError
from offrl.evaluation.references import Reference, lookup, require_apart, score
from offrl.evaluation.rollouts import Env, Rollouts, rollout
from offrl.evaluation.statistics import deviation, interval, mean
from offrl.run import FORMAT, current_versions

RESULT = "result.json"


class Acting(Protocol):
    """What can be evaluated: spaces, and flat observations to flat actions, as Policy has them."""

    spec: Spec

    def act(self, flat_obs: np.ndarray) -> np.ndarray:
        """Return the flat action of each row of `flat_obs` [B, obs_dim]."""
        ...


@dataclass(frozen=True)
class SeedEvaluation:
    """The episodes of one training seed."""

    seed: int | None
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    checkpoint_step: int | None = None

    @property
    def return_mean(self) -> float:
        """Mean of the undiscounted returns."""
        return mean(self.returns)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {
            "seed": self.seed,
            "checkpoint_step": self.checkpoint_step,
            "return_mean": self.return_mean,
            "return_std": deviation(self.returns),
            "length_mean": mean(self.lengths),
            "returns": list(self.returns),
            "lengths": list(self.lengths),
        }


@dataclass(frozen=True)
class Evaluation:
    """What a policy, or a behaviour, came to."""

    env: str
    n_episodes: int  # of each seed
    n_seeds: int
    interval_over: Literal["seeds", "episodes"]
    return_mean: float
    return_std: float | None  # of all episodes, n - 1 below the line; None for a single one
    return_ci: tuple[float, float] | None  # Student t, 95 %; None for a single value
    score: float | None  # 0 is random, 100 is expert; None where nobody measured the two
    score_ci: tuple[float, float] | None
    length_mean: float  # environment steps
    seeds: tuple[SeedEvaluation, ...]
    reference: Reference | None
    notes: tuple[str, ...] = ()
    checkpoint: str | None = None  # how it was picked
    episode_seed: int | None = None  # of the episodes, not of the training
    wall_seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON, the keys that scripts rely on first."""
        plain = {key: value for key, value in vars(self).items() if key not in _NESTED}
        return plain | {
            "return_ci": _list(self.return_ci),
            "score_ci": _list(self.score_ci),
            "notes": list(self.notes),
            "reference": None if self.reference is None else self.reference.to_dict(),
            "seeds": [seed.to_dict() for seed in self.seeds],
            "versions": current_versions(),
        }


_NESTED = ("seeds", "reference", "notes")


def summarise(
    seeds: Sequence[SeedEvaluation],
    *,
    env: str,
    reference: Reference | None = None,
    notes: Sequence[str] = (),
    checkpoint: str | None = None,
    episode_seed: int | None = None,
    wall_seconds: float | None = None,
) -> Evaluation:
    """Return the means, intervals and score of episodes that were run already.

    A behaviour's episodes are one entry of `seeds` with the seed None. Raises ConfigError where
    there is no episode, or where the two returns of `reference` are equal.
    """
    if not seeds or any(not one.returns for one in seeds):
        raise ConfigError("There is no episode to summarise.", "Run at least one.")
    returns = [value for one in seeds for value in one.returns]
    means = [one.return_mean for one in seeds]
    over_seeds = len(seeds) >= 2
    bounds = interval(means if over_seeds else returns)
    average = mean(means if over_seeds else returns)
    said = list(notes)
    if bounds is None:
        said.append("n=1: no interval; it takes two or more episodes, or seeds.")
    if reference is None:
        said.append(f"No score: nobody measured a random and an expert policy in {env}.")
    elif reference.note:
        said.append(reference.note)
    return Evaluation(
        env=env,
        n_episodes=len(seeds[0].returns),
        n_seeds=len(seeds),
        interval_over="seeds" if over_seeds else "episodes",
        return_mean=average,
        return_std=deviation(returns),
        return_ci=bounds,
        score=score(average, reference),
        score_ci=_scored(bounds, reference),
        length_mean=mean([length for one in seeds for length in one.lengths]),
        seeds=tuple(seeds),
        reference=reference,
        notes=tuple(said),
        checkpoint=checkpoint,
        episode_seed=episode_seed,
        wall_seconds=wall_seconds,
    )


def evaluate(
    subject: TrainedRun | Acting | str | Path,
    env: str | Callable[[], Env] | None = None,
    *,
    episodes: int = 50,
    seed: int = 0,
    n_envs: int | None = None,
    checkpoint: str | int = "last",
    step_limit: int | None = None,
    trust_env: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Run `episodes` episodes of every seed of a run, or of one policy, and say how good it was.

    `subject` is a run, its folder (or RUN/seed_3), or a policy; `env` an environment id or a
    function that makes one, by default what the run's dataset names. Of a run, the result is kept
    in RUN/result.json under `evaluation`. `progress` is told (finished, all) episodes.
    Raises ConfigError where there is no environment to act in, and what `rollout` raises.
    """
    started = time.perf_counter()
    judged = _judged(subject, checkpoint)
    kept = None if judged.dir is None else _read_result(judged.dir)
    stage = _stage(env, judged, trust_env)
    reference = _reference(stage, judged)
    notes = list(stage.notes)
    found: list[SeedEvaluation] = []
    for number, (training_seed, step, policy) in enumerate(judged.policies):
        played = rollout(
            policy.act,
            policy.spec,
            stage.make,
            episodes=episodes,
            seed=seed,
            n_envs=n_envs,
            step_limit=step_limit,
            progress=_part(progress, number, len(judged.policies)),
        )
        found.append(seed_evaluation(played, training_seed, step))
        notes += [note for note in played.notes if note not in notes]
    result = summarise(
        found,
        env=stage.env_id,
        reference=reference,
        notes=notes,
        checkpoint=None if judged.dir is None else str(checkpoint),
        episode_seed=seed,
        wall_seconds=time.perf_counter() - started,
    )
    if judged.dir is not None and kept is not None:
        page = {**_read_result(judged.dir), "format": FORMAT, "evaluation": result.to_dict()}
        _write_result(judged.dir, page)
    return result


def seed_evaluation(
    played: Rollouts, seed: int | None = None, checkpoint_step: int | None = None
) -> SeedEvaluation:
    """Return the episodes of `played` as those of one training seed."""
    return SeedEvaluation(
        seed,
        tuple(float(value) for value in played.returns),
        tuple(int(length) for length in played.lengths),
        checkpoint_step,
    )


@dataclass(frozen=True)
class _Judged:
    """Who plays, and what is known of the data they learned from."""

    policies: tuple[tuple[int | None, int | None, Acting], ...]  # seed, checkpoint step, policy
    dir: Path | None = None
    env_id: str | None = None
    dataset_id: str | None = None
    dataset: Dataset | None = None


def _judged(subject: TrainedRun | Acting | str | Path, checkpoint: str | int) -> _Judged:
    if isinstance(subject, str | Path):
        subject = load_run(subject)
    if not isinstance(subject, TrainedRun):
        return _Judged(((None, None, subject),))
    run, policies = subject.run, []
    for seed in subject.seeds:
        step = subject.checkpoint(seed, checkpoint).step
        policies.append((seed, step, subject.policy(seed, step)))
    try:
        dataset = load(run.settings.dataset)
    except OffrlError:  # a run can be judged where its data is not
        dataset = None
    named = run.settings.dataset if dataset is None else dataset.id
    return _Judged(tuple(policies), subject.dir, run.env, named, dataset)


@dataclass(frozen=True)
class _Stage:
    """Where they play."""

    make: Callable[[], Env]
    env_id: str
    own: bool = False  # it is the environment of the data
    notes: tuple[str, ...] = ()


def _stage(env: str | Callable[[], Env] | None, judged: _Judged, trust_env: bool) -> _Stage:
    if callable(env):
        one = env()
        env_id = one.spec.id if one.spec is not None else type(one.unwrapped).__name__
        one.close()
        return _Stage(env, env_id, env_id == judged.env_id)
    if env is not None:
        env_id = env.rpartition(":")[2]
        notes = _other_version(env_id, judged.env_id)
        return _Stage(lambda: make_env(env), env_id, env_id == judged.env_id, notes)
    if judged.env_id is None:
        if judged.dir is None:
            raise ConfigError("A policy alone names no environment.", "Say which: env='ENV'.")
        raise ConfigError(
            f"The dataset of {judged.dir}, {judged.dataset_id}, names no environment to act in.",
            "Name one with --env ENV.",
        )
    dataset, named = judged.dataset, judged.env_id
    if dataset is None or dataset.env_id != named:
        return _Stage(lambda: make_env(named, trust=trust_env), named, own=True)
    described, note = env_description(dataset.metadata), version_note(dataset.metadata)
    return _Stage(
        make=lambda: env_for(dataset, trust_env=trust_env),
        env_id=named if described is None else str(described["id"]),
        own=True,
        notes=(note,) if note else (),
    )


def _other_version(env_id: str, logged: str | None) -> tuple[str, ...]:
    """Return a note where `env_id` is the data's environment in another version."""
    if logged is None or env_id == logged:
        return ()
    if env_id.rpartition("-v")[0] != logged.rpartition("-v")[0]:
        return ()
    return (f"The data was logged in {logged}; returns in {env_id} need not compare with its.",)


def _reference(stage: _Stage, judged: _Judged) -> Reference | None:
    """Return the reference of the stage: the dataset's own counts only in its environment."""
    if stage.own:
        metadata = None if judged.dataset is None else judged.dataset.metadata
        found = lookup(stage.env_id, judged.dataset_id, metadata)
    else:
        found = lookup(stage.env_id)
    return None if found is None else require_apart(found)


def _read_result(folder: Path) -> dict[str, Any]:
    path = folder / RESULT
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CorruptDataError(
            f"{path} cannot be read: {error}.", "Mend it, or move it away."
        ) from error
    if not isinstance(found, dict):
        raise CorruptDataError(f"{path} is not a JSON object.", "Mend it, or move it away.")
    if found.get("format", FORMAT) != FORMAT:
        raise IncompatibleVersionError(
            f"{path} has format {found['format']}; this offrl reads format {FORMAT}.",
            "Install the offrl that wrote it.",
        )
    return found


def _write_result(folder: Path, page: Mapping[str, Any]) -> None:
    """Replace result.json whole, or leave the old one."""
    path = folder / RESULT
    try:
        write_file(path, json.dumps(page, indent=2, allow_nan=False).encode() + b"\n")
    except OSError as error:
        raise OffrlError(
            f"{path} could not be written: {error.strerror or error}.",
            "Make room or mend the permissions, then evaluate again.",
        ) from error


def _part(
    progress: Callable[[int, int], None] | None, number: int, of: int
) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda finished, episodes: progress(number * episodes + finished, of * episodes)


def _scored(
    bounds: tuple[float, float] | None, reference: Reference | None
) -> tuple[float, float] | None:
    if bounds is None or reference is None:
        return None
    low, high = (score(bound, reference) for bound in bounds)
    return None if low is None or high is None else (min(low, high), max(low, high))


def _list(bounds: tuple[float, float] | None) -> list[float] | None:
    return None if bounds is None else list(bounds)
