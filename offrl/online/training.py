"""Training by acting: every seed of an online run, its files, and what came of it."""

import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import nn

from offrl import checkpoint as checkpoints
from offrl.algorithm import Algorithm, begin
from offrl.checkpoint import TrainedRun
from offrl.data.durable import write_file
from offrl.driving import How, drive, locked
from offrl.errors import CorruptDataError, OffrlError
from offrl.evaluation.evaluate import evaluate
from offrl.events import (
    Diverged,
    Endings,
    Evaluated,
    Event,
    Finished,
    RolledBack,
    Started,
    Trained,
)
from offrl.guard import Env, makers
from offrl.learner import Progress, State, Update, make_update
from offrl.logs import MetricsFile, TensorBoard
from offrl.online.floor import Floor
from offrl.online.loop import Loop
from offrl.online.outcome import Outcome
from offrl.online.plan import OnlinePlan, logged_table, resolve
from offrl.online.recording import Recording, metadata_of, published, recorded_id
from offrl.online.replay import Replay
from offrl.online.replay_loop import ReplayLoop
from offrl.online.rollout_loop import RolloutLoop
from offrl.online.rollouts import Rollouts, Running
from offrl.online.schedule import RecentConfig, ReplayConfig
from offrl.online.worlds import Worlds
from offrl.policy import Policy, threads
from offrl.run import FORMAT, read_toml
from offrl.tracking import Tracking
from offrl.watch import Extremes
from offrl.workers import Job, work

_LIMIT = "--step-timeout="  # of a worker


def finetune(
    run: str | Path,
    env: str,
    env_steps: int,
    *,
    on_event: Callable[[Event], None] | None = None,
    track: str | None = None,
    **settings: Any,
) -> TrainedRun:
    """Let the policy of a run act and go on learning; the same as `offrl finetune`.

    `settings` are those of `online.plan.resolve`: out, resume, seeds, device, compile, precision,
    threads, step_timeout, and the tables `hyperparameters` and `online`; `track` is wandb, mlflow
    or trackio, to which the metrics go too. Raises ConfigError before anything is written, after
    the other seeds are done NumericsError where one has diverged, FloorError where one fell below
    its floor.
    """
    return _run(resolve(env=env, env_steps=env_steps, run=run, **settings), on_event, track)


def fit_online(
    algo: str,
    env: str,
    env_steps: int,
    *,
    on_event: Callable[[Event], None] | None = None,
    track: str | None = None,
    **settings: Any,
) -> TrainedRun:
    """Train `algo` from scratch by acting; the same as `offrl train --env`. As `finetune` else."""
    return _run(resolve(algo, env, env_steps, **settings), on_event, track)


def _run(
    plan: OnlinePlan, on_event: Callable[[Event], None] | None, track: str | None
) -> TrainedRun:
    endings = Endings()
    # A consumer that raises stops the run where it stands.
    with Tracking(track, plan.run, plan.dir) as tell, closing(train(plan)) as events:
        for event in events:
            tell(event)
            if on_event:
                on_event(event)
            endings.see(event)
    endings.check(plan.dir)
    return TrainedRun(plan.dir, plan.run, plan.run.settings.seeds)


def train(plan: OnlinePlan) -> Generator[Event]:
    """Train every seed of an online run, yielding events as they happen; as `training.train`."""
    words = () if plan.step_timeout is None else (f"{_LIMIT}{plan.step_timeout!r}",)
    how = How(train_jobs, Outcome, "offrl.online.training", words)
    with closing(drive((plan,), how)) as events:
        for _, event in events:
            yield event


def train_jobs(jobs: Sequence[Job]) -> Generator[tuple[int, Event]]:
    """Train seeds of one run, one after the other, in this process, with one update."""
    plan: OnlinePlan = jobs[0][0]
    algorithm, settings = plan.algorithm(plan.config, plan.spec), plan.run.settings
    update, notes = None, plan.notes
    for number, (_, seed) in enumerate(jobs):
        with locked(plan.dir / f"seed_{seed}"), threads(settings.threads):
            modules, state = _start(plan, algorithm, seed)
            if update is None:  # one compiled graph serves every seed
                update = make_update(algorithm, modules, compiled=settings.compile == "on")
            for event in _seed(plan, algorithm, seed, modules, state, update, notes):
                yield number, event
            notes = ()


