"""An online run decided before anything is written: from scratch, or on from an offline run."""

import hashlib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from offrl import plan as offline
from offrl.algorithm import Algorithm, AlgorithmConfig, configure
from offrl.algos import ALGORITHMS, get, source_of
from offrl.checkpoint import TrainedRun, load_run
from offrl.data.catalogue import check_id
from offrl.data.dataset import Dataset, load
from offrl.data.spec import Spec
from offrl.environments import check_spaces, made_anywhere, other_version, version_note
from offrl.errors import ConfigError
from offrl.guard import Env, check_seconds, makers
from offrl.lessons import RolloutAlgorithm
from offrl.online.recording import published, recorded_id
from offrl.online.schedule import OnlineConfig, scheduled
from offrl.run import SETTINGS, Run, Settings, current_versions, read_toml

# Changing these would make other networks than those of the offline run.
_SHAPES = ("hidden_size", "hidden_layers", "critics", "layer_norm", "normalize_obs")


@dataclass(frozen=True)
class OnlinePlan:
    """A resolved online run."""

    run: Run
    env: str
    env_steps: int
    spec: Spec
    algorithm: type[Algorithm[Any]]
    config: AlgorithmConfig
    online: OnlineConfig
    parent: TrainedRun | None
    dataset: Dataset | None  # logged rows that are mixed in
    dir: Path
    notes: tuple[str, ...]
    resumed: bool
    reopens: bool  # whether another process can make its environment
    step_timeout: float | None = None  # seconds that a step may take; no part of what is computed


def resolve(
    algo: str | None = None,
    env: str | None = None,
    env_steps: int | None = None,
    *,
    run: str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    config_file: str | Path | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    online: Mapping[str, Any] | None = None,
    seeds: tuple[int, ...] | None = None,
    device: str | None = None,
    compile: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    step_timeout: float | None = None,
) -> OnlinePlan:
    """Decide everything about a run that acts; write nothing.

    With `run`, its policy goes on learning (all its seeds, or RUN/seed_3), with its settings but
    for those that are given; without, `algo` starts afresh.
    Raises ConfigError for what makes no sense, NotFoundError for what does not exist.
    """
    if step_timeout is not None:
        check_seconds(step_timeout)
    folder, old = offline.target(out, resume)
    if old is not None and old.online is None:
        raise ConfigError(
            f"The run in {folder} learns from a log.", "Go on with it by `offrl train --resume`."
        )
    path = Path(config_file) if config_file else folder / "run.toml" if folder and old else None
    file = read_toml(path) if path else {}
    resolved: dict[str, Any] = file.get("resolved", {})
    run = run or resolved.get("parent")
    env = env or file.get("eval_env")
    env_steps = env_steps or resolved.get("env_steps")
    parent = None if run is None else load_run(run)
    algo = algo or (None if parent is None else parent.run.settings.algo) or file.get("algo")
    if algo is None:
        raise ConfigError("The algorithm is missing.", "Give --algo NAME, or finetune a run.")
    if env is None or env_steps is None:
        raise ConfigError(
            "Acting needs an environment and a number of steps.", "Give --env ENV --env-steps N."
        )
    if env_steps < 1:
        raise ConfigError(f"'env_steps' must be at least 1, not {env_steps}.")
    algorithm = get(algo)
    with makers(step_timeout) as made, closing(made.by_id(env)) as one:
        spec = _spec(one, parent)
    _check(algorithm, spec, env)
    _check_given(algorithm, hyperparameters or {})
    table = {**file.get(algorithm.name, {}), **(hyperparameters or {})}
    config = _config(algorithm, table, parent, also=SETTINGS)
    given = {**file.get("online", {}), **(online or {})}
    logged = parent is not None and bool(parent.run.settings.dataset)
    scratch = parent is None
    schedule = scheduled(algorithm.acts, given, env_steps, scratch=scratch, logged=logged)
    schedule.check(config)
    steps = schedule.gradient_steps(env_steps, algorithm(config, spec))
    if steps < 1:
        raise ConfigError(
            f"{env_steps} environment steps come to no gradient step.", "Give more --env-steps."
        )
    given_settings = {
        "seeds": seeds or file.get("seeds") or (parent and parent.seeds),
        "device": device or file.get("device"),
        "compile": compile or file.get("compile"),
        "precision": precision
        or file.get("precision")
        or (parent and parent.run.settings.precision),
        "threads": threads or file.get("threads"),
    }
    settings, notes = _settings(
        algo, env, steps, parent, {k: v for k, v in given_settings.items() if v}
    )
    if schedule.record:
        check_id(schedule.record)
        for seed in settings.seeds:
            id = recorded_id(schedule.record, seed, settings.seeds)
            if old is None and published(id):
                raise ConfigError(
                    f"The dataset {id} exists already.", "Choose another id for --record."
                )
    data = _logged(parent, schedule)
    if parent is not None:
        notes += other_version(env.rpartition(":")[2], parent.run.env)
    if data is not None and (note := version_note(data.metadata)):
        notes.append(note)
    source = source_of(algo)
    decided = Run(
        settings=settings,
        config=asdict(config),
        algorithm=algorithm.name,
        fingerprint=parent.run.fingerprint if parent is not None else "",
        held_out=parent.run.held_out if parent is not None else (),
        spec=spec.to_json(),
        env=env,
        versions=current_versions(),
        source_sha256=hashlib.sha256(source.read_bytes()).hexdigest() if source else None,
        online=asdict(schedule),
        env_steps=env_steps,
        parent=None if parent is None else str(run),
    )
    if old is not None:
        decided, told = old.resumed(decided, folder)
        notes += told
    where = folder or offline.default_folder(algorithm.name, env)
    return OnlinePlan(
        run=decided,
        env=env,
        env_steps=env_steps,
        spec=spec,
        algorithm=algorithm,
        config=config,
        online=schedule,
        parent=parent,
        dataset=data,
        dir=where,
        notes=tuple(notes),
        resumed=old is not None,
        reopens=made_anywhere(env),
        step_timeout=step_timeout,
    )


