"""The commands one after the other, each told by the one before what to type next."""

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hub_sets
import pytest
from hub_server import Hub

import offrl
from offrl.algos import ALGORITHMS
from offrl.data.catalogue import datasets_root
from offrl.testing import toy_dataset

Type = Callable[..., Any]
HOPPER = "mujoco/hopper/medium-v0"
SUMMARY = [
    "dataset",
    "path",
    "episodes",
    "steps",
    "return_mean",
    "return_std",
    "terminated_episodes",
    "truncated_episodes",
    "log_prob",
    "fingerprint",
]
SMALL = ("--hidden-size", 8, "--compile", "off")


@pytest.fixture
def pendulum(type_: Type) -> str:
    """A small dataset collected by the command."""
    words = ("--policy", "pendulum-swing-up,noise=0.3", "--policy", "random")
    made = type_("collect", "--env", "Pendulum-v1", *words, "--episodes", 4, "--out", "me/p-v0")
    assert made.status == 0
    return "me/p-v0"


class TestFromDataToScore:
    def test_each_command_names_the_next_and_that_works(self, type_: Type, pendulum: str):
        shown = type_("data", "show", pendulum)
        assert shown.next == f"offrl data check {pendulum}"
        checked = type_(*words(shown.next))
        assert checked.status == 0
        assert "sound" in checked.out
        fitting = type_(*words(checked.next))
        assert fitting.next == f"offrl train --algo awr --dataset {pendulum}"
        trained = type_(*words(fitting.next), "--steps", 20, *SMALL)
        assert trained.status == 0
        judged = type_(*words(trained.next), "--episodes", 2)
        assert judged.status == 0
        assert "over episodes" in judged.out
        again = type_(*words(judged.next), "--steps", 10)
        assert again.status == 0
        assert "0, 1, 2, 3, 4" in again.out

    def test_the_keys_that_scripts_read_are_there(self, type_: Type, pendulum: str):
        shown = type_("data", "show", pendulum, "--json").json
        assert list(shown)[: len(SUMMARY)] == SUMMARY
        assert (shown["episodes"], shown["steps"], shown["log_prob"]) == (4, 800, "logged")
        checked = type_("data", "check", pendulum, "--json").json
        assert checked["ok"] is True
        run = ("--algo", "bc", "--dataset", pendulum, "--steps", 10, "--out", "mine", *SMALL)
        trained = type_("train", *run, "--json").json
        keys = {"run", "algo", "dataset", "steps", "seeds", "steps_per_second", "wall_seconds"}
        assert keys <= trained.keys()
        judged = type_("eval", "mine", "--episodes", 2, "--json").json
        assert judged["env"] == "Pendulum-v1"
        assert {"n_episodes", "n_seeds", "interval_over", "return_ci", "score_ci"} <= judged.keys()
        assert json.loads(Path("mine/result.json").read_text())["evaluation"] == judged

    def test_standard_output_holds_nothing_but_the_answer(self, type_: Type, pendulum: str):
        run = ("--algo", "awr", "--dataset", pendulum, "--steps", 30, "--value-steps", 8, *SMALL)
        typed = type_("train", *run, "--seeds", "0-1", "--out", "mine", "--eval-env", "Pendulum-v1")
        assert typed.out.startswith("run ")
        assert "settings: algo=awr" in typed.err
        assert "value_steps=8" in typed.err
        assert typed.err.count("return ") == 2

    def test_a_run_is_repeated_by_its_file_and_a_flag_wins_over_it(
        self, type_: Type, pendulum: str
    ):
        run = ("--algo", "bc", "--dataset", pendulum, "--steps", 10, "--lr", "1e-2", *SMALL)
        first = type_("train", *run, "--json").json
        config = f"{first['run']}/run.toml"
        repeated = type_("train", "--config", config, "--out", "again", "--json").json
        assert tensors(first["run"]) == tensors(repeated["run"])
        other = type_("train", "--config", config, "--lr", "0.5", "--out", "other", "--json").json
        assert tensors(first["run"]) != tensors(other["run"])
        assert "lr = 0.5" in Path("other/run.toml").read_text()

    def test_resuming_needs_no_other_flag_and_an_occupied_folder_is_refused(
        self, type_: Type, refused: Type, pendulum: str
    ):
        run = ("--algo", "bc", "--dataset", pendulum, "--steps", 10, "--out", "my run", *SMALL)
        type_("train", *run)
        assert "--resume" in refused("train", *run).err
        done = type_("train", "--out", "my run", "--resume")
        assert done.status == 0
        assert "has taken its 10 steps already" in done.err
        assert done.next == "offrl eval 'my run'"
        assert (
            "steps is 20, was 10"
            in refused("train", "--out", "my run", "--resume", "--steps", 20).err
        )
        assert "no run to resume" in refused("train", "--out", "nothing", "--resume").err

    def test_without_an_environment_episodes_are_held_out_and_one_is_asked_for(
        self, type_: Type, refused: Type, shop: str
    ):
        trained = type_("train", "--algo", "bc", "--dataset", shop, "--steps", 5, *SMALL)
        assert trained.status == 0
        assert "held out: 1 of 3 episodes" in trained.err
        assert trained.next.endswith("--env ENV")
        run = words(trained.next)[1]
        assert "--env ENV" in refused("eval", run).err


