"""Grids: runs that differ in traced settings alone, trained with one compiled update.

RUN/grid.toml                  the settings of all of them, and the values of the grid
RUN/temperature=0.3/           a run like any other: run.toml, result.json, seed_<n>/
   /temperature=1/
"""

import itertools
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from offrl.algorithm import AlgorithmConfig, fields_of, unknown_setting
from offrl.algos import get, source_of
from offrl.checkpoint import TrainedRun
from offrl.data.dataset import Dataset
from offrl.data.durable import write_file
from offrl.driving import locked
from offrl.errors import ConfigError
from offrl.events import Endings, Event
from offrl.plan import Plan, beside, resolve
from offrl.run import FORMAT, SETTINGS, read_toml
from offrl.training import train_together

PAGE = "grid.toml"
Grid = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class GridPlan:
    """A resolved grid: its folder, and the plan of each point by the point's name."""

    dir: Path
    grid: dict[str, tuple[float, ...]]
    points: dict[str, Plan]
    page: dict[str, Any]
    resumed: bool


def fit_grid(
    algo: str,
    data: str | Path | Dataset,
    grid: Grid,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    config_file: str | Path | None = None,
    on_event: Callable[[str, Event], None] | None = None,
    **settings: Any,
) -> dict[str, TrainedRun]:
    """Train `algo` once for every point of `grid`, {"temperature": (0.3, 1, 3)}, with one update.

    Returns the runs by the names of their points, "temperature=0.3"; each has the bits of a run
    trained alone with that value. `settings` are those of `fit`, and so is what is raised;
    ConfigError also where a field of the grid is not traced. `on_event` is told the point.
    """
    given = {k: v for k, v in settings.items() if k in SETTINGS}
    if given.get("seeds") is not None:
        given["seeds"] = tuple(int(seed) for seed in given["seeds"])
    plan = resolve_grid(
        algo,
        data,
        grid,
        out=out,
        resume=resume,
        config_file=config_file,
        hyperparameters={k: v for k, v in settings.items() if k not in SETTINGS},
        **given,
    )
    endings = Endings()
    with closing(train_grid(plan)) as events:
        for point, event in events:
            if on_event:
                on_event(point, event)
            endings.see(event, point)
    endings.check(plan.dir)
    return {
        name: TrainedRun(one.dir, one.run, one.run.settings.seeds)
        for name, one in plan.points.items()
    }


def resolve_grid(
    algo: str | None,
    data: str | Path | Dataset | None,
    grid: Grid,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    config_file: str | Path | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    **given: Any,
) -> GridPlan:
    """Decide everything about a grid, as `plan.resolve` does for a run; write nothing.

    With `resume`, what the grid in `out` was started with stands, and no more need be given.
    """
    folder = None if out is None else Path(out)
    old = _stored(folder, resume)
    own = {k: v for k, v in given.items() if v is not None}
    hyper = dict(hyperparameters or {})
    if old is not None:
        if algo is None and source_of(old["algo"]):
            raise ConfigError(
                f"This grid's algorithm is code of yours, {old['algo']}.",
                f"Name it again to run it: --algo {old['algo']}",
            )
        grid, algo = grid or old["grid"], algo or str(old["algo"])
        data = old["dataset"] if data is None else data
        stored = {k: v for k, v in old.items() if k in SETTINGS - {"algo", "dataset"}}
        stored["seeds"] = tuple(stored["seeds"])
        own, hyper = {**stored, **own}, {**old[get(algo).name], **hyper}
    elif algo is None and config_file is not None:
        algo = read_toml(Path(config_file)).get("algo")
    if algo is None:
        raise ConfigError("A grid needs an algorithm.", "Give --algo.")
    values = _checked(grid, algo, get(algo).Config, hyper)
    points = {point_name(point): point for point in product(values)}
    shared: dict[str, Any] = {
        "resume": resume,
        "config_file": None if old else config_file,
        "together": len(points),
        **own,
    }
    (name, point), *others = points.items()
    place = None if folder is None else folder / name
    first = resolve(algo, data, out=place, hyperparameters={**hyper, **point}, **shared)
    if folder is None:
        folder = first.dir
        first = replace(first, dir=folder / name)
    plans = {name: first}
    for name, point in others:
        settings = {**hyper, **point}
        plans[name] = beside(first, out=folder / name, hyperparameters=settings, **shared)
    page = _page(first, values)
    if old is not None and page != old:
        changed = sorted(key for key in page.keys() | old.keys() if page.get(key) != old.get(key))
        raise ConfigError(
            f"The grid in {folder} was started otherwise: {', '.join(changed)}.",
            "Resume it with --out RUN --resume alone, or train into a new folder.",
        )
    return GridPlan(folder, values, plans, page, old is not None)