def _spec(env: Env, parent: TrainedRun | None) -> Spec:
    if parent is None:
        return Spec(env.observation_space, env.action_space)
    spec = Spec.from_json(parent.run.spec)
    check_spaces(env, spec)
    return spec


def _check(algorithm: type[Algorithm[Any]], spec: Spec, env: str) -> None:
    kind = "discrete" if spec.discrete else "box"
    fitting = [n for n in ALGORITHMS if get(n).acts and kind in get(n).spaces]
    if not algorithm.acts:
        raise ConfigError(
            f"{algorithm.name} learns from a log, not while acting.",
            f"These act in {env}: {', '.join(fitting)}.",
        )
    if kind not in algorithm.spaces:
        words = "discrete" if spec.discrete else "continuous"
        raise ConfigError(
            f"{algorithm.name} does not learn on {words} actions, which {env} has.",
            f"These do: {', '.join(fitting)}.",
        )
    bounded = spec.discrete or np.isfinite([spec.action_low, spec.action_high]).all()
    if not bounded:
        raise ConfigError(
            f"The actions of {env} have no bounds, so nothing says how far to explore.",
            "Wrap it in gymnasium's ClipAction or RescaleAction.",
        )
    if not spec.discrete and (equal := np.flatnonzero(spec.action_low >= spec.action_high)).size:
        raise ConfigError(
            f"Coordinate {equal[0]} of the actions of {env} has equal bounds, so there is nothing"
            " to choose.",
            "Wrap it in a gymnasium.ActionWrapper that leaves this coordinate out.",
        )