class TestData:
    def test_a_list_shows_what_is_here_and_which_recipes_are_not(self, type_: Type, pendulum: str):
        listed = type_("data", "list")
        assert f"{pendulum}         4    800" in listed.out
        assert "offrl/pendulum/medium-v0" in listed.out
        found = type_("data", "list", "--json").json
        assert [row["id"] for row in found["datasets"]] == [pendulum]
        assert "offrl/cartpole/expert-v0" in found["recipes"]

    def test_an_empty_root_says_what_to_type(self, type_: Type):
        listed = type_("data", "list")
        assert "no datasets here yet" in listed.out
        assert listed.next.startswith("offrl collect offrl/")

    @pytest.mark.filterwarnings("always:.*is not as it was written")
    def test_what_authors_wrote_cannot_act_on_the_terminal(self, type_: Type, pendulum: str):
        page = datasets_root() / pendulum / "data" / "metadata.json"
        metadata = json.loads(page.read_text())
        metadata["author"] = ["\x1b[31m[red]Mallory[/red]\nnext: offrl rm"]
        page.write_text(json.dumps(metadata))
        shown = type_("data", "show", pendulum)
        assert shown.status == 0
        assert "\x1b" not in shown.out
        assert "[red]Mallory[/red]" in shown.out
        assert shown.out.count("\nnext: ") == 1

    def test_a_check_that_finds_damage_fails_and_names_it(self, type_: Type, pendulum: str):
        file = datasets_root() / pendulum / "data" / "main_data.hdf5"
        held = bytearray(file.read_bytes())
        held[len(held) // 2] ^= 1
        file.write_bytes(held)
        checked = type_("data", "check", pendulum)
        assert checked.status == 1
        assert "error file-damaged" in checked.out
        found = type_("data", "check", pendulum, "--json")
        assert found.status == 1
        assert found.json["ok"] is False
        assert found.json["problems"][0].keys() >= {"code", "severity", "message", "count"}

    def test_collecting_again_is_refused_unless_it_may_replace(
        self, type_: Type, refused: Type, pendulum: str
    ):
        words = ("--env", "Pendulum-v1", "--policy", "random", "--out", pendulum)
        before = offrl.load(pendulum).fingerprint
        assert "--overwrite" in refused("collect", *words, "--episodes", 1).err
        assert offrl.load(pendulum).fingerprint == before
        made = type_("collect", *words, "--env-steps", 201, "--overwrite", "--json")
        assert made.json["steps"] == 400
        assert "400 environment steps" in made.err

    def test_a_policy_is_named_with_its_options(self, refused: Type):
        words = ("--env", "Pendulum-v1", "--episodes", 1, "--out", "me/x-v0")
        assert "noise" in refused("collect", *words, "--policy", "random,noize=1").err
        assert "swing-up" in refused("collect", *words, "--policy", "pendulum-swingup").err


class TestAlgorithms:
    def test_are_listed_with_what_they_learn_on(self, type_: Type):
        found = type_("algos", "--json").json["algorithms"]
        assert [entry["name"] for entry in found] == list(ALGORITHMS)
        learns = {entry["name"]: entry["actions"] for entry in found}
        assert learns["td3"] == ["box"]
        assert learns["dqn"] == ["discrete"]
        assert learns["awr"] == ["box", "discrete"]
        assert type_("algos").next == "offrl train --algo NAME --help"

    def test_code_of_the_user_runs_when_typed_and_not_when_resumed(
        self, type_: Type, refused: Type, pendulum: str, tmp_path: Path
    ):
        file = tmp_path / "own.py"
        source = Path(offrl.__file__).parent / "algos" / "bc.py"
        text = source.read_text().replace('name = "bc"', 'name = "own"')
        file.write_text(f"{text}\nimport pathlib\npathlib.Path('ran').touch()\n")
        run = ("--algo", f"{file}:BC", "--dataset", pendulum, "--steps", 5, "--out", "mine", *SMALL)
        assert type_("train", *run).status == 0
        Path("ran").unlink()
        assert f"--algo {file}:BC" in refused("train", "--out", "mine", "--resume").err
        assert type_("eval", "mine", "--episodes", 1).status == 0
        assert not Path("ran").exists()


class TestRemote:
    @pytest.fixture
    def hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
        with Hub() as served:
            served.add(hub_sets.hopper(tmp_path / "hopper"), HOPPER)
            monkeypatch.setenv("HF_ENDPOINT", served.url)
            yield served

    @pytest.mark.usefixtures("hub")
    def test_a_dataset_is_listed_fetched_and_learned_from(self, type_: Type, refused: Type):
        train = ("train", "--algo", "bc", "--dataset", f"minari:{HOPPER}", "--steps", 5, *SMALL)
        assert f"offrl data download {HOPPER}" in refused(*train).err
        listed = type_("data", "list", "remote")
        assert HOPPER in listed.out
        assert listed.next == f"offrl data download {HOPPER}"
        fetched = type_(*words(listed.next))
        assert fetched.status == 0
        assert type_(*words(fetched.next)).status == 0
        assert type_(*train).status == 0
        assert [row["local"] for row in type_("data", "list", "remote", "--json").json["datasets"]]

    @pytest.mark.usefixtures("hub")
    def test_a_name_that_is_not_there_is_answered_with_the_nearest(self, refused: Type):
        assert HOPPER in refused("data", "download", "mujoco/hoper/medium-v0").err


def words(line: str) -> list[str]:
    """The words of a command line after `offrl`."""
    offrl_, *rest = shlex.split(line)
    assert offrl_ == "offrl"
    return rest


def tensors(run: str) -> bytes:
    """The last state of the first seed of a run."""
    *_, last = sorted(Path(run).glob("seed_0/checkpoints/step_*/state.safetensors"))
    return last.read_bytes()


def test_a_critic_that_cannot_be_right_is_told_when_it_is_seen_and_at_the_end(
    type_: Type, tmp_path: Path
):
    toy_dataset(discrete=False, episodes=12).save("toy/box-v0")
    wild = ("--lr", 0.3, "--target-rate", 0.9, "--batch-size", 16, "--log-every", 5)
    words = ("--algo", "ddpg", "--dataset", "toy/box-v0", "--steps", 40, "--holdout", 0)
    done = type_("train", *words, *wild, *SMALL, "--out", tmp_path / "run", "--json")
    assert done.status == 0
    assert [line for line in done.err.splitlines() if "warning: Seed 0 at step 40" in line]
    assert done.err.count("warning: Seed 0") == 2
    assert done.json["warnings"][0] in done.err.replace("\n", " ")
