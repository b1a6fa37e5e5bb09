"""Training: a generator of events over a resolved run; it names no algorithm and calls nobody back.

Progress bars, metrics.csv, TensorBoard and early stopping are consumers of the events.
"""

import copy
import logging
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from torch import Tensor, nn

from offrl import checkpoint as checkpoints
from offrl.algorithm import Algorithm, constant_features, start
from offrl.batch import Table
from offrl.checkpoint import TrainedRun
from offrl.data.dataset import Dataset
from offrl.data.durable import write_file
from offrl.driving import How, drive, locked
from offrl.environments import env_for
from offrl.errors import EnvError, NumericsError, OffrlError, WorkError
from offrl.evaluation.evaluate import evaluate
from offrl.events import (
    Diverged,
    Endings,
    Evaluated,
    Event,
    Finished,
    Saved,
    Started,
    Trained,
    Warned,
)
from offrl.keeping import Keeper
from offrl.learner import Learner, Progress, State, Update, make_update, steps
from offrl.logs import MetricsFile, TensorBoard
from offrl.nn import set_precision
from offrl.outcome import Outcome
from offrl.plan import Plan, beside, resolve
from offrl.policy import Policy, threads
from offrl.run import FORMAT, read_toml
from offrl.sampler import Sampler
from offrl.tracking import Tracking
from offrl.workers import Job, work

_LOG = logging.getLogger("offrl")


def fit(
    algo: str,
    data: str | Path | Dataset,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    config_file: str | Path | None = None,
    on_event: Callable[[Event], None] | None = None,
    track: str | None = None,
    steps: int | None = None,
    seeds: Iterable[int] | None = None,
    holdout: float | None = None,
    eval_env: str | None = None,
    eval_every: int | None = None,
    eval_episodes: int | None = None,
    log_every: int | None = None,
    save_every: int | None = None,
    select: str | None = None,
    device: str | None = None,
    compile: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    allow_nonfinite: str | None = None,
    clip_actions: bool | None = None,
    **hyperparameters: Any,
) -> TrainedRun:
    """Train `algo` on a dataset or its reference; the same as `offrl train`.

    `track` is wandb, mlflow or trackio, to which the metrics go too; None is nowhere.
    Raises ConfigError or NotFoundError before anything is written, LockedError where the folder
    is in use, NumericsError after the other seeds are done where one has diverged.
    """
    plan = resolve(
        algo,
        data,
        out=out,
        resume=resume,
        config_file=config_file,
        hyperparameters=hyperparameters,
        steps=steps,
        seeds=None if seeds is None else tuple(int(s) for s in seeds),
        holdout=holdout,
        eval_env=eval_env,
        eval_every=eval_every,
        eval_episodes=eval_episodes,
        log_every=log_every,
        save_every=save_every,
        select=select,
        device=device,
        compile=compile,
        precision=precision,
        threads=threads,
        allow_nonfinite=allow_nonfinite,
        clip_actions=clip_actions,
    )
    endings = Endings()
    # A consumer that raises stops the run where it stands.
    with Tracking(track, plan.run, plan.dir) as tell, closing(train(plan)) as events:
        for event in events:
            tell(event)
            if on_event:
                on_event(event)
            if isinstance(event, Warned):
                _LOG.warning(event.message)
            endings.see(event)
    endings.check(plan.dir)
    return TrainedRun(plan.dir, plan.run, plan.run.settings.seeds)


def train(plan: Plan) -> Generator[Event]:
    """Train every seed of a resolved run, yielding events as they happen.

    Writes the run folder. Raises LockedError where another process trains in it; a seed whose
    loss stops being finite is reported as Diverged, and the others go on.
    """
    with closing(train_together((plan,))) as events:
        for _, event in events:
            yield event


def train_together(plans: Sequence[Plan]) -> Generator[tuple[Plan, Event]]:
    """Train runs on the same data that differ in traced settings alone, with one update for all.

    Every run has the bits that it has by itself. Writes the folders and raises as `train` does.
    """
    yield from drive(plans, How(train_jobs, Outcome, "offrl.training"))


