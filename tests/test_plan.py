"""What is decided before anything is written: precedence, suggestions, folders, user code."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_runs import SHORT, outcome, saved_dataset, settings_of, tree

import offrl
from offrl import plan as planning
from offrl.algos import get
from offrl.collect.recorder import record
from offrl.data.dataset import Dataset
from offrl.errors import ConfigError, CorruptDataError, IncompatibleVersionError, NotFoundError
from offrl.plan import resolve
from offrl.run import read_run
from offrl.testing import toy_dataset
from offrl.training import fit, train
from offrl.workers import how_many

MINE = """
from dataclasses import dataclass
from typing import Annotated, final

from offrl.algorithm import Algorithm, AlgorithmConfig
from offrl.nn import policy_head

print("imported")


@dataclass(frozen=True, kw_only=True)
class Settings(AlgorithmConfig):
    scale: Annotated[float, "Factor of the loss."] = 1.0


@final
class Mine(Algorithm[Settings]):
    name = "mine"
    summary = "Imitation, scaled."
    Config = Settings

    def networks(self):
        sizes = (self.config.hidden_size, self.config.hidden_layers)
        return {"policy": policy_head("gaussian", self.spec.obs_dim, self.spec.action_dim, *sizes)}

    def loss(self, nets, batch):
        loss = -self.config.scale * nets.policy(batch.obs).log_density(batch.action).mean()
        return loss, {"policy/loss": loss}

    def update(self, learner, batch, stage):
        return learner.descend("policy", self.loss, batch)
