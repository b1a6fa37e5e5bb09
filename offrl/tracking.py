"""Sends the numbers of a run to a tracking service, off unless asked for: `--track wandb`.

Each seed is a run of its own there, named RUN/seed_<n>, with the run's settings as its
configuration; a run that is resumed is another one in the same group. The x axis is the gradient
step, of a run that acts the environment step. metrics.csv stays the record: a service that fails
is told once, and training goes on without it.
"""

import importlib
import time
import warnings
from collections.abc import Callable, Mapping
from importlib import util
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from offrl.errors import ConfigError, suggest
from offrl.events import Diverged, Evaluated, Event, Finished, RolledBack, Trained
from offrl.run import Run

PROJECT = "offrl"
INSTALLS = {"wandb": "wandb>=0.19.10", "mlflow": "mlflow", "trackio": "trackio"}


class _Sink(Protocol):
    """One run in a tracking service."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def end(self, good: bool) -> None: ...


class _Wandb:
    """Both wandb and trackio, whose runs have the same methods."""

    def __init__(self, module: Any, name: str, group: str, config: dict[str, Any]) -> None:
        # wandb would otherwise take one seed's run for another's.
        more = {"reinit": "create_new"} if module.__name__ == "wandb" else {}
        self._tells_status = bool(more)
        self._run = module.init(project=PROJECT, name=name, group=group, config=config, **more)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def end(self, good: bool) -> None:
        if self._tells_status:
            self._run.finish(exit_code=0 if good else 1)
        else:
            self._run.finish()


class _MLflow:
    def __init__(self, module: Any, name: str, group: str, config: dict[str, Any]) -> None:
        self._client = module.MlflowClient()
        known = self._client.get_experiment_by_name(PROJECT)
        number = self._client.create_experiment(PROJECT) if known is None else known.experiment_id
        made = self._client.create_run(number, run_name=name, tags={"group": group})
        self._id = made.info.run_id
        for key, value in config.items():
            self._client.log_param(self._id, key, value)

    def log(self, values: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, now, step)

    def end(self, good: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if good else "FAILED")


_SINKS: dict[str, Callable[..., _Sink]] = {"wandb": _Wandb, "mlflow": _MLflow, "trackio": _Wandb}


class Tracking:
    """A consumer of a run's events; `with Tracking(kind, run, folder) as tell: tell(event)`.

    `kind` is wandb, mlflow or trackio; None sends nothing anywhere. Raises ConfigError where the
    package is not installed or `kind` is none of them.
    """

    def __init__(self, kind: str | None, run: Run, folder: Path) -> None:
        self._kind, self._run, self._folder = kind, run, folder
        self._seeds: dict[int, _Sink] = {}
        self._broken = False
        if kind is None:
            return
        if kind not in _SINKS:
            raise ConfigError(
                f"Nothing tracks by '{kind}'.{suggest(kind, _SINKS)}",
                f"Use --track with {', '.join(_SINKS)}.",
            )
        if util.find_spec(kind) is None:
            raise ConfigError(
                f"Tracking by {kind} needs its package, which is not installed.",
                f"Install it: pip install '{INSTALLS[kind]}'",
            )

    def __enter__(self) -> "Tracking":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for seed in list(self._seeds):
            self._end(seed, good=False)

    def __call__(self, event: Event) -> None:
        """Send what an event says."""
        if self._kind is None or self._broken:
            return
        if isinstance(event, Trained):
            at = int(event.metrics.get("env_step", event.step))
            values = {**event.metrics, "steps_per_second": event.steps_per_second}
            self._log(event.seed, values, at)
        elif isinstance(event, Evaluated):
            found = event.evaluation
            names = ("return_mean", "score", "length_mean")
            values = {f"eval/{k}": float(found[k]) for k in names if found.get(k) is not None}
            self._log(event.seed, values, int(found.get("env_step", event.step)))
        elif isinstance(event, Diverged | RolledBack | Finished):
            self._end(event.seed, good=isinstance(event, Finished))

    def _begin(self, seed: int) -> _Sink:
        module = importlib.import_module(str(self._kind))
        settings = {k: v for k, v in vars(self._run.settings).items() if v is not None}
        acting = {f"online.{k}": v for k, v in (self._run.online or {}).items()}
        facts = {"algorithm": self._run.algorithm, "fingerprint": self._run.fingerprint}
        config = {**self._run.config, **acting, **settings, **facts, "seed": seed}
        del config["seeds"]
        name, group = f"{self._folder}/seed_{seed}", str(self._folder)
        return _SINKS[str(self._kind)](module, name, group, config)

    def _log(self, seed: int, values: Mapping[str, float], step: int) -> None:
        def work() -> None:
            if seed not in self._seeds:  # only now: a seed that is done already has no numbers
                self._seeds[seed] = self._begin(seed)
            self._seeds[seed].log(values, step)

        self._guarded(work)

    def _end(self, seed: int, good: bool) -> None:
        sink = self._seeds.pop(seed, None)
        if sink is not None and not self._broken:
            self._guarded(lambda: sink.end(good))

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # whatever a service raises, the training is worth more
            self._broken = True
            warnings.warn(
                f"Tracking by {self._kind} failed ({type(error).__name__}: {error}); training goes"
                " on without it.",
                stacklevel=3,
            )