def _opened(algo: str, folders: list[str]) -> dict[str, Plan]:
    """The runs of these folders, all of them on the data that the first one opened."""
    first = resolve(algo, out=folders[0], resume=True)
    rest = {folder: beside(first, out=folder, resume=True) for folder in folders[1:]}
    return {folders[0]: first, **rest}


def train_jobs(jobs: Sequence[Job]) -> Generator[tuple[int, Event]]:
    """Train seeds of runs on the same data, one after the other, in this process, with one update.

    Yields the number of the job with each event.
    """
    first = jobs[0][0]
    transitions, device = first.dataset.transitions, first.run.settings.device
    held, kept = None, None
    if first.run.held_out:
        held_out = np.array(first.run.held_out, dtype=np.int64)
        kept = np.setdiff1d(np.arange(transitions.n_episodes), held_out)
        held = Table.of(transitions, device, episodes=held_out)
    table = Table.of(transitions, device, episodes=kept)
    notes, update = _notes(first, table), None
    for number, (plan, seed) in enumerate(jobs):
        settings, folder = plan.run.settings, plan.dir / f"seed_{seed}"
        algorithm = plan.instance()
        with locked(folder), threads(settings.threads):
            modules, state = start(algorithm, table, seed, settings.precision)
            if update is None:  # one compiled graph serves every job
                update = make_update(algorithm, modules, compiled=settings.compile == "on")
            rows, draws = algorithm.rows(table), algorithm.draws()
            sampler = Sampler(table, seed, plan.config.batch_size, rows, draws)
            job = _Job(plan, algorithm, seed, folder, modules, sampler, held)
            for event in job.events(state, update, notes):
                yield number, event
            notes = ()


def _notes(plan: Plan, table: Table) -> tuple[str, ...]:
    notes = list(plan.notes)
    if constant := constant_features(table):
        notes.append(f"obs columns {constant} never change: they are centred and not scaled.")
    if len(table) < plan.config.batch_size:
        notes.append(
            f"{len(table)} transitions are fewer than a batch of {plan.config.batch_size}: "
            "a batch holds each several times."
        )
    return tuple(notes)


