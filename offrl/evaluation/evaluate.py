"""How good a run, or a policy, is when it acts. Every seed of a run plays the same episodes."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from offrl.checkpoint import SELECTED, TrainedRun, load_run
from offrl.data.dataset import Dataset, load
from offrl.data.durable import keep_file
from offrl.data.spec import Spec
from offrl.environments import env_description, env_for, make_env, other_version, version_note
from offrl.errors import ConfigError, OffrlError
from offrl.evaluation.references import Reference, lookup, require_apart
from offrl.evaluation.rollouts import Env, Rollouts, rollout
from offrl.evaluation.summary import Evaluation, SeedEvaluation, seed_evaluation, summarise
from offrl.evaluation.video import DRAWS, Films, draw_without_display
from offrl.guard import Makers, makers
from offrl.policy import threads
from offrl.run import FORMAT, RESULT, read_result


@runtime_checkable
class Acting(Protocol):
    """What can be evaluated: spaces, and flat observations to flat actions, as Policy has them."""

    spec: Spec

    def act(self, flat_obs: np.ndarray) -> np.ndarray:
        """Return the flat action of each row of `flat_obs` [B, obs_dim]."""
        ...


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
    step_timeout: float | None = None,
    video: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Run `episodes` episodes of every seed of a run, or of one policy, and say how good it was.

    `subject` is a run, its folder (or RUN/seed_3), or a policy; `env` an environment id or a
    function that makes one, by default what the run's dataset names. Of a run, the result is kept
    in RUN/result.json under `evaluation`. With `step_timeout` the environments are in a process of
    their own, which is ended where a step takes more seconds. With `video` the first episodes of
    every seed are played once more and filmed into that folder; no number depends on it. `progress`
    is told (finished, all) episodes.
    Raises ConfigError where there is no environment to act in, and what `rollout` raises.
    """
    started = time.perf_counter()
    if video is not None:
        draw_without_display()
    judged = _judged(subject, checkpoint)
    kept = {} if judged.dir is None else read_result(judged.dir)
    with makers(step_timeout) as made:
        stage = _stage(env, judged, trust_env, made)
        reference = _reference(stage, judged)
        films = _films(video, stage, judged, episodes, step_timeout)
        filmed = 0 if films is None else films.total
        tell = _Telling(progress, len(judged.policies) * episodes + filmed)
        notes = [*judged.notes, *stage.notes, *_told(kept, judged)]
        found: list[SeedEvaluation] = []
        for training_seed, step, policy in judged.policies:
            with threads(1):
                played = rollout(
                    policy.act,
                    policy.spec,
                    stage.make,
                    episodes=episodes,
                    seed=seed,
                    n_envs=n_envs,
                    step_limit=step_limit,
                    discount=judged.discount,
                    progress=tell.part(episodes),
                )
            found.append(seed_evaluation(played, training_seed, step))
            notes += [note for note in played.notes if note not in notes]
    result = summarise(
        found,
        env=stage.env_id,
        reference=reference,
        notes=notes,
        checkpoint=None if judged.dir is None else str(checkpoint),
        picked=judged.picked,
        episode_seed=seed,
        discount=judged.discount,
        wall_seconds=time.perf_counter() - started,
    )
    _keep(judged, result)  # before the films: what goes wrong there takes no number away
    if films is None:
        return result
    for (training_seed, _, policy), one in zip(judged.policies, found, strict=True):

        def play(env: Env, n: int, policy: Acting = policy) -> Rollouts:
            with threads(1):
                return rollout(
                    policy.act,
                    policy.spec,
                    lambda: env,
                    episodes=n,
                    seed=seed,
                    n_envs=1,
                    step_limit=step_limit,
                    progress=tell.part(n),
                )

        films.shoot(training_seed, play, one.returns)
    result = replace(result, videos=tuple(films.videos), notes=(*result.notes, *films.notes))
    _keep(judged, result)
    return result


@dataclass(frozen=True)
class _Judged:
    """Who plays, and what is known of the data they learned from."""

    policies: tuple[tuple[int | None, int | None, Acting], ...]  # seed, checkpoint step, policy
    dir: Path | None = None
    env_id: str | None = None
    dataset_id: str | None = None
    dataset: Dataset | None = None
    notes: tuple[str, ...] = ()
    picked: str | None = None  # how the checkpoints were
    discount: float | None = None  # that the run learned with


def _judged(subject: TrainedRun | Acting | str | Path, checkpoint: str | int) -> _Judged:
    if isinstance(subject, str | Path):
        subject = load_run(subject)
    if not isinstance(subject, TrainedRun):
        if not isinstance(subject, Acting):
            raise ConfigError(
                f"A {type(subject).__name__} cannot be evaluated.",
                "Give a run, its folder, or a policy.",
            )
        return _Judged(((None, None, subject),))
    run, policies, picked = subject.run, [], list[str]()
    for seed in subject.seeds:
        step = subject.checkpoint(seed, checkpoint).step
        which = checkpoint if str(checkpoint) == SELECTED else step  # "last" may move meanwhile
        policies.append((seed, step, subject.policy(seed, which)))
        picked.append(subject.picked(seed, checkpoint))
    dataset, notes = None, ()
    try:
        dataset = load(run.settings.dataset)
    except ConfigError:
        pass  # a run can be judged where its data is not
    except OffrlError as error:
        notes = (f"The run's dataset is there but was left aside: {error.cause}",)
    named = run.settings.dataset if dataset is None else dataset.id
    how = "; ".join(dict.fromkeys(picked))
    given = run.config.get("discount")
    discount = float(given) if isinstance(given, int | float) else None
    return _Judged(tuple(policies), subject.dir, run.env, named, dataset, notes, how, discount)