def _start(
    plan: OnlinePlan, algorithm: Algorithm[Any], seed: int
) -> tuple[dict[str, nn.Module], State]:
    device, precision = plan.run.settings.device, plan.run.settings.precision
    bounds: dict[str, torch.Tensor] = {}
    if not plan.spec.discrete:
        low, high = plan.spec.action_low, plan.spec.action_high
        bounds = {"action_low": torch.as_tensor(low), "action_high": torch.as_tensor(high)}
    like = torch.zeros(0, device=device)
    modules, state = begin(algorithm, bounds, like, seed, precision)
    if plan.parent is None:
        return modules, state
    found = plan.parent.checkpoint(seed).tensors
    old = checkpoints.restore({"state": state}, found)["state"]
    own = algorithm.scalars()
    adam = state["adam"] if plan.online.reset_optimizer else _adam(old["adam"], state["adam"])
    return modules, {
        **old,
        "adam": adam,
        "scalars": {k: old["scalars"][k] if k in own else v for k, v in state["scalars"].items()},
    }


def _adam(old: State, new: State) -> State:
    """The averages of the offline run with the learning rates of this one."""
    return {name: {**moments, "lr": new[name]["lr"]} for name, moments in old.items()}


def _seed(
    plan: OnlinePlan,
    algorithm: Algorithm[Any],
    seed: int,
    modules: dict[str, nn.Module],
    state: State,
    update: Update,
    notes: tuple[str, ...],
) -> Generator[Event]:
    with makers(plan.step_timeout) as made, ExitStack() as stack:

        def world() -> Env:
            return made.by_id(plan.env)

        worlds = Worlds(world, plan.spec, plan.online.n_envs, seed)
        stack.callback(worlds.close)
        recording = worlds.recording = _recording(plan, seed, worlds.worlds[0].env)
        if recording is not None:
            stack.callback(recording.abandon)
        loop = _loop(plan, algorithm, seed, modules, state, update, worlds, world)
        told = _resume(loop) if plan.resumed else []
        yield Started(seed, loop.now.step, (*notes, *told))
        yield from _rest(loop)
        if recording is not None:
            recording.publish()


def _rest(loop: Loop[Any, Any]) -> Generator[Event]:
    """What a seed has still to do, where that is anything."""
    verdict = loop.folder / "diverged.toml"
    if verdict.exists():
        yield Diverged(loop.seed, loop.now.step, str(read_toml(verdict)["message"]))
    elif loop.complete and loop.floor.fell is None:
        yield Finished(loop.seed, loop.now.step, loop.seconds)
    else:
        yield from _written(loop, verdict)


def _recording(plan: OnlinePlan, seed: int, env: Env) -> Recording | None:
    """Where the episodes of a seed are recorded; None where they are not, or are already."""
    if not plan.online.record:
        return None
    id = recorded_id(plan.online.record, seed, plan.run.settings.seeds)
    begun = plan.resumed and bool(checkpoints.folders(plan.dir / f"seed_{seed}"))
    metadata = metadata_of(plan.algorithm.name, plan.config, plan.online, seed)
    if begun and published(id, metadata):
        return None
    return Recording(id, env, metadata, resume=begun)


def _loop(
    plan: OnlinePlan,
    algorithm: Algorithm[Any],
    seed: int,
    modules: dict[str, nn.Module],
    state: State,
    update: Update,
    worlds: Worlds,
    world: Callable[[], Env],
) -> Loop[Any, Any]:
    online, device = plan.online, plan.run.settings.device

    def tried(network: nn.Module) -> dict[str, Any]:
        policy = Policy(plan.spec, network, device)
        return evaluate(policy, world, episodes=online.eval_episodes, seed=seed).to_dict()

    warmup = online.warmup if isinstance(online, ReplayConfig) else 0
    shared: dict[str, Any] = {
        "algorithm": algorithm,
        "modules": modules,
        "spec": plan.spec,
        "online": online,
        "env_steps": plan.env_steps,
        "seed": seed,
        "folder": plan.dir / f"seed_{seed}",
        "update": update,
        "worlds": worlds,
        "logged": logged_table(plan),
        "evaluate": tried,
        "floor": Floor(online.floor, online.eval_episodes, warmup),
        "now": Progress(0, state, state, {}),
        "extremes": _earned(plan),
    }
    if isinstance(online, ReplayConfig):
        replay = Replay(plan.spec, online.replay_size, device, plan.algorithm.lived)
        return ReplayLoop(replay=replay, **shared)
    kept = online.replay_size if isinstance(online, RecentConfig) else 0
    scratch = plan.parent is None
    return RolloutLoop(
        replay=Rollouts(plan.spec, kept, device),
        anchor={name: state[name] for name in ("params", "buffers", "scalars")},
        scratch=scratch,
        running=Running(plan.spec.obs_dim) if scratch and plan.config.normalize_obs else None,
        **shared,
    )


