"""Settings and run.toml: what may be set, what is written down, and what is refused."""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from training_runs import saved_dataset, settings_of

from offrl.algorithm import configure, unknown_setting
from offrl.algos import get
from offrl.errors import ConfigError, CorruptDataError, IncompatibleVersionError, NotFoundError
from offrl.plan import resolve
from offrl.run import Run, Settings, read_run, read_toml

RUN = Run(
    settings=Settings(algo="bc", dataset="a/b-v0", seeds=(0, 3), holdout=0.25, steps=10),
    config={"lr": 1e-3, "temperature": math.inf, "head": "gaussian", "keep": 1.0},
    algorithm="bc",
    fingerprint="sha256:00",
    held_out=(1, 4),
    spec={"observation_space": "{}", "action_space": "{}"},
    env=None,
    versions={"torch": "2"},
)


def written(path: Path, run: Run = RUN) -> Path:
    path.write_text(run.to_toml(), "utf-8")
    return path


def test_run_toml_comes_back_as_it_was(tmp_path: Path):
    assert read_run(written(tmp_path / "run.toml")) == RUN
    full = replace(
        RUN,
        env="Pendulum-v1",
        source_sha256="ab",
        settings=replace(
            RUN.settings,
            eval_env="Pendulum-v1",
            eval_every=5,
            log_every=2,
            save_every=3,
            allow_nonfinite="drop-episode",
            clip_actions=True,
        ),
    )
    assert read_run(written(tmp_path / "full.toml", full)) == full


def test_differences_name_each_setting_with_both_values_and_leave_versions_out():
    other = replace(
        RUN,
        settings=replace(RUN.settings, steps=20),
        config={**RUN.config, "lr": 3e-4},
        fingerprint="sha256:11",
        versions={"torch": "3"},
    )
    assert RUN.differences(other) == [
        "bc.lr is 0.0003, was 0.001",
        "resolved.fingerprint is 'sha256:11', was 'sha256:00'",
        "steps is 20, was 10",
    ]
    assert RUN.differences(replace(RUN, versions={})) == []


def test_a_users_file_may_lie_elsewhere_but_must_hold_the_same():
    mine = replace(RUN, settings=replace(RUN.settings, algo="/a/x.py:Mine"), source_sha256="aa")
    moved = replace(mine, settings=replace(RUN.settings, algo="/b/y.py:Mine"))
    assert mine.differences(moved) == []
    assert mine.differences(replace(moved, source_sha256="bb"))
    assert mine.differences(replace(mine, settings=replace(RUN.settings, algo="/a/x.py:Other")))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "'steps' must be a whole number from 1, not 0"),
        ({"steps": 1.5}, "'steps' must be a whole number from 1, not 1.5"),
        ({"steps": True}, "'steps' must be a whole number"),
        ({"eval_every": -1}, "'eval_every' must be"),
        ({"threads": 0}, "'threads' must be"),
        ({"seeds": ()}, "'seeds' must be whole numbers"),
        ({"seeds": (1, -2)}, "'seeds' must be whole numbers"),
        ({"seeds": (1, 1)}, "'seeds' names one seed twice"),
        ({"holdout": 1.0}, "'holdout' is a share"),
        ({"holdout": -0.1}, "'holdout' is a share"),
        ({"holdout": "half"}, "'holdout' is a share"),
        ({"compile": "maybe"}, "'compile' cannot be 'maybe'"),
        ({"precision": "fp16"}, "'precision' cannot be 'fp16'"),
        ({"allow_nonfinite": "yes"}, "'allow_nonfinite' cannot be 'yes'"),
        ({"clip_actions": "no"}, "'clip_actions' is true or false, not 'no'"),
        ({"device": 3}, "'device' is text, not 3"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(changes: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        Settings(algo="bc", dataset="a/b-v0", **changes)


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("algo = ", CorruptDataError, "is not TOML"),
        ("format = 1\n", CorruptDataError, "lacks what a run needs: 'resolved'"),
        ("format = 2\n", IncompatibleVersionError, "has format 2; this offrl reads format 1"),
        ('[resolved]\nalgorithm = "bc"\n', ConfigError, "no algo and no dataset"),
    ],
)
def test_a_run_file_that_cannot_be_read_is_named(
    text: str, error: type[Exception], said: str, tmp_path: Path
):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(error, match=said):
        read_run(path)


def test_bytes_that_are_no_text_are_named_and_so_is_a_file_that_is_missing(tmp_path: Path):
    (tmp_path / "run.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorruptDataError, match=r"run\.toml is not TOML"):
        read_toml(tmp_path / "run.toml")
    with pytest.raises(NotFoundError, match=r"no file .*missing\.toml"):
        read_toml(tmp_path / "missing.toml")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gamma", "called 'discount'"),
        ("learning-rate", "called 'lr'"),
        ("beta", "called 'temperature' (ours divides)"),
        ("max_weight", "called 'weight_cap'"),
        ("lam", "called 'td_lambda'"),
        ("temprature", "'temperature'"),
        ("gama", "'discount'"),
        ("xyzzy", "There are: adv_norm"),
    ],
)
def test_an_unknown_setting_is_answered_with_ours(name: str, said: str):
    config = get("awr").Config
    assert said in unknown_setting(name, config)
    with pytest.raises(ConfigError, match=f"There is no setting '{name}'"):
        configure(config, {name: 1})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("lr", "fast", "'lr' takes a number, not 'fast'"),
        ("lr", True, "'lr' takes a number, not True"),
        ("batch_size", 2.5, "'batch_size' takes a whole number"),
        ("normalize_obs", 1, "'normalize_obs' takes true or false"),
        ("adv_norm", "mean", "'adv_norm' takes one of none, std"),
    ],
)
def test_a_mistyped_value_says_what_the_setting_takes(name: str, value: Any, said: str):
    with pytest.raises(ConfigError, match=said) as caught:
        configure(get("awr").Config, {name: value})
    assert caught.value.remedy.startswith("It means:")


def test_a_whole_number_is_taken_where_a_number_is_asked():
    config: Any = configure(get("awr").Config, {"temperature": 3})
    assert config.temperature == 3.0
    assert isinstance(config.temperature, float)


def test_run_toml_as_a_config_file_gives_the_same_run(tmp_path: Path):
    saved_dataset()
    given = settings_of("bc", seeds=(2, 5), head="deterministic", lr=1e-2)
    hyper = {k: given.pop(k) for k in ("hidden_size", "batch_size", "head", "lr")}
    plan = resolve("bc", "toy/box-v0", hyperparameters=hyper, **given)
    path = written(tmp_path / "repeat.toml", plan.run)
    again = resolve(config_file=path)
    assert again.run == plan.run
    assert again.run.config == asdict(plan.config)