@dataclass(frozen=True)
class _Stage:
    """Where they play."""

    make: Callable[[], Env]
    draw: Callable[[], Env]  # the same world, with pictures
    env_id: str
    own: bool = False  # it is the environment of the data
    notes: tuple[str, ...] = ()


def _stage(
    env: str | Callable[[], Env] | None, judged: _Judged, trust_env: bool, made: Makers
) -> _Stage:
    if callable(env):
        made.refuse_ready()
        one = env()
        env_id = one.spec.id if one.spec is not None else type(one.unwrapped).__name__
        one.close()
        return _Stage(env, env, env_id, env_id == judged.env_id)
    if env is not None:
        env_id = env.rpartition(":")[2]
        notes = other_version(env_id, judged.env_id)
        return _Stage(
            make=lambda: made.by_id(env),
            draw=lambda: make_env(env, kwargs={"render_mode": DRAWS}),
            env_id=env_id,
            own=env_id == judged.env_id,
            notes=notes,
        )
    if judged.env_id is None:
        if judged.dir is None:
            raise ConfigError("A policy alone names no environment.", "Say which: env='ENV'.")
        raise ConfigError(
            f"The dataset of {judged.dir}, {judged.dataset_id}, names no environment to act in.",
            "Name one with --env ENV.",
        )
    dataset, named = judged.dataset, judged.env_id
    if dataset is None or dataset.env_id != named:
        return _Stage(
            make=lambda: made.by_id(named, trust=trust_env),
            draw=lambda: make_env(named, kwargs={"render_mode": DRAWS}, trust=trust_env),
            env_id=named,
            own=True,
        )
    described, note = env_description(dataset.metadata), version_note(dataset.metadata)
    return _Stage(
        make=lambda: made.of(dataset, trust_env=trust_env),
        draw=lambda: env_for(dataset, trust_env=trust_env, render_mode=DRAWS),
        env_id=named if described is None else str(described["id"]),
        own=True,
        notes=(note,) if note else (),
    )


def _reference(stage: _Stage, judged: _Judged) -> Reference | None:
    """Return the reference of the stage: the dataset's own counts only in its environment."""
    if stage.own:
        metadata = None if judged.dataset is None else judged.dataset.metadata
        found = lookup(stage.env_id, judged.dataset_id, metadata)
    else:
        found = lookup(stage.env_id)
    return None if found is None else require_apart(found)


def _told(kept: Mapping[str, Any], judged: _Judged) -> list[str]:
    """Return notes on seeds whose training did not reach its end, and what training remarked."""
    diverged, remarks = (kept.get(name) for name in ("diverged", "remarks"))
    told: Mapping[str, Any] = diverged if isinstance(diverged, dict) else {}
    said: Mapping[str, Any] = remarks if isinstance(remarks, dict) else {}
    notes = [
        f"Training of seed {seed} stopped early, its checkpoint of step {step} acts: {told[key]}"
        for seed, step, _ in judged.policies
        if (key := str(seed)) in told
    ]
    rolled_back = kept.get("rolled_back")
    fallen: Mapping[str, Any] = rolled_back if isinstance(rolled_back, dict) else {}
    notes += [
        f"Acting of seed {seed} was stopped: {fallen[key]['why']}"
        for seed, _, _ in judged.policies
        if (key := str(seed)) in fallen
    ]
    behavior = kept.get("behavior")
    if isinstance(behavior, str) and behavior.startswith("estimated"):
        notes.append(f"The probabilities of the behavior are {behavior}.")
    warned = kept.get("warnings")
    notes += [f"Training warned: {text}" for text in warned] if isinstance(warned, list) else []
    return notes + [
        f"Training of seed {seed}: {text}"
        for seed, _, _ in judged.policies
        for text in said.get(str(seed), ())
    ]


def _films(
    folder: str | Path | None,
    stage: _Stage,
    judged: _Judged,
    episodes: int,
    step_timeout: float | None,
) -> Films | None:
    """Return what films the first episodes, after a first picture; None where nobody asked."""
    if folder is None:
        return None
    if step_timeout is not None:
        raise ConfigError(
            "What is filmed is played in this process, where no step can be ended alone.",
            "Leave out the time that a step may take, or the videos.",
        )
    seeds = [seed for seed, _, _ in judged.policies]
    return Films(Path(folder), seeds, episodes, stage.make, stage.draw)


def _keep(judged: _Judged, result: Evaluation) -> None:
    """Replace result.json whole, or leave the old one."""
    if judged.dir is None:
        return
    path = judged.dir / RESULT
    page = {**read_result(judged.dir), "format": FORMAT, "evaluation": result.to_dict()}
    keep_file(
        path,
        json.dumps(page, indent=2, allow_nan=False).encode() + b"\n",
        "Make room or mend the permissions, then evaluate again.",
    )


class _Telling:
    """Tells how many of all episodes are over, part by part."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self.progress, self.total, self.before = progress, total, 0

    def part(self, episodes: int) -> Callable[[int, int], None] | None:
        """Return what the next `episodes` are counted by."""
        before, self.before = self.before, self.before + episodes
        progress = self.progress
        if progress is None:
            return None
        return lambda finished, _: progress(before + finished, self.total)
