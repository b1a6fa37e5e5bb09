"""The whole way in one call: collect, check, train BC and AWR, evaluate all three.

Every number comes from running it; the commands that repeat it are part of the result.
"""

import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offrl.errors import CorruptDataError, NotFoundError, OffrlError

if TYPE_CHECKING:
    from offrl.data.checks import Report
    from offrl.data.dataset import Dataset
    from offrl.evaluation.evaluate import Evaluation
    from offrl.events import Event

DATASET = "offrl/pendulum/medium-v0"
BEHAVIOR = "demo/behavior-v0"  # where the printed commands put the behaviour's own episodes
EPISODES = 50
EVALUATION_SEED = 10_000  # far from the seeds of the data, so that no start is met again
# One pass of AWR, and as many steps of BC: a second pass gains nothing here.
STEPS: Mapping[str, int] = {"bc": 5_000, "awr": 5_000}
SMALL: Mapping[str, Any] = {"hidden_size": 64}  # a pendulum needs no more, and a demo is short


@dataclass(frozen=True)
class Line:
    """One line of the table: who acted, how well, and what it cost."""

    name: str
    return_mean: float
    return_ci: tuple[float, float] | None
    episodes: int
    steps: int  # gradient steps; 0 for the behaviour
    seconds: float  # of training and evaluation together
    run: str | None


@dataclass(frozen=True)
class Demo:
    """What the demonstration found."""

    dataset: dict[str, Any]
    problems: tuple[dict[str, Any], ...]
    lines: tuple[Line, ...]
    commands: tuple[str, ...]
    seconds: float

    @property
    def improved(self) -> bool:
        """Whether AWR's interval lies above the mean return of the behaviour it learned from."""
        by_name = {line.name: line for line in self.lines}
        bounds = by_name["awr"].return_ci
        return bounds is not None and bounds[0] > by_name["behavior"].return_mean

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        return {
            "dataset": self.dataset,
            "problems": list(self.problems),
            "results": [vars(line) for line in self.lines],
            "improved": self.improved,
            "commands": list(self.commands),
            "seconds": self.seconds,
        }


def demonstrate(
    runs: Path = Path("runs"),
    *,
    on_stage: Callable[[str], None] = lambda stage: None,
    on_event: "Callable[[str, Event], None]" = lambda algorithm, event: None,
    collecting: Callable[[int, int], None] | None = None,
) -> Demo:
    """Collect, check, train and evaluate; runs land in new folders `runs`/demo-<time>-<algo>.

    `on_stage` hears what begins, `on_event` the algorithm and each event of its training,
    `collecting` the episodes done and wanted.
    Raises CorruptDataError where the data does not pass its check.
    """
    started = time.perf_counter()
    data = _dataset(on_stage, collecting)
    on_stage(f"checking {data.id}")
    report = _checked(data)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    commands = [
        f"offrl collect {DATASET} --overwrite",
        f"offrl data check {DATASET}",
        f"offrl collect {DATASET} --episodes {EPISODES} --seed {EVALUATION_SEED} "
        f"--out {BEHAVIOR} --overwrite",
    ]
    on_stage(f"running the behaviour for {EPISODES} episodes")
    lines = [_behavior()]
    for algorithm, steps in STEPS.items():
        out = runs / f"demo-{stamp}-{algorithm}"
        on_stage(f"training {algorithm} for {steps} steps")
        lines.append(_trained(data, algorithm, steps, out, on_stage, on_event))
        commands += _commands(algorithm, steps, out)
    return Demo(
        data.summary(),
        tuple(report.to_dict()["problems"]),
        tuple(lines),
        tuple(commands),
        time.perf_counter() - started,
    )


def _dataset(
    on_stage: Callable[[str], None], collecting: Callable[[int, int], None] | None
) -> "Dataset":
    """The dataset as it was collected before, else collected now."""
    from offrl.collect.recorder import record
    from offrl.data.dataset import load

    there = True
    try:
        data = load(DATASET)
        if data.metadata.get("offrl", {}).get("fingerprint") == data.fingerprint:
            on_stage(f"using {data.id}, collected before")
            return data
        on_stage(f"collecting {DATASET} again: what is stored is not what was collected")
    except NotFoundError:
        there = False
        on_stage(f"collecting {DATASET}")
    except OffrlError as error:
        on_stage(f"collecting {DATASET} again: {error.cause}")
    return record(DATASET, overwrite=there, progress=collecting)


def _checked(data: "Dataset") -> "Report":
    from offrl.data.checks import check

    report = check(data)
    if not report.ok:
        first = next(p for p in report.problems if p.severity == "error")
        raise CorruptDataError(
            f"{data.id} does not pass its check: {first.message}", f"offrl data check {data.id}"
        )
    return report


def _behavior() -> Line:
    """The policy that made the data, in episodes that are not in the data."""
    from offrl.collect.recorder import run_episodes
    from offrl.data.recipe import load_recipe
    from offrl.evaluation.statistics import interval

    started = time.perf_counter()
    episodes = run_episodes(load_recipe(DATASET), episodes=EPISODES, seed=EVALUATION_SEED)
    returns = [episode.episode_return for episode in episodes]
    seconds = time.perf_counter() - started
    mean = sum(returns) / len(returns)
    return Line("behavior", mean, interval(returns), len(returns), 0, seconds, None)


def _trained(
    data: "Dataset",
    algorithm: str,
    steps: int,
    out: Path,
    on_stage: Callable[[str], None],
    on_event: "Callable[[str, Event], None]",
) -> Line:
    from offrl.evaluation.evaluate import evaluate
    from offrl.training import fit

    started = time.perf_counter()
    run = fit(
        algorithm,
        data,
        steps=steps,
        out=out,
        compile="off",
        on_event=lambda event: on_event(algorithm, event),
        **SMALL,
    )
    on_stage(f"evaluating {algorithm} over {EPISODES} episodes")
    found: Evaluation = evaluate(run, episodes=EPISODES, seed=EVALUATION_SEED)
    seconds = time.perf_counter() - started
    mean, bounds = found.return_mean, found.return_ci
    return Line(algorithm, mean, bounds, found.n_episodes, steps, seconds, str(out))


def _commands(algorithm: str, steps: int, out: Path) -> list[str]:
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in SMALL.items())
    again = shlex.quote(f"{out}-again")
    return [
        f"offrl train --algo {algorithm} --dataset {DATASET} --steps {steps} {flags} "
        f"--compile off --out {again}",
        f"offrl eval {again} --episodes {EPISODES} --seed {EVALUATION_SEED}",
    ]
