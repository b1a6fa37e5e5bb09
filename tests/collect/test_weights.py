"""Policies that ship as small files act as the runs they are from, and damage to them is told."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from gymnasium import spaces

import offrl
from offrl.checkpoint import TrainedRun
from offrl.collect import weights
from offrl.collect.agents import load_agent
from offrl.collect.recorder import record
from offrl.collect.weights import export_policy, read_page, read_policy
from offrl.data.catalogue import shipped_recipes, shipped_weights
from offrl.data.recipe import BehaviorSpec, Recipe, load_recipe, name_of
from offrl.environments import make_env
from offrl.errors import (
    ConfigError,
    CorruptDataError,
    IncompatibleVersionError,
    NotFoundError,
    OffrlError,
)

COMMAND = "offrl train --algo bc --dataset me/log-v0 --steps 20 --seed 0"
ONE: dict[str, Any] = {"env": "Pendulum-v1", "episodes": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder / "datasets"))
        data = record("offrl/pendulum/medium-v0", episodes=2, out="me/log-v0")
        return offrl.fit(
            "bc", data, steps=20, seeds=(0, 1), out=folder / "run", hidden_size=8, save_every=10
        )


@pytest.fixture
def file(run: TrainedRun, tmp_path: Path) -> Path:
    return export_policy(run, tmp_path / "bc-20.safetensors", COMMAND)


class TestExported:
    def test_weights_act_and_score_as_the_run_they_are_from(
        self, run: TrainedRun, file: Path
    ) -> None:
        of_run = record(**ONE, policies=f"run:{run.dir},stochastic", out="me/run-v0")
        of_file = record(**ONE, policies=f"weights:{file},stochastic", out="me/file-v0")
        assert of_file.log_prob == "logged"
        assert of_file.fingerprint == of_run.fingerprint
        trained = offrl.load_policy(run.dir)
        for episode in of_file:
            scored = trained.log_prob(episode.observations[:-1], episode.actions)
            np.testing.assert_allclose(np.exp(scored - episode.behavior_log_prob), 1, atol=1e-5)

    def test_several_processes_record_the_same_with_them(self, file: Path) -> None:
        amount: dict[str, Any] = {"env": "Pendulum-v1", "episodes": 3}
        policies = [f"weights:{file},stochastic", f"weights:{file},noise=0.2"]
        alone = record(**amount, policies=policies, out="me/one-v0")
        assert record(**amount, policies=policies, out="me/two-v0", workers=2).fingerprint == (
            alone.fingerprint
        )

    def test_a_seed_and_a_step_can_be_chosen(self, run: TrainedRun, tmp_path: Path) -> None:
        files = [
            export_policy(run, tmp_path / f"{s}-{c}.safetensors", COMMAND, seed=s, checkpoint=c)
            for s, c in ((0, 10), (0, 20), (1, 20))
        ]
        pages = [read_page(str(file)) for file in files]
        assert [(page["seed"], page["step"]) for page in pages] == [(0, 10), (0, 20), (1, 20)]
        assert len({page["sha256"] for page in pages}) == 3
        with pytest.raises(NotFoundError, match="no checkpoint '15'"):
            export_policy(run, tmp_path / "x.safetensors", COMMAND, checkpoint=15)

    def test_a_page_says_what_made_them_and_the_data_keeps_their_digest(self, file: Path) -> None:
        page = read_page(str(file))
        assert page["command"] == COMMAND
        assert page["settings"]["bc"]["hidden_size"] == 8
        assert page["versions"]["torch"]
        data = record(**ONE, policies=f"weights:{file}", out="me/kept-v0")
        source = data.metadata["offrl"]["sources"][f"weights:{file}"]
        assert source == {
            "algorithm": "bc",
            "seed": 0,
            "step": 20,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }

    def test_a_ladder_gives_every_rung_the_same_number_of_episodes(
        self, run: TrainedRun, tmp_path: Path
    ) -> None:
        rungs = [
            export_policy(run, tmp_path / f"bc-{step}.safetensors", COMMAND, checkpoint=step)
            for step in (0, 10, 20)
        ]
        behaviors = tuple(BehaviorSpec(f"weights:{rung}", stochastic=True) for rung in rungs)
        data = record(Recipe("Pendulum-v1", behaviors, episodes=6, id="me/replay-v0"))
        assert [int(e.infos["behavior"][1]) for e in data] == [0, 1, 2, 0, 1, 2]

    def test_an_interrupted_recording_goes_on_with_them(self, file: Path) -> None:
        whole = record(env="Pendulum-v1", policies=f"weights:{file}", episodes=2, out="me/a-v0")

        def stop(done: int, of: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            record(
                env="Pendulum-v1", policies=f"weights:{file}", episodes=2, out="me/b-v0",
                progress=stop,
            )  # fmt: skip
        assert record(out="me/b-v0", resume=True).fingerprint == whole.fingerprint

    def test_an_id_is_made_without_the_ending(self) -> None:
        assert name_of("Hopper-v5", ["weights:a/sac-90.safetensors,noise=0.1"]) == (
            "me/hopper/sac-90-v0"
        )


def test_shipped_weights_are_named_by_folder_and_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = {"pendulum/bc-20": file}
    monkeypatch.setattr(weights, "shipped_weights", lambda: shipped)
    assert read_policy("pendulum/bc-20").spec == read_policy(str(file)).spec
    with pytest.raises(NotFoundError, match=r"Did you mean 'pendulum/bc-20'"):
        read_policy("pendulum/bc-2")


def test_what_ships_can_be_read_and_is_small() -> None:
    for name, file in shipped_weights().items():
        world = make_env(read_page(name)["env"])
        assert read_policy(name).spec == offrl.Spec(world.observation_space, world.action_space)
        world.close()
        assert read_page(name)["command"].startswith("offrl train --algo ")
        assert file.stat().st_size < 500_000


def test_every_weights_that_a_shipped_recipe_names_are_there() -> None:
    named = {
        behavior.policy.removeprefix("weights:")
        for recipe_id in shipped_recipes()
        for behavior in load_recipe(recipe_id).behaviors
        if behavior.policy.startswith("weights:")
    }
    assert named == set(shipped_weights())


class TestWhatIsOff:
    def test_another_environment_is_told(self, file: Path) -> None:
        with pytest.raises(ConfigError, match=r"observations of weights:.* are not the environ"):
            record(env="CartPole-v1", policies=f"weights:{file}", episodes=1, out="me/a-v0")

    def test_a_missing_file_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match="There are no weights 'nowhere/td3-10'"):
            load_agent("weights:nowhere/td3-10", spaces.Discrete(2), spaces.Discrete(2))
        with pytest.raises(NotFoundError):
            read_policy(str(tmp_path / "none.safetensors"))

    def test_a_name_without_the_ending_is_refused_before_anything_is_written(
        self, run: TrainedRun, tmp_path: Path
    ) -> None:
        with pytest.raises(ConfigError, match=r"does not end in \.safetensors"):
            export_policy(run, tmp_path / "weights.pt", COMMAND)
        assert not list(tmp_path.glob("weights*"))

    @pytest.mark.parametrize("position", [0, 9, 200, -1])
    def test_a_changed_byte_is_told(self, file: Path, position: int) -> None:
        data = bytearray(file.read_bytes())
        data[position] ^= 1
        file.write_bytes(bytes(data))
        with pytest.raises(CorruptDataError, match="is damaged"):
            read_policy(str(file))

    @pytest.mark.parametrize("cut", [0, 10, -1])
    def test_a_cut_file_and_a_cut_page_are_told(self, file: Path, cut: int) -> None:
        whole, page = file.read_bytes(), file.with_suffix(".json")
        file.write_bytes(whole[:cut])
        with pytest.raises(CorruptDataError, match="is damaged"):
            read_policy(str(file))
        file.write_bytes(whole)
        page.write_bytes(page.read_bytes()[: cut - 2])
        with pytest.raises(CorruptDataError, match=r"bc-20\.json"):
            read_policy(str(file))

    def test_a_missing_page_and_one_of_another_format_are_told(self, file: Path) -> None:
        page = file.with_suffix(".json")
        page.write_text(page.read_text().replace('"format": 1', '"format": 2'))
        with pytest.raises(IncompatibleVersionError, match="has format 2"):
            read_policy(str(file))
        page.unlink()
        with pytest.raises(CorruptDataError, match="cannot be read"):
            read_policy(str(file))

    @pytest.mark.parametrize(
        ("change", "fault"),
        [
            (lambda page, _: page["policy"].update(head="mine"), "no policy head 'mine'"),
            (lambda page, _: page["policy"].update(hidden_size=10**15), "not a policy"),
            (lambda page, _: page["policy"].update(hidden_layers=10**9), "layers cannot be"),
            (lambda page, _: page["policy"].update(hidden_size="8"), "sizes"),
            (lambda page, _: page["policy"].update(obs_dim=4), "not one for its spaces"),
            (lambda page, _: page["policy"].update(more=1), "more"),
            (lambda page, _: page["policy"].pop("head"), "head"),
            (lambda page, _: page.update(policy=[1]), "not a policy"),
            (lambda page, _: page.update(spec={}), "observation_space"),
            (lambda page, _: page.pop("seed"), "lacks seed"),
            (lambda _, tensors: tensors.pop("log_std"), "log_std"),
            (lambda _, t: t.update(log_std=t["log_std"] * np.nan), "finite float32"),
            (lambda _, t: t.update(log_std=t["log_std"].astype(np.float64)), "finite float32"),
            (lambda _, t: t.update(log_std=np.zeros(3, np.float32)), "not a policy"),
            (lambda _, t: t.update(more=np.zeros(3, np.float32)), "not a policy"),
        ],
    )
    def test_what_does_not_fit_together_is_told_though_the_digest_holds(
        self, file: Path, change: Callable[[dict[str, Any], dict[str, Any]], Any], fault: str
    ) -> None:
        path, tensors = file.with_suffix(".json"), safetensors.numpy.load(file.read_bytes())
        page = json.loads(path.read_text())
        change(page, tensors)
        data = safetensors.numpy.save(tensors)
        file.write_bytes(data)
        path.write_text(json.dumps(page | {"sha256": hashlib.sha256(data).hexdigest()}))
        with pytest.raises(CorruptDataError, match=fault):
            read_policy(str(file))

    def test_a_pickle_under_that_name_is_not_read(self, file: Path) -> None:
        data = b"\x80\x04cos\nsystem\n(S'touch ran'\ntR."
        file.write_bytes(data)
        page = json.loads(file.with_suffix(".json").read_text())
        page["sha256"] = hashlib.sha256(data).hexdigest()
        file.with_suffix(".json").write_text(json.dumps(page))
        with pytest.raises(OffrlError, match="is not a policy"):
            read_policy(str(file))
        assert not Path("ran").exists()
