"""A recording is a function of its recipe, and survives whatever its policy or environment does."""

import json
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from recordings import kept_of, visible

from offrl.collect.recorder import record, run_episodes
from offrl.data.catalogue import check_id, datasets_root
from offrl.data.dataset import load
from offrl.data.publishing import Workshop
from offrl.data.recipe import Recipe, load_recipe, name_of
from offrl.data.shards import read_manifest
from offrl.data.totals import Totals
from offrl.data.writer import Writer
from offrl.errors import ConfigError, NotFoundError

ID = "me/made-v0"
CARTPOLE: dict[str, Any] = {
    "env": "CartPole-v1",
    "policies": "cartpole-balance,epsilon=0.8",
    "seed": 3,
}


class TestTheSameRecipe:
    def test_gives_the_same_data_and_another_seed_another(self) -> None:
        first = record(**CARTPOLE, episodes=4, out=ID)
        again = record(**CARTPOLE, episodes=4, out="me/again-v0")
        changed: dict[str, Any] = CARTPOLE | {"seed": 4}
        other = record(**changed, episodes=4, out="me/other-v0")
        assert first.fingerprint == again.fingerprint != other.fingerprint

    def test_has_the_same_first_episodes_however_many_are_asked_for(self) -> None:
        few = record(**CARTPOLE, episodes=3, out="me/few-v0")
        many = record(**CARTPOLE, episodes=6, out=ID)
        assert [e.rewards.tolist() for e in few] == [e.rewards.tolist() for e in many][:3]
        np.testing.assert_array_equal(few[2].observations, many[2].observations)

    @pytest.mark.parametrize("steps", [1, 40, 100])
    def test_reaches_env_steps_with_the_fewest_whole_episodes(self, steps: int) -> None:
        data = record(**CARTPOLE, env_steps=steps, out=ID)
        lengths = [len(e) for e in data]
        assert sum(lengths) >= steps > sum(lengths[:-1])
        assert record(**CARTPOLE, episodes=len(data), out="me/b-v0").fingerprint == data.fingerprint

    def test_plays_without_writing_what_it_would_write(self) -> None:
        data = record(**CARTPOLE, episodes=3, out=ID)
        played = list(run_episodes(**CARTPOLE, episodes=3))
        assert [e.actions.tolist() for e in played] == [e.actions.tolist() for e in data]
        assert len(list(run_episodes("offrl/cartpole/random-v0", episodes=2, seed=9))) == 2

    @pytest.mark.parametrize(
        ("policies", "made"),
        [
            ("random", "me/cartpole/random-v0"),
            (["random", "cartpole-balance"], "me/cartpole/mixed-v0"),
        ],
    )
    def test_without_a_name_is_called_after_environment_and_policies(
        self, policies: Any, made: str
    ) -> None:
        assert record(env="CartPole-v1", policies=policies, episodes=1).id == made
        with pytest.raises(ConfigError, match="exists already"):
            record(env="CartPole-v1", policies=policies, episodes=1)

    def test_names_itself_as_an_id_whatever_the_environment_is_called(self) -> None:
        names = [
            name_of(env, ["my file.py:Act_2,noise=1"]) for env in ("ALE/Pong-v5", "m.x:Y-v0", "-")
        ]
        names += [name_of("Hopper-v5", [f"sb3:/some/where/{word}"]) for word in ("a2c.zip", "b")]
        assert names[:3] == ["me/pong/act-2-v0", "me/y/act-2-v0", "me/x/act-2-v0"]
        assert names[3:] == ["me/hopper/a2c-v0", "me/hopper/b-v0"]
        assert [check_id(name) for name in names] == names


class TestShares:
    def test_are_told_apart_by_the_index_of_the_behaviour(self) -> None:
        policies = ["cartpole-balance", "random", "cartpole-balance,epsilon=0.5,weight=2"]
        data = record(env="CartPole-v1", policies=policies, episodes=8, out=ID)
        indices = [set(e.infos["behavior"][1:].tolist()) for e in data]
        assert [len(i) for i in indices] == [1] * 8
        counts = np.bincount([i.pop() for i in indices])
        assert counts.tolist() == [2, 2, 4]
        assert data[0].infos["behavior"][0] == -1
        logs = {int(e.infos["behavior"][1]): set(e.behavior_log_prob.tolist()) for e in data}
        assert logs[0] == {0.0}
        assert logs[1] == {-np.log(2.0)}
        assert logs[2] == {np.log(0.75), np.log(0.25)}


class TestLogProbabilities:
    @pytest.mark.parametrize(
        ("policies", "state"),
        [
            ("pendulum-swing-up", "none"),
            ("pendulum-swing-up,noise=0.3", "logged"),
            (["random", "pendulum-swing-up"], "partial"),
        ],
    )
    def test_are_there_where_the_behaviour_has_a_density(self, policies: Any, state: str) -> None:
        data = record(env="Pendulum-v1", policies=policies, episodes=2, out=ID)
        assert data.log_prob == state
        assert np.isnan(data[0].infos["behavior_log_prob"][0])