def train_grid(plan: GridPlan) -> Generator[tuple[str, Event]]:
    """Train every point of a resolved grid, yielding events, each with the name of its point."""
    names = {one.dir: name for name, one in plan.points.items()}
    with locked(plan.dir):
        write_file(plan.dir / PAGE, tomli_w.dumps(plan.page).encode())
        with closing(train_together(tuple(plan.points.values()))) as events:
            for one, event in events:
                yield names[one.dir], event


def product(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of one value a field, the last field changing fastest."""
    rows = itertools.product(*values.values())
    return [dict(zip(values, row, strict=True)) for row in rows]


def point_name(point: Mapping[str, Any]) -> str:
    """ "temperature=0.3,lr=0.001": a point as a folder is called."""
    return ",".join(f"{name}={_short(value)}" for name, value in point.items())


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _stored(folder: Path | None, resume: bool) -> dict[str, Any] | None:
    """The page of the grid in a folder that is resumed; None for a grid that starts."""
    if folder is None:
        if resume:
            raise ConfigError("Nothing says which grid to resume.", "Give --out RUN --resume.")
        return None
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file.", "Give a folder as --out.")
    there = (folder / PAGE).is_file()
    if resume and there:
        return read_toml(folder / PAGE)
    # A grid that is killed before its page is there leaves no more than these.
    begun = folder.is_dir() and any(
        path.name != ".lock" and not path.name.startswith(f".{PAGE}.tmp")
        for path in folder.iterdir()
    )
    if begun:
        raise ConfigError(
            f"The folder {folder} is occupied.",
            "Give --resume to go on with the grid in it, or another --out."
            if there
            else "Give another --out.",
        )
    return None


def _checked(
    grid: Grid, algo: str, config: type[AlgorithmConfig], set_already: Mapping[str, Any]
) -> dict[str, tuple[float, ...]]:
    """The grid with its values as floats; ConfigError for what one update cannot serve."""
    fields = {field.name: field for field in fields_of(config)}
    traced = ", ".join(name for name, field in fields.items() if field.traced)
    if not grid:
        raise ConfigError("The grid is empty.", f"Give values of one of {traced}.")
    found: dict[str, tuple[float, ...]] = {}
    for name, values in grid.items():
        if name not in fields:
            raise ConfigError(
                f"{algo} has no setting '{name}'.", unknown_setting(name, config, SETTINGS)
            )
        if not fields[name].traced:
            raise ConfigError(
                f"'{name}' of {algo} cannot vary within one compiled update; {traced} can.",
                "Use offrl sweep FILE.toml, which trains each value by itself.",
            )
        if name in set_already:
            raise ConfigError(f"'{name}' is set by the grid and by itself.", "Set it once.")
        wrong = [v for v in values if isinstance(v, bool) or not isinstance(v, int | float)]
        if wrong or not values:
            said = repr(wrong[0]) if wrong else "nothing"
            raise ConfigError(f"'{name}' takes numbers in a grid, not {said}.")
        numbers = tuple(float(value) for value in values)
        if len(set(numbers)) < len(numbers):
            raise ConfigError(f"The grid names a value of '{name}' twice.", "Name each once.")
        found[name] = numbers
    return found


def _page(first: Plan, values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    settings = {k: v for k, v in asdict(first.run.settings).items() if v is not None}
    config = {name: value for name, value in first.run.config.items() if name not in values}
    return {
        "format": FORMAT,
        **settings,
        "seeds": list(first.run.settings.seeds),
        first.run.algorithm: config,
        "grid": {name: list(numbers) for name, numbers in values.items()},
    }
