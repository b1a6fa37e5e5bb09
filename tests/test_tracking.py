"""Tracking services, by modules that stand for them: what they are sent, and what stops them."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from training_runs import saved_dataset, settings_of

from offrl.errors import ConfigError
from offrl.logs import read_metrics
from offrl.tracking import Tracking
from offrl.training import fit
from offrl_cli import main


class Service(ModuleType):
    """A tracking package, remembering what it was sent."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)  # which find_spec asks for
        self.runs: list[dict[str, Any]] = []
        self.fails = ""

    def made(self, **words: Any) -> "Service.Run":
        if self.fails == "init":
            raise OSError("no network")
        self.runs.append({"words": words, "rows": [], "ended": None})
        return Service.Run(self, self.runs[-1])

    class Run:
        def __init__(self, service: "Service", record: dict[str, Any]) -> None:
            self.service, self.record = service, record

        def log(self, values: dict[str, float], step: int) -> None:
            if self.service.fails == "log":
                raise OSError("the service hung up")
            self.record["rows"].append((step, values))

        def finish(self, exit_code: int | None = None) -> None:
            self.record["ended"] = exit_code


class Client:
    """As MLflow's: everything goes through one object, runs have numbers."""

    service: Any = None

    def get_experiment_by_name(self, name: str) -> Any:
        return None

    def create_experiment(self, name: str) -> str:
        assert name == "offrl"
        return "7"

    def create_run(self, number: str, run_name: str, tags: dict[str, str]) -> Any:
        assert number == "7"
        self.service.made(name=run_name, group=tags["group"], config={})
        return SimpleNamespace(info=SimpleNamespace(run_id=len(self.service.runs) - 1))

    def log_param(self, run: int, key: str, value: Any) -> None:
        self.service.runs[run]["words"]["config"][key] = value

    def log_metric(self, run: int, key: str, value: float, timestamp: int, step: int) -> None:
        assert timestamp > 1e12
        if self.service.fails == "log":
            raise OSError("the service hung up")
        self.service.runs[run]["rows"].append((step, {key: value}))

    def set_terminated(self, run: int, status: str) -> None:
        self.service.runs[run]["ended"] = {"FINISHED": 0, "FAILED": 1}[status]


@pytest.fixture(params=["wandb", "mlflow", "trackio"])
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Service:
    found = Service(request.param)
    found.__dict__["init"] = found.made
    found.__dict__["MlflowClient"] = type("MlflowClient", (Client,), {"service": found})
    monkeypatch.setitem(sys.modules, request.param, found)
    return found


def merged(rows: list[tuple[int, dict[str, float]]]) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for step, values in rows:
        found.setdefault(step, {}).update(values)
    return found


def test_each_seed_is_a_run_of_its_own_with_the_numbers_of_metrics_csv(
    service: Service, tmp_path: Path
) -> None:
    saved_dataset()
    run = fit(
        "bc",
        "toy/box-v0",
        out=tmp_path / "run",
        track=service.__name__,
        seeds=(0, 3),
        **settings_of("bc"),
    )
    assert [one["words"]["name"] for one in service.runs] == [
        f"{run.dir}/seed_0",
        f"{run.dir}/seed_3",
    ]
    for one, seed in zip(service.runs, (0, 3), strict=True):
        rows = merged(one["rows"])
        logged = dict(read_metrics(run.dir / f"seed_{seed}" / "metrics.csv", 10**9))
        assert rows.keys() == logged.keys()
        for step, values in logged.items():
            assert rows[step].pop("steps_per_second") > 0
            assert rows[step] == values
        assert one["words"]["group"] == str(run.dir)
        config = one["words"]["config"]
        assert (config["seed"], config["hidden_size"], config["algo"]) == (seed, 8, "bc")
        assert "seeds" not in config
        assert one["ended"] in (0, None)
        assert (one["words"].get("reinit") == "create_new") == (service.__name__ == "wandb")


def test_what_is_tracked_changes_no_bit_of_the_run(service: Service, tmp_path: Path) -> None:
    saved_dataset()
    plain = fit("bc", "toy/box-v0", out=tmp_path / "plain", **settings_of("bc"))
    same = fit("bc", "toy/box-v0", out=tmp_path / "b", track=service.__name__, **settings_of("bc"))
    for name in ("seed_0/metrics.csv", "run.toml"):
        assert (plain.dir / name).read_text() == (same.dir / name).read_text()


@pytest.mark.parametrize("fails", ["init", "log"])
def test_a_service_that_fails_is_told_once_and_training_goes_on(
    service: Service, fails: str, tmp_path: Path
) -> None:
    saved_dataset()
    service.fails = fails
    with pytest.warns(UserWarning, match="training goes on without it") as caught:
        run = fit(
            "bc", "toy/box-v0", out=tmp_path / "a", track=service.__name__, **settings_of("bc")
        )
    assert len(caught) == 1
    assert run.checkpoint(0).step == 60


def test_a_run_that_is_stopped_ends_as_failed(tmp_path: Path, service: Service) -> None:
    saved_dataset()

    def stop(event: object) -> None:
        if getattr(event, "step", 0) >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(
            "bc",
            "toy/box-v0",
            out=tmp_path / "run",
            track=service.__name__,
            on_event=stop,
            **settings_of("bc"),
        )
    assert len(service.runs) == 1
    assert service.runs[0]["ended"] == (None if service.__name__ == "trackio" else 1)


def test_resuming_a_seed_that_is_done_makes_no_empty_run(service: Service, tmp_path: Path) -> None:
    saved_dataset()
    fit("bc", "toy/box-v0", out=tmp_path / "run", **settings_of("bc"))
    fit("bc", "toy/box-v0", out=tmp_path / "run", resume=True, track=service.__name__)
    assert service.runs == []


def test_a_run_that_acts_is_tracked_by_environment_steps(service: Service, tmp_path: Path) -> None:
    words = "train --algo dqn --env CartPole-v1 --env-steps 60 --warmup 20 --hidden-size 8"
    also = f"--batch-size 8 --eval-every 30 --eval-episodes 1 --log-every 10 --out {tmp_path}/run"
    assert main([*words.split(), *also.split(), "--track", service.__name__]) == 0
    rows = merged(service.runs[0]["rows"])
    assert max(rows) == 60
    assert "eval/return_mean" in rows[30]
    assert "eval/score" in rows[60]


@pytest.mark.parametrize("kind", ["wandb", "mlflow", "trackio"])
def test_a_package_that_is_not_there_is_named_with_the_line_that_installs_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    saved_dataset()
    words = ["train", "--algo", "bc", "--dataset", "toy/box-v0", "--steps", "5"]
    assert main([*words, "--track", kind, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert f"pip install '{kind}" in said
    assert not (tmp_path / "run").exists()


def test_an_unknown_service_and_a_grid_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit("bc", saved_dataset(), out=tmp_path / "run", **settings_of("bc", steps=5))
    with pytest.raises(ConfigError, match=r"Nothing tracks by 'wandbb'\. Did you mean 'wandb'"):
        Tracking("wandbb", run.run, run.dir)
    words = ["train", "--algo", "awr", "--dataset", "toy/box-v0", "--grid", "temperature=1,2"]
    assert main([*words, "--track", "wandb"]) == 2
    assert "A grid is not tracked" in capsys.readouterr().err


def test_off_by_default_nothing_is_imported_or_sent(service: Service, tmp_path: Path) -> None:
    fit("bc", saved_dataset(), out=tmp_path / "run", **settings_of("bc", steps=5))
    assert service.runs == []