class TestResume:
    def interrupted(self, at: int = 5, **options: Any) -> None:
        def stop(done: int, total: int) -> None:
            if done >= at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            record(**options, out=ID, progress=stop)

    def test_gives_the_fingerprint_of_an_uninterrupted_recording(self) -> None:
        self.interrupted(**CARTPOLE, episodes=12)
        assert visible() == []
        assert kept_of(ID) == 5
        resumed = record(**CARTPOLE, episodes=12, out=ID, resume=True)
        whole = record(**CARTPOLE, episodes=12, out="me/whole-v0")
        assert resumed.fingerprint == whole.fingerprint

    @pytest.mark.parametrize("call", [3, 11, 16])
    @pytest.mark.parametrize(
        ("cls", "method"), [(Totals, "add"), (Workshop, "commit")], ids=["digest", "commit"]
    )
    @pytest.mark.parametrize("after", [False, True])
    def test_follows_a_stop_beside_what_a_writer_notes(
        self, cls: type, method: str, call: int, after: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain, calls = getattr(cls, method), [0]

        def cut(self: Any, *args: Any) -> None:
            calls[0] += 1
            stop = calls[0] == (call if cls is Totals else call // 8 + 1)
            if stop and not after:
                raise KeyboardInterrupt
            plain(self, *args)
            if stop:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(cls, method, cut)
            with pytest.raises(KeyboardInterrupt):
                record(**CARTPOLE, episodes=24, out=ID)
        resumed = record(**CARTPOLE, episodes=24, out=ID, resume=True)
        whole = record(**CARTPOLE, episodes=24, out="me/whole-v0")
        kept, wanted = (read_manifest(data.path) for data in (resumed, whole) if data.path)
        assert kept is not None
        assert wanted is not None
        assert kept["episodes"] == wanted["episodes"]
        assert kept["fingerprint"] == whole.fingerprint == resumed.fingerprint

    def test_needs_nothing_but_the_id(self) -> None:
        self.interrupted(**CARTPOLE, env_steps=150, at=40)
        whole = record(**CARTPOLE, env_steps=150, out="me/whole-v0")
        assert record(out=ID, resume=True).fingerprint == whole.fingerprint
        assert (
            record(out=ID, resume=True).fingerprint == whole.fingerprint
        )  # complete: nothing to do

    def test_needs_nothing_but_the_id_when_it_was_stopped_in_its_first_episode(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(self: Any, action: Any) -> Any:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(CartPoleEnv, "step", stop)
            with pytest.raises(KeyboardInterrupt):
                record(**CARTPOLE, episodes=2, out=ID)
        assert kept_of(ID) == 0
        assert record(out=ID, resume=True).n_episodes == 2

    def test_of_a_function_asks_for_it_again(self) -> None:
        def push(obs: Any) -> int:
            return 1

        options: dict[str, Any] = {"env": "CartPole-v1", "policies": push, "episodes": 9}
        self.interrupted(**options)
        with pytest.raises(ConfigError, match=r"begun with the code .*push"):
            record(out=ID, resume=True)
        assert record(**options, out=ID, resume=True).n_episodes == 9

    def test_refuses_other_settings(self) -> None:
        self.interrupted(**CARTPOLE, episodes=12)
        with pytest.raises(ConfigError, match=r"recipe\.episodes 12 -> 13"):
            record(**CARTPOLE, episodes=13, out=ID, resume=True)
        assert kept_of(ID) == 5

    def test_of_a_complete_recording_with_other_settings_is_refused(self) -> None:
        record(**CARTPOLE, episodes=2, out=ID)
        assert record(**CARTPOLE, episodes=2, out=ID, resume=True).n_episodes == 2
        with pytest.raises(ConfigError, match="complete"):
            record(**CARTPOLE, episodes=3, out=ID, resume=True)

    def test_starts_afresh_where_there_is_nothing_if_it_knows_what(self) -> None:
        assert record(**CARTPOLE, episodes=1, out=ID, resume=True).n_episodes == 1
        with pytest.raises(ConfigError, match="no recording of me/none-v0"):
            record(out="me/none-v0", resume=True)

    def test_runs_a_file_only_where_it_is_typed_again(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.py"
        path.write_text("def act(obs):\n    return int(obs[2] > 0)\n")
        options: dict[str, Any] = {
            "env": "CartPole-v1", "policies": f"{path}:act", "episodes": 8
        }  # fmt: skip
        self.interrupted(**options)
        with pytest.raises(ConfigError, match=r"mine\.py"):
            record(out=ID, resume=True)
        path.write_text("def act(obs):\n    return int(obs[2] < 0)\n")
        with pytest.raises(ConfigError, match="other settings"):
            record(**options, out=ID, resume=True)
        path.write_text("def act(obs):\n    return int(obs[2] > 0)\n")
        data = record(**options, out=ID, resume=True)
        source = data.metadata["offrl"]["sources"][f"{path}:act"]
        assert source["source"] == path.read_text()
        assert len(source["sha256"]) == 64


class TestWordsThatAreOff:
    @pytest.mark.parametrize(
        ("options", "error", "fragment"),
        [
            ({}, ConfigError, "Neither a recipe nor an environment"),
            (
                {"env": "CartPole-v1", "policies": "random"},
                ConfigError,
                "amount to collect is not given",
            ),
            ({"env": "CartPole-v1", "episodes": 1}, ConfigError, "no behaviour"),
            ({"env": "CartPole-v1", "policies": "randm", "episodes": 1}, ConfigError, "'random'"),
            ({"env": "CartPol-v1", "policies": "random", "episodes": 1}, NotFoundError, "CartPole"),
            (
                {"env": "CartPole-v1", "policies": "cartpole-balance,noise=1", "episodes": 1},
                ConfigError,
                "noise to discrete",
            ),
            (
                {"recipe": "offrl/cartpole/random-v0", "env": "CartPole-v1"},
                ConfigError,
                "not both",
            ),
            (
                {"recipe": "offrl/cartpole/randm-v0"},
                NotFoundError,
                "Did you mean 'offrl/cartpole/random-v0'",
            ),
        ],
    )
    def test_are_told_and_nothing_is_written(
        self, options: dict[str, Any], error: type[Exception], fragment: str
    ) -> None:
        with pytest.raises(error, match=fragment):
            record(**options, out=ID)
        assert not datasets_root().exists()

    def test_a_module_that_only_a_recipe_names_is_not_imported(self, tmp_path: Path) -> None:
        path = tmp_path / "recipe.toml"
        path.write_text('env = "mod:X-v0"\nepisodes = 1\n[[behaviors]]\npolicy = "random"\n')
        with pytest.raises(Exception, match="you did not type it"):
            record(path, out=ID)


class TestRecipes:
    def test_are_kept_with_the_data_and_repeat_it(self) -> None:
        data = record("offrl/cartpole/medium-v0", episodes=3)
        offrl = data.metadata["offrl"]
        again = Recipe.from_dict(offrl["recipe"], "the data")
        assert (data.id, again.episodes, again.behaviors[0].epsilon) == (
            "offrl/cartpole/medium-v0", 3, 0.5,
        )  # fmt: skip
        assert offrl["seeds"]["seed"] == 0
        assert data.env_spec == json.loads(gymnasium.spec("CartPole-v1").to_json())
        assert record(again, out=ID).fingerprint == data.fingerprint

    def test_take_another_amount_seed_and_name(self) -> None:
        recipe = load_recipe("offrl/cartpole/random-v0")
        data = record(recipe, env_steps=30, seed=8, out=ID)
        assert (data.id, data.metadata["offrl"]["seeds"]["seed"]) == (ID, 8)
        assert 30 <= data.n_steps < 200

    def test_replace_what_is_there_only_with_overwrite(self) -> None:
        before = record("offrl/cartpole/random-v0", episodes=2).fingerprint
        with pytest.raises(ConfigError, match="exists already"):
            record("offrl/cartpole/random-v0", episodes=2, seed=1)
        assert load("offrl/cartpole/random-v0").fingerprint == before
        after = record("offrl/cartpole/random-v0", episodes=2, seed=1, overwrite=True)
        assert after.fingerprint != before

    def test_report_their_progress(self) -> None:
        seen: list[tuple[int, int]] = []
        record(**CARTPOLE, episodes=3, out=ID, progress=lambda *at: seen.append(at))
        assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.slow
def test_recording_costs_less_than_three_tenths_of_the_environments_speed() -> None:
    def plain(episodes: int) -> float:
        env = gymnasium.make("Pendulum-v1")
        env.reset(seed=0)
        started = time.process_time()
        for _ in range(episodes):
            env.reset()
            ended = False
            while not ended:
                *_, terminated, truncated, _ = env.step(env.action_space.sample())
                ended = terminated or truncated
        env.close()
        return time.process_time() - started

    def recorded(episodes: int, number: int) -> float:
        started = time.process_time()
        record(env="Pendulum-v1", policies="random", episodes=episodes, out=f"me/n{number}-v0")
        return time.process_time() - started

    ratios = [plain(100) / recorded(100, i) for i in range(3)]
    assert max(ratios) > 0.7


def test_a_writer_may_record_what_a_policy_does_in_any_loop() -> None:
    env = gymnasium.make("CartPole-v1")
    with Writer(ID, env.observation_space, env.action_space, env=env.spec) as w:
        obs, _ = env.reset(seed=1)
        w.reset(obs, seed=1)
        ended = False
        while not ended:
            action = int(obs[2] > 0)
            obs, reward, terminated, truncated, _ = env.step(action)
            w.step(action, float(reward), obs, terminated, truncated, log_prob=0.0)
            ended = terminated or truncated
    env.close()
    assert load(ID).log_prob == "logged"