@dataclass
class _Job:
    """One seed of a run: where it stands, what it writes."""

    plan: Plan
    algorithm: Algorithm[Any]
    seed: int
    folder: Path
    modules: dict[str, nn.Module]
    sampler: Sampler
    held: Table | None
    seconds: float = 0.0  # of earlier sittings
    began: float = 0.0
    saved: int = -1  # the newest step known to be on the disk

    def __post_init__(self) -> None:
        self.keeper = Keeper.of(self.plan.algorithm, self.plan.run.settings.select, self.folder)

    def events(self, state: State, update: Update, notes: tuple[str, ...]) -> Generator[Event]:
        """Go on from the newest whole checkpoint, or start."""
        now, fresh = self._resume(state)
        yield Started(self.seed, now.step, notes, self.algorithm.facts(self.sampler.table))
        verdict = self.folder / "diverged.toml"
        if verdict.exists():
            yield Diverged(self.seed, now.step, str(read_toml(verdict)["message"]))
            return
        if now.step >= self.plan.run.settings.steps:
            yield self._finished(now, self.seconds)
            return
        metrics = MetricsFile(self.folder / "metrics.csv", up_to=now.step)
        board = TensorBoard(self.folder, now.step)
        self.began = time.perf_counter() - self.seconds
        try:
            if fresh:
                yield self._save(now)
            with closing(self._steps(now, update)) as events:
                for event in events:
                    if isinstance(event, Trained):
                        metrics.append(event.step, event.metrics)
                        speed = {"steps_per_second": event.steps_per_second}
                        board.append(event.step, event.metrics | speed)
                    if isinstance(event, Evaluated):
                        values = {"eval/return_mean": event.evaluation["return_mean"]}
                        metrics.append(event.step, values)
                        board.append(event.step, values)
                    if isinstance(event, Diverged):
                        page = {"format": FORMAT, "step": event.step, "message": event.message}
                        write_file(verdict, tomli_w.dumps(page).encode())
                    yield event
        except OSError as error:
            raise OffrlError(
                f"{self.folder} cannot be written: {error.strerror or error}.",
                "Make room or mend the permissions, then go on with --resume.",
            ) from error
        finally:
            board.close()

    def _resume(self, state: State) -> tuple[Progress, bool]:
        found = checkpoints.newest(self.folder) if self.plan.resumed else None
        self.keeper.go_back(0 if found is None else found.step)
        if found is None:
            return Progress(0, state, state, {}), True
        self.seconds = float(found.page.get("seconds", 0.0))
        self.saved = found.step
        both = checkpoints.restore({"state": state, "anchor": state}, found.tensors)
        return Progress(found.step, both["state"], both["anchor"], {}), False

    def _steps(self, now: Progress, update: Update) -> Generator[Event]:
        settings, seed = self.plan.run.settings, self.seed
        log_every, save_every = settings.log_every or 1, settings.save_every or 1
        eval_every = settings.eval_every
        mark, marked, done = time.perf_counter(), now.step, now
        run = steps(self.algorithm, self.modules, self.sampler, now, settings.steps, update)
        try:
            for now in run:
                last = now.step == settings.steps
                if now.step % log_every == 0 or last:
                    nets = Learner(self.modules, now.state).nets
                    found = self.algorithm.findings(nets, self.sampler.table)
                    values = {k: float(v) for k, v in (now.metrics | found).items()}
                    values |= self._holdout(now)
                    rate = (now.step - marked) / max(time.perf_counter() - mark, 1e-9)
                    self.keeper.see(now.step, values, now.state, self._page())
                    yield Trained(seed, now.step, values, rate)
                    mark, marked = time.perf_counter(), now.step
                if eval_every and (now.step % eval_every == 0 or last):
                    yield Evaluated(seed, now.step, self._evaluate(now))
                    mark, marked = time.perf_counter(), now.step
                if now.step % save_every == 0 or last:
                    yield self._save(now)
                done = now
        except NumericsError as error:
            if now.step != self.saved:
                yield self._save(now)
            yield Diverged(seed, now.step, error.cause)
            return
        except (KeyboardInterrupt, SystemExit, GeneratorExit, EnvError, WorkError):
            if done.step > self.saved:
                self._save(done)  # the last step of which all was reported; the next is taken again
            raise
        yield self._finished(now, time.perf_counter() - self.began)

    def _finished(self, now: Progress, seconds: float) -> Finished:
        learner, tells = Learner(self.modules, now.state), self.algorithm
        said = tells.remarks(learner), tells.warnings(learner)
        return Finished(self.seed, now.step, seconds, *said)

    def _save(self, now: Progress) -> Saved:
        page = self._page() | {"seconds": time.perf_counter() - self.began}
        trees = {"state": now.state, "anchor": now.anchor}
        path = checkpoints.save(self.folder, now.step, trees, page)
        self.saved = now.step
        self.keeper.clock(now.step)
        return Saved(self.seed, now.step, path)

    def _page(self) -> dict[str, Any]:
        return checkpoints.page_of(self.modules, self.plan.dataset.spec)

    def _holdout(self, now: Progress) -> dict[str, float]:
        if self.held is None:
            return {}
        index = torch.linspace(0, len(self.held) - 1, min(len(self.held), 4096)).long()
        batch = self.held.gather(index.to(self.held.obs_row.device), {}, {})
        found = self.algorithm.holdout(Learner(self.modules, now.state).nets, batch)
        return {name: float(value) for name, value in found.items()}

    def _evaluate(self, now: Progress) -> dict[str, Any]:
        network = copy.deepcopy(self.modules["policy"])
        weights: dict[str, Tensor] = now.state["params"]["policy"] | now.state["buffers"]["policy"]
        network.load_state_dict(weights)
        set_precision([network], "fp32")  # as the policy will act once it is loaded
        settings, dataset = self.plan.run.settings, self.plan.dataset
        return evaluate(
            Policy(dataset.spec, network, settings.device),
            settings.eval_env or (lambda: env_for(dataset)),
            episodes=settings.eval_episodes,
            seed=self.seed,
        ).to_dict()


if __name__ == "__main__":
    sys.exit(work(sys.argv[1:], _opened, train_jobs))
