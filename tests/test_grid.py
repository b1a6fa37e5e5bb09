"""A grid trains every value with one update, and each run is the one that its value gives alone."""

from collections import deque
from pathlib import Path
from typing import Any

import pytest
from training_runs import digest, outcome, saved_dataset, settings_of, tree

import offrl
from offrl import workers
from offrl.algorithm import fields_of
from offrl.algos import ALGORITHMS, get
from offrl.errors import ConfigError, NumericsError
from offrl.events import Event, Trained
from offrl.grid import fit_grid, point_name, product, resolve_grid, train_grid
from offrl.run import SETTINGS

REF = "toy/box-v0"
VALUES = {"temperature": (0.3, 1.0), "lr": (1e-3, 3e-4)}


def plain(given: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `fit` as `resolve` takes them."""
    own = {name: value for name, value in given.items() if name not in SETTINGS}
    return {"hyperparameters": own, **{k: v for k, v in given.items() if k in SETTINGS}}


def prepared(algo: str) -> str:
    """The reference of a small dataset that `algo` learns on."""
    discrete = "box" not in get(algo).spaces
    return saved_dataset("toy/choice-v0" if discrete else REF, discrete=discrete).id


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_run_of_a_grid_has_the_bits_of_the_run_alone(algo: str, tmp_path: Path):
    # An algorithm that took its setting from the configuration, and not from the state, would give
    # every run that of the first. The conformance suite holds this for each setting by itself.
    traced = [field for field in fields_of(get(algo).Config) if field.traced and field.default]
    name, value = traced[0].name, traced[0].default / 2
    data, small = prepared(algo), settings_of(algo, compile="off")
    if get(algo).judges:
        small["policy"] = str(offrl.fit("bc", data, steps=2, out=tmp_path / "judged").dir)
    grid = {name: (traced[0].default, value)}
    first, second = fit_grid(algo, data, grid, out=tmp_path / "grid", **small).values()
    assert second.dir.name == point_name({name: value})
    alone = offrl.fit(algo, data, out=tmp_path / "alone", **small, **{name: value})
    assert outcome(second.dir) == outcome(alone.dir)
    assert outcome(second.dir) != outcome(first.dir)


def test_a_grid_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path):
    saved_dataset()
    given = settings_of("awr", seeds=(0, 3))
    whole = fit_grid("awr", REF, VALUES, out=tmp_path / "whole", **given)
    names = list(whole)
    assert names == [point_name(point) for point in product(VALUES)]

    def stop_at(point: str, step: int) -> Any:
        def consume(name: str, event: Event) -> None:
            if name == point and isinstance(event, Trained) and event.step >= step:
                raise RuntimeError

        return consume

    for point, step in ((names[0], 25), (names[2], 60)):
        stop = stop_at(point, step)
        with pytest.raises(RuntimeError):
            fit_grid("awr", REF, VALUES, out=tmp_path / "run", resume=True, on_event=stop, **given)
    plan = resolve_grid(None, None, {}, out=tmp_path / "run", resume=True)
    assert plan.resumed
    resumed = fit_grid("awr", REF, {}, out=tmp_path / "run", resume=True)
    assert {n: outcome(r.dir) for n, r in resumed.items()} == {
        n: outcome(r.dir) for n, r in whole.items()
    }


def test_processes_share_the_runs_of_a_grid_and_change_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved_dataset()
    given = settings_of("awr", seeds=(0, 1))
    lone = fit_grid("awr", REF, {"lr": (1e-3, 1e-4)}, out=tmp_path / "lone", **given)
    monkeypatch.setattr(workers, "SPREAD_FROM", 1)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    spread = fit_grid("awr", REF, {"lr": (1e-3, 1e-4)}, out=tmp_path / "spread", **given)
    for name, run in spread.items():
        assert outcome(run.dir) == outcome(lone[name].dir)
        assert run.result["seeds"] == [0, 1]


def test_each_run_opens_like_any_other(tmp_path: Path):
    saved_dataset()
    fit_grid("bc", REF, {"lr": (1e-3,)}, out=tmp_path / "run", **settings_of("bc"))
    run = offrl.load_run(tmp_path / "run" / "lr=0.001")
    assert run.run.config["lr"] == 1e-3
    assert run.policy().predict([0.0] * run.policy().spec.obs_dim) is not None
    again = offrl.fit(
        "bc", REF, out=tmp_path / "again", config_file=run.dir / "run.toml", seeds=(0,)
    )
    assert outcome(again.dir) == outcome(run.dir)


def test_a_run_that_diverges_leaves_the_others_going(tmp_path: Path):
    saved_dataset()
    small = settings_of("bc")
    with pytest.raises(NumericsError, match=r"Seed 0 of lr=1e\+30 has diverged"):
        fit_grid("bc", REF, {"lr": (1e30, 1e-3)}, out=tmp_path / "run", **small)
    alone = offrl.fit("bc", REF, out=tmp_path / "alone", lr=1e-3, **small)
    assert outcome(tmp_path / "run" / "lr=0.001") == outcome(alone.dir)


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"hidden_size": (8, 16)}, "cannot vary within one compiled update.* offrl sweep"),
        ({"adv_norm": ("std",)}, "cannot vary within one compiled update.* offrl sweep"),
        ({"temprature": (1.0,)}, "no setting 'temprature'. Did you mean 'temperature'"),
        ({"temperature": ("hot",)}, "takes numbers in a grid, not 'hot'"),
        ({"temperature": ()}, "takes numbers in a grid, not nothing"),
        ({"temperature": (1, 1.0)}, "names a value of 'temperature' twice"),
        ({"temperature": (-1.0, 1.0)}, "'temperature' must be"),
        ({}, "The grid is empty. Give values of one of temperature, lr"),
    ],
)
def test_what_one_update_cannot_serve_is_one_sentence(grid: Any, said: str, tmp_path: Path):
    saved_dataset()
    with pytest.raises(ConfigError, match=said):
        fit_grid("awr", REF, grid, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_setting_is_set_by_the_grid_or_by_itself(tmp_path: Path):
    saved_dataset()
    with pytest.raises(ConfigError, match="'lr' is set by the grid and by itself"):
        fit_grid("bc", REF, {"lr": (1e-3,)}, out=tmp_path / "run", lr=1e-4)


def test_an_occupied_folder_and_other_settings_are_refused(tmp_path: Path):
    saved_dataset()
    small = settings_of("bc")
    out = tmp_path / "run"
    fit_grid("bc", REF, {"lr": (1e-3, 1e-4)}, out=out, **small)
    before = tree(out)
    with pytest.raises(ConfigError, match=r"occupied.* --resume"):
        fit_grid("bc", REF, {"lr": (1e-3,)}, out=out, **small)
    with pytest.raises(ConfigError, match="started otherwise: grid"):
        fit_grid("bc", REF, {"lr": (1e-3, 1e-5)}, out=out, resume=True)
    with pytest.raises(ConfigError, match="started otherwise"):
        fit_grid("bc", REF, {}, out=out, resume=True, steps=61)
    run = offrl.fit("bc", REF, out=tmp_path / "single", **small)
    with pytest.raises(ConfigError, match="occupied"):
        fit_grid("bc", REF, {"lr": (1e-3,)}, out=run.dir, resume=True)
    assert tree(out) == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning")
@pytest.mark.parametrize(("algo", "stages"), [("bc", 1), ("awr", 2), ("td3", 2)])
def test_a_compiled_grid_has_one_graph_a_stage(algo: str, stages: int, tmp_path: Path):
    from torch._dynamo.utils import counters

    saved_dataset()
    name = next(field.name for field in fields_of(get(algo).Config) if field.traced)
    default = next(f.default for f in fields_of(get(algo).Config) if f.name == name)
    grid = {name: (default, default / 2, default / 4), "lr": (1e-3, 3e-4)}
    grid = grid if name != "lr" else {"lr": (1e-3, 3e-4, 1e-4)}
    small = settings_of(algo, compile="on")
    plan = resolve_grid(algo, REF, grid, out=tmp_path / "run", **plain(small))
    counters.clear()
    deque(train_grid(plan), maxlen=0)
    assert counters["stats"]["unique_graphs"] == stages
    last = list(plan.points.values())[-1].dir
    alone = offrl.fit(algo, REF, out=tmp_path / "alone", **small, **product(grid)[-1])
    assert outcome(last) == outcome(alone.dir)
    assert digest(last / "run.toml") == digest(alone.dir / "run.toml")
