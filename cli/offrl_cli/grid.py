"""`offrl train --grid`: several values of a traced setting, trained with one compiled update."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from offrl.errors import ConfigError
from offrl_cli.flags import is_code
from offrl_cli.output import Answer, Pairs, Rows, note, number, quoted
from offrl_cli.progress import Training
from offrl_cli.stopping import going_on

if TYPE_CHECKING:
    from offrl.grid import GridPlan

EXAMPLE = "--grid temperature=0.3,1,3"


def parsed(words: Sequence[str]) -> dict[str, list[float]]:
    """Return the values by the names of `NAME=V,V` words; ConfigError names a wrong word."""
    found: dict[str, list[float]] = {}
    for word in words:
        name, equals, values = word.partition("=")
        name = name.strip().replace("-", "_")
        if not name or not equals:
            raise ConfigError(f"--grid: '{word}' is not NAME=VALUE,VALUE.", EXAMPLE)
        if name in found:
            raise ConfigError(f"--grid names '{name}' twice.", "give all its values in one --grid")
        try:
            found[name] = [float(value) for value in values.split(",")]
        except ValueError:
            raise ConfigError(f"--grid: '{word}' holds what is not a number.", EXAMPLE) from None
    return found


def train_grid(
    algo: str | None, dataset: str | None, words: Sequence[str], given: Mapping[str, Any]
) -> Answer:
    """Train the grid of `words`, or go on with the one that `given` names."""
    from offrl import grid as library
    from offrl.checkpoint import TrainedRun
    from offrl.events import Endings
    from offrl_cli.train import print_settings

    plan = library.resolve_grid(algo, dataset, parsed(words), **given)
    first = next(iter(plan.points.values()))
    settings = first.run.settings
    print_settings(first)
    note(f"grid: {plan.dir} ({len(plan.points)} runs{', resumed' if plan.resumed else ''})")
    code = f"--algo {quoted(settings.algo)} " if is_code(settings.algo) else ""
    resume = f"offrl train {code}--out {quoted(plan.dir)} --resume"
    endings = Endings()
    label = f"{first.run.algorithm} on {first.dataset.id}"
    with (
        going_on(resume),
        Training(label, settings.steps) as show,
        closing(library.train_grid(plan)) as events,
    ):
        for point, event in events:
            show(event, point)
            endings.see(event, point)
    endings.check(plan.dir)
    runs = {
        point: TrainedRun(one.dir, one.run, settings.seeds).result
        for point, one in plan.points.items()
    }
    return _answer(plan, runs)


def _answer(plan: "GridPlan", runs: Mapping[str, Mapping[str, Any]]) -> Answer:
    first = next(iter(plan.points.values()))
    settings = first.run.settings
    found = {
        "run": str(plan.dir),
        "algo": settings.algo,
        "dataset": settings.dataset,
        "steps": settings.steps,
        "seeds": list(settings.seeds),
        "grid": {name: list(values) for name, values in plan.grid.items()},
        "runs": {point: dict(result) for point, result in runs.items()},
    }
    pairs = {
        "grid": found["run"],
        "algorithm": settings.algo,
        "dataset": settings.dataset,
        "steps": f"{settings.steps} for each seed",
        "seeds": ", ".join(str(seed) for seed in settings.seeds),
    }
    rows = [
        (point, result["run"], number(result["steps_per_second"], 0))
        for point, result in runs.items()
    ]
    env = "" if settings.eval_env is None else f" --env {quoted(settings.eval_env)}"
    if first.run.env is None and not env:
        env = " --env ENV"
    return Answer(
        found,
        [Pairs(pairs), Rows(("point", "run", "steps per second"), rows)],
        next=f"offrl eval {quoted(first.dir)}{env}",
    )