def _earned(plan: OnlinePlan) -> Extremes:
    """The rewards of the log that came before; none from scratch, or where it is not mixed in."""
    if plan.dataset is None:
        return Extremes()
    transitions = plan.dataset.transitions
    return Extremes().seen(transitions.reward, transitions.terminated)


def _resume(loop: Loop[Any, Any]) -> list[str]:
    """Take up what the newest checkpoint holds; sentences where that is not exact."""
    found = checkpoints.newest(loop.folder)
    if found is None:
        return []
    state = checkpoints.restore({"state": loop.now.state}, found.tensors)["state"]
    loop.now = Progress(found.step, state, state, {})
    try:
        loop.restore(found.tensors)
        fault = loop.worlds.restore(checkpoints.under("worlds", found.tensors))
        loop.extremes = Extremes(*found.page["extremes"])
        loop.floor.restore(state, checkpoints.under("floor", found.tensors), found.page)
        loop.env_step = loop.saved_at = int(found.page["env_step"])
        loop.logged_at, loop.tried_at = found.page["logged_at"], found.page["tried_at"]
        told = found.page.get("metrics", {})  # older checkpoints have none
        metrics = {name: torch.tensor(value, dtype=torch.float64) for name, value in told.items()}
        loop.now = loop.now._replace(metrics=metrics)
        loop.seconds = float(found.page["seconds"])
        loop.returns, loop.lengths = list(found.page["returns"]), list(found.page["lengths"])
    except KeyError as error:
        raise CorruptDataError(
            f"The checkpoint of step {found.step} in {loop.folder} lacks {error}.",
            "Train again into a new folder.",
        ) from error
    return [] if fault is None else [fault]


def _written(loop: Loop[Any, Any], verdict: Path) -> Generator[Event]:
    """The loop's events, each written where it belongs."""
    metrics = MetricsFile(loop.folder / "metrics.csv", up_to=loop.env_step, key="env_step")
    board = TensorBoard(loop.folder, loop.env_step)
    loop.began, early = time.perf_counter() - loop.seconds, False
    try:
        with closing(loop.events()) as events:
            for event in events:
                if isinstance(event, Trained | Evaluated):
                    values = _values(event)
                    metrics.append(loop.env_step, values)
                    board.append(loop.env_step, values)
                if isinstance(event, Diverged):
                    page = {"format": FORMAT, "step": event.step, "message": event.message}
                    write_file(verdict, tomli_w.dumps(page).encode())
                early = early or isinstance(event, Diverged | RolledBack)
                yield event
    except OSError as error:
        raise OffrlError(
            f"{loop.folder} cannot be written: {error.strerror or error}.",
            "Make room or mend the permissions, then go on with --resume.",
        ) from error
    finally:
        board.close()
    if not early:
        yield Finished(loop.seed, loop.now.step, time.perf_counter() - loop.began)


def _values(event: Trained | Evaluated) -> dict[str, float]:
    if isinstance(event, Trained):
        found = {k: v for k, v in event.metrics.items() if k != "env_step"}
    else:
        found = {"eval/return_mean": float(event.evaluation["return_mean"])}
    return {"step": event.step, **found}


def main(words: list[str]) -> int:
    """Train the seeds that a parent names, as a worker; the exit status."""
    limit = None
    if words[0].startswith(_LIMIT):
        limit = float(words.pop(0).removeprefix(_LIMIT))

    def opened(algo: str, folders: list[str]) -> dict[str, OnlinePlan]:
        return {
            folder: resolve(algo, out=folder, resume=True, step_timeout=limit) for folder in folders
        }

    return work(words, opened, train_jobs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