def _check_given(algorithm: type[Algorithm[Any]], given: Mapping[str, Any]) -> None:
    """Refuse settings that have a meaning in learning from a log alone."""
    of_log = algorithm.of_log if issubclass(algorithm, RolloutAlgorithm) else ()
    for name in given:
        if name in of_log:
            raise ConfigError(
                f"'{name}' is for learning from a log; while it acts, {algorithm.name} learns from"
                " rollouts.",
                f"Leave --{name.replace('_', '-')} away.",
            )


def _config(
    algorithm: type[Algorithm[Any]],
    table: dict[str, Any],
    parent: TrainedRun | None,
    also: set[str],
) -> AlgorithmConfig:
    own = dict(algorithm.online) if issubclass(algorithm, RolloutAlgorithm) else {}
    if parent is None:
        # There is no data whose mean and spread could be taken.
        table = {"normalize_obs": False, **own, **table}
        found = configure(algorithm.Config, table, also=also)
        if found.normalize_obs and not own:
            raise ConfigError(
                "There is no log whose mean and spread observations could be scaled by.",
                "Leave --normalize-obs away, or wrap the environment in one that scales.",
            )
        return found
    if algorithm.name != parent.run.algorithm:
        raise ConfigError(
            f"{parent.dir} was trained by {parent.run.algorithm}, not by {algorithm.name}.",
            "Leave --algo away; a run goes on with its own algorithm.",
        )
    before = parent.run.config
    config = configure(algorithm.Config, {**before, **own, **table}, also=also)
    for name in _SHAPES:
        if name in table and table[name] != before.get(name):
            raise ConfigError(
                f"'{name}' is {before.get(name)} in {parent.dir}: another value would make other "
                "networks.",
                f"Leave --{name.replace('_', '-')} away.",
            )
    return config


def _settings(
    algo: str,
    env: str,
    steps: int,
    parent: TrainedRun | None,
    given: dict[str, Any],
) -> tuple[Settings, list[str]]:
    settings = Settings(
        algo=algo,
        dataset="" if parent is None else parent.run.settings.dataset,
        steps=steps,
        eval_env=env,
        holdout=0.0 if parent is None else parent.run.settings.holdout,
        **{**given, "seeds": tuple(given.get("seeds", (0,)))},
    )
    if parent is not None and (unknown := set(settings.seeds) - set(parent.seeds)):
        raise ConfigError(
            f"{parent.dir} has no seed {min(unknown)}.",
            f"It has {', '.join(map(str, parent.seeds))}.",
        )
    device = offline.device_of(settings.device)
    compiled, notes = offline.compiles(settings.compile, steps * len(settings.seeds), device)
    return replace(settings, device=device, compile="on" if compiled else "off"), notes


def _logged(parent: TrainedRun | None, schedule: OnlineConfig) -> Dataset | None:
    if parent is None or schedule.mix == 0:
        return None
    settings = parent.run.settings
    try:
        data = load(
            settings.dataset,
            allow_nonfinite="drop-episode" if settings.allow_nonfinite else None,
            clip_actions=settings.clip_actions,
        )
    except ConfigError as error:
        raise ConfigError(
            f"The logged data to mix in is not there: {error.cause}", "Bring it, or use --mix 0."
        ) from error
    if data.fingerprint != parent.run.fingerprint:
        raise ConfigError(
            f"The data of {parent.dir} has changed since: {data.fingerprint}, was"
            f" {parent.run.fingerprint}.",
            "Restore it, or use --mix 0.",
        )
    return data


def logged_table(plan: OnlinePlan) -> Any:
    """The logged transitions that may be mixed in, without the held-out episodes; or None."""
    from offrl.batch import Table

    if plan.dataset is None:
        return None
    transitions = plan.dataset.transitions
    held = np.array(plan.run.held_out, dtype=np.int64)
    kept = np.setdiff1d(np.arange(transitions.n_episodes), held) if len(held) else None
    return Table.of(transitions, plan.run.settings.device, torch.float32, kept)