"""


def with_recipe(**table: Any) -> Dataset:
    data = toy_dataset(discrete=False, episodes=6)
    data.metadata["offrl"] = {"recipe": {"algorithms": {"awr": table}}}
    return data


def test_what_is_given_wins_over_the_file_over_the_recipe_over_the_default(tmp_path: Path):
    data = with_recipe(temperature=2.0, td_lambda=0.5, weight_cap=7.0)
    path = tmp_path / "mine.toml"
    path.write_text(
        'algo = "awr"\nsteps = 7000\nthreads = 2\n[awr]\ntd_lambda = 0.6\nweight_cap = 8\n'
    )
    found = resolve(None, data, config_file=path, hyperparameters={"weight_cap": 9.0}, steps=6000)
    settings, config = found.run.settings, found.run.config
    assert (settings.steps, settings.threads, settings.eval_episodes) == (6000, 2, 10)
    assert config["discount"] == 0.99  # the default
    assert config["temperature"] == 2.0  # the recipe
    assert config["td_lambda"] == 0.6  # the file
    assert config["weight_cap"] == 9.0  # given


def test_a_recipe_table_of_another_algorithm_is_not_read():
    assert resolve("bc", with_recipe(temperature=2.0)).run.config["lr"] == 3e-4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("step = 5\n", "sets 'step', which nothing reads.*'steps'"),
        ("lr = 0.1\n", r"sets 'lr', which nothing reads.*\[bc\] table"),
        ("[bcc]\nlr = 0.1\n", "sets 'bcc', which nothing reads.*'bc'"),
        ("[bc]\nlearning_rate = 0.1\n", "no setting 'learning_rate'.*called 'lr'"),
        ("bc = 3\n", "sets 'bc', which nothing reads"),
        ("[steps]\nn = 3\n", "'steps' must be a whole number"),
        ("seeds = 'all'\n", "'seeds' must be whole numbers"),
    ],
)
def test_a_key_of_a_config_file_that_nothing_reads_is_refused(text: str, said: str, tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        resolve("bc", toy_dataset(discrete=True), config_file=path)


def test_a_file_may_hold_the_tables_of_several_algorithms(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text("[bc]\nlr = 0.1\n[awr]\ntemperature = 0.3\n")
    data = toy_dataset(discrete=True)
    assert resolve("bc", data, config_file=path).run.config["lr"] == 0.1
    assert resolve("awr", data, config_file=path).run.config["temperature"] == 0.3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"gamma": 0.9}, "Here it is called 'discount'"),
        ({"temprature": 0.9}, "Did you mean 'temperature'"),
        ({"seed": 3}, "Did you mean 'seeds'"),
        ({"n_steps": 3}, "Did you mean '.*steps'"),
    ],
)
def test_a_word_that_fit_does_not_know_is_answered(wrong: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=f"no setting.*{said}"):
        fit("awr", toy_dataset(discrete=True), **wrong)


def test_an_unknown_algorithm_is_answered_with_the_nearest():
    with pytest.raises(NotFoundError, match=r"no algorithm 'awrr'.*'awr'.*FILE\.py:CLASS"):
        resolve("awrr", toy_dataset(discrete=True))
    with pytest.raises(ConfigError, match="needs an algorithm and a dataset; there is no dataset"):
        resolve("bc")


def test_a_short_run_of_awr_has_short_stages_and_says_so():
    plan = resolve("awr", toy_dataset(discrete=True), steps=200)
    assert (plan.run.config["value_steps"], plan.run.config["policy_steps"]) == (40, 160)
    assert any("value_steps 1000 -> 40" in note for note in plan.notes)
    assert resolve("awr", toy_dataset(discrete=True), steps=1001).run.config["value_steps"] == 1000


def test_too_few_steps_to_move_the_policy_are_refused():
    with pytest.raises(ConfigError, match=r"1 steps are too few: awr.*at step 2"):
        resolve("awr", toy_dataset(discrete=True), steps=1)


def test_an_algorithm_says_which_actions_it_learns_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(get("bc"), "spaces", ("discrete",))
    with pytest.raises(ConfigError, match=r"bc does not learn on continuous actions.*awr"):
        resolve("bc", toy_dataset(discrete=False))


def test_what_is_wrong_with_data_in_memory_is_mended_as_with_data_on_disk():
    """Faults N1 and N5: the remedy that the error names is taken."""
    data = toy_dataset(discrete=False, episodes=4)
    data[1].actions[0] = 9.0
    data[2].rewards[0] = np.nan
    with pytest.raises(CorruptDataError, match="reward is nan"):
        resolve("bc", data, steps=5)
    with (
        pytest.raises(CorruptDataError, match="outside its bounds"),
        pytest.warns(match="left out"),
    ):
        resolve("bc", data, steps=5, allow_nonfinite="drop-episode")
    with pytest.warns(UserWarning, match="1 of 4 episodes"):
        plan = resolve("bc", data, steps=5, allow_nonfinite="drop-episode", clip_actions=True)
    assert plan.dataset.n_episodes == 3
    assert plan.dataset.transitions.action.max() <= data.spec.action_high.max()
    assert plan.run.settings.clip_actions


def test_nothing_is_written_while_deciding(tmp_path: Path):
    resolve("bc", toy_dataset(discrete=True), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_occupied_folder_is_refused_and_left_as_it_is(tmp_path: Path):
    data = toy_dataset(discrete=False, episodes=6)
    fit("bc", data, out=tmp_path / "run", **settings_of("bc", steps=10))
    before = tree(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"is occupied.*--resume to go on with the run"):
        fit("bc", data, out=tmp_path / "run", **settings_of("bc", steps=10))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    for resume in (False, True):
        with pytest.raises(ConfigError, match=r"other is occupied\. Give another --out"):
            resolve("bc", data, out=tmp_path / "other", resume=resume)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        resolve("bc", data, out=tmp_path / "file")
    assert tree(tmp_path / "run") == before


def test_a_folder_that_another_run_takes_meanwhile_is_refused(tmp_path: Path):
    data = toy_dataset(discrete=False, episodes=6)
    late = resolve("bc", data, out=tmp_path / "run", steps=10)
    fit("bc", data, out=tmp_path / "run", **settings_of("bc", steps=10))
    before = tree(tmp_path / "run")
    with pytest.raises(ConfigError, match="is occupied"):
        list(train(late))
    assert tree(tmp_path / "run") == before


def test_resuming_nothing_starts_afresh_and_needs_a_folder(tmp_path: Path):
    data = toy_dataset(discrete=False, episodes=6)
    (tmp_path / "killed").mkdir()  # what a run leaves that is killed before it wrote run.toml
    for name in (".lock", "algorithm.py", ".run.toml.tmp-12"):
        (tmp_path / "killed" / name).write_text("")
    for folder in ("new", "killed"):
        plan = resolve("bc", data, out=tmp_path / folder, resume=True, steps=10)
        assert not plan.resumed
    with pytest.raises(ConfigError, match="which run to resume"):
        resolve("bc", data, resume=True)


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"lr": 0.1}, "bc.lr is 0.1, was 0.0003"),
    ({"batch_size": 8}, "bc.batch_size is 8, was 16"),
    ({"hidden_size": 9}, "bc.hidden_size is 9, was 8"),
    ({"steps": 20}, "steps is 20, was 10"),
    ({"seeds": (0, 1)}, r"seeds is \[0, 1\], was \[0\]"),
    ({"precision": "bf16"}, "precision is 'bf16', was 'fp32'"),
    ({"threads": 2}, "threads is 2, was 1"),
    ({"holdout": 0.5}, "holdout is 0.5, was 0.2.*held_out is"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_a_resumed_run_refuses_changed_settings_and_lists_them(
    change: dict[str, Any], said: str, tmp_path: Path
):
    saved_dataset()
    fit("bc", "toy/box-v0", out=tmp_path / "run", **settings_of("bc", steps=10))
    before = tree(tmp_path / "run")
    with pytest.raises(ConfigError, match=f"was started otherwise: .*{said}"):
        fit("bc", "toy/box-v0", out=tmp_path / "run", resume=True, **change)
    assert tree(tmp_path / "run") == before


def test_a_resumed_run_refuses_other_data_and_another_algorithm(tmp_path: Path):
    data = saved_dataset()
    fit("bc", data, out=tmp_path / "run", **settings_of("bc", steps=10))
    other = toy_dataset(discrete=False, episodes=12, seed=9)
    with pytest.raises(ConfigError, match=r"started otherwise: .*resolved.fingerprint is"):
        fit("bc", other, out=tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match=r"algo is 'awr', was 'bc'|\[bc\]|too few"):
        fit("awr", data, out=tmp_path / "run", resume=True)


def test_other_versions_are_told_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved_dataset()
    plan = resolve("bc", "toy/box-v0", out=tmp_path / "run", **SHORT)
    events = train(plan)
    next(events)
    events.close()
    found = planning.current_versions() | {"torch": "9.9"}
    monkeypatch.setattr(planning, "current_versions", lambda: found)
    again = resolve(out=tmp_path / "run", resume=True)
    assert again.resumed
    assert any(note.startswith("torch is 9.9, was") for note in again.notes)


def test_a_run_file_of_another_format_is_refused(tmp_path: Path):
    saved_dataset()
    fit("bc", "toy/box-v0", out=tmp_path / "run", **settings_of("bc", steps=10))
    path = tmp_path / "run" / "run.toml"
    path.write_text(path.read_text().replace("format = 1", "format = 7"))
    with pytest.raises(IncompatibleVersionError, match=r"run\.toml has format 7"):
        resolve(out=tmp_path / "run", resume=True)


def test_run_toml_repeats_the_run(tmp_path: Path):
    saved_dataset()
    first = fit("awr", "toy/box-v0", out=tmp_path / "one", **settings_of("awr", temperature=0.3))
    plan = resolve(config_file=tmp_path / "one" / "run.toml", out=tmp_path / "two")
    list(train(plan))
    assert outcome(tmp_path / "two") == outcome(first.dir)
    assert (tmp_path / "two" / "run.toml").read_text() == (first.dir / "run.toml").read_text()


def test_held_out_episodes_are_the_same_for_every_algorithm_and_never_all_or_none():
    data = toy_dataset(discrete=True, episodes=10)
    held = {resolve(algo, data, holdout=0.3).run.held_out for algo in ("bc", "awr")}
    assert len(held) == 1
    assert len(held.pop()) == 3
    assert len(resolve("bc", data, holdout=0.01).run.held_out) == 1
    with pytest.raises(ConfigError, match=r"Holding out 0.99 of 10 episodes leaves none to learn"):
        resolve("bc", data, holdout=0.99)


@pytest.mark.parametrize(("episodes", "held"), [(1, 0), (2, 0), (3, 1), (10, 2)])
def test_without_an_environment_a_fifth_is_held_out_where_there_is_a_fifth(
    episodes: int, held: int
):
    data = toy_dataset(discrete=True, episodes=episodes)
    assert len(resolve("bc", data).run.held_out) == held


def test_a_dataset_is_written_down_by_what_opens_it_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = saved_dataset("toy/box-v0")
    assert data.path is not None
    for ref in ("toy/box-v0", "minari:toy/box-v0", data):
        assert resolve("bc", ref).run.settings.dataset == "toy/box-v0"
    data.path.rename(tmp_path / "moved")
    for ref in ("moved", tmp_path / "moved", offrl.load("moved")):
        assert resolve("bc", ref).run.settings.dataset == str(tmp_path / "moved")


def test_part_of_a_dataset_is_trained_in_this_process_only(tmp_path: Path):
    data = saved_dataset()
    many: dict[str, Any] = {"steps": 50_000, "seeds": (0, 1), "compile": "off"}
    assert resolve("bc", data, **many).reopens
    assert not resolve("bc", data[:6], **many).reopens
    assert how_many(resolve("bc", data[:6], **many)) == 1
    assert how_many(resolve("bc", toy_dataset(discrete=True), **many)) == 1


@pytest.fixture
def _untried() -> Iterator[None]:
    """Whether torch compiles is tried once a process; here it is tried anew, and after us."""
    planning._compile_fault.cache_clear()
    yield
    planning._compile_fault.cache_clear()


@pytest.mark.usefixtures("_untried")
def test_a_short_run_stays_eager_and_a_missing_compiler_is_told(monkeypatch: pytest.MonkeyPatch):
    data = toy_dataset(discrete=True)
    assert resolve("bc", data, steps=100).run.settings.compile == "off"
    monkeypatch.setattr(planning.shutil, "which", lambda _: None)
    long = resolve("bc", data, steps=10**6)
    assert long.run.settings.compile == "off"
    assert long.notes == ("Running eager, which is slower: there is no C++ compiler.",)
    with pytest.raises(ConfigError, match=r"cannot be compiled: there is no C.. compiler"):
        resolve("bc", data, compile="on")


@pytest.mark.usefixtures("_untried")
def test_a_compiler_that_is_there_and_does_not_work_is_found_by_trying(
    monkeypatch: pytest.MonkeyPatch,
):
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("backend='x' raised:\nomp.h: no such file.\nand a page more")

    monkeypatch.setattr(planning.torch, "compile", broken)
    monkeypatch.setattr(planning.shutil, "which", lambda _: "/usr/bin/c++")
    data = toy_dataset(discrete=True)
    said = "torch's compiler does not work here (omp.h: no such file)"
    found = resolve("bc", data, steps=10**6)
    assert found.run.settings.compile == "off"
    assert found.notes == (f"Running eager, which is slower: {said}.",)
    with pytest.raises(ConfigError, match="cannot be compiled: torch's compiler does not work"):
        resolve("bc", data, compile="on")


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"There is no device 'cuda:7'|There is no device 'gpu'"):
        resolve("bc", toy_dataset(discrete=True), device="gpu")


def own_code(tmp_path: Path, text: str = MINE) -> str:
    path = tmp_path / "mine.py"
    path.write_text(text)
    return f"{path}:Mine"


def test_an_algorithm_of_ones_own_is_named_by_path_and_copied_with_its_digest(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    saved_dataset()
    algo = own_code(tmp_path)
    run = fit(algo, "toy/box-v0", out=tmp_path / "run", **settings_of("bc", scale=2.0))
    source = (tmp_path / "mine.py").read_bytes()
    assert (run.dir / "algorithm.py").read_bytes() == source
    found = read_run(run.dir / "run.toml")
    assert found.source_sha256 == hashlib.sha256(source).hexdigest()
    assert (found.algorithm, found.config["scale"]) == ("mine", 2.0)
    assert "imported" in capfd.readouterr().out


def test_code_of_ones_own_is_imported_only_where_it_is_typed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    saved_dataset()
    algo = own_code(tmp_path)
    fit(algo, "toy/box-v0", out=tmp_path / "run", **settings_of("bc"))
    capfd.readouterr()
    (tmp_path / "mine.py").write_text(MINE + "\nraise SystemError('it ran')\n")
    run = offrl.load_run(tmp_path / "run")
    assert run.policy().predict([0.0] * 4) is not None
    offrl.load_policy(tmp_path / "run" / "seed_0")
    untyped = r"code of yours.*Name it again"
    with pytest.raises(ConfigError, match=untyped):
        resolve(out=tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match=untyped):
        resolve(config_file=run.dir / "run.toml")
    assert "imported" not in capfd.readouterr().out


def test_changed_code_is_a_changed_setting(tmp_path: Path):
    saved_dataset()
    algo = own_code(tmp_path)
    fit(algo, "toy/box-v0", out=tmp_path / "run", **settings_of("bc"))
    assert resolve(algo, out=tmp_path / "run", resume=True).resumed
    own_code(tmp_path, MINE + "\n# changed\n")
    with pytest.raises(ConfigError, match=r"started otherwise: resolved.source_sha256 is"):
        resolve(algo, out=tmp_path / "run", resume=True)


def test_the_copy_in_the_run_goes_on_where_the_file_is_lost(tmp_path: Path):
    saved_dataset()
    algo = own_code(tmp_path)
    whole = fit(algo, "toy/box-v0", out=tmp_path / "whole", **settings_of("bc"))
    events = train(
        resolve(
            algo,
            "toy/box-v0",
            out=tmp_path / "run",
            hyperparameters={"hidden_size": 8, "batch_size": 16},
            **SHORT,
        )
    )
    for _ in range(5):
        next(events)
    events.close()
    (tmp_path / "mine.py").unlink()
    copy = f"{tmp_path / 'run' / 'algorithm.py'}:Mine"
    plan = resolve(copy, out=tmp_path / "run", resume=True)
    assert plan.run.settings.algo == copy
    list(train(plan))
    assert outcome(tmp_path / "run") == outcome(whole.dir)


@pytest.mark.parametrize(
    ("text", "named", "said"),
    [
        (None, "Mine", "There is no file .*mine.py"),
        (MINE, "Other", "has no algorithm 'Other'.*It has: Mine"),
        ("import nowhere_at_all", "Mine", "cannot be imported: ModuleNotFoundError"),
        ("x = (", "Mine", "cannot be imported: SyntaxError"),
        ("x = 1", "Mine", "has no algorithm 'Mine'.*Subclass offrl.Algorithm"),
        (MINE.replace('name = "mine"', 'name = "steps"'), "Mine", "cannot be called 'steps'"),
    ],
)
def test_code_that_cannot_be_used_says_why(text: str | None, named: str, said: str, tmp_path: Path):
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ConfigError, match=said):
        resolve(f"{tmp_path / 'mine.py'}:{named}", toy_dataset(discrete=False))


def test_a_file_of_ones_own_hides_no_module(tmp_path: Path):
    import statistics

    (tmp_path / "statistics.py").write_text(MINE)
    get(f"{tmp_path / 'statistics.py'}:Mine")
    assert sys.modules["statistics"] is statistics


def test_the_settings_of_a_recipe_file_reach_the_runs_on_what_it_collects(tmp_path: Path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'id = "me/pendulum-v0"\nenv = "Pendulum-v1"\nepisodes = 2\nseed = 0\n'
        '[[behaviors]]\npolicy = "random"\n[awr]\ntemperature = 0.25\n[awrr]\nlr = 1.0\n'
    )
    data = record(recipe)
    plan = resolve("awr", data)
    assert plan.run.config["temperature"] == 0.25
    assert any("'awrr'" in note for note in plan.notes)


def test_a_run_is_not_put_inside_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "bc").mkdir(parents=True)
    (tmp_path / "runs" / "bc" / "run.toml").touch()
    with pytest.raises(ConfigError, match="inside the run runs/bc"):
        resolve("bc", toy_dataset(discrete=False))
