"""A recipe says what to collect; what it says wrongly is named, with the right word."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offrl.data.catalogue import shipped_recipes
from offrl.data.recipe import BehaviorSpec, Recipe, load_recipe
from offrl.errors import ConfigError, NotFoundError
from offrl.evaluation.references import lookup

GOOD = """
env = "Pendulum-v1"
episodes = 3
seed = 5

[[behaviors]]
policy = "pendulum-swing-up"
noise = 0.3
epsilon = 0.5
weight = 2

[references]
random = -1200
expert = -150.5
source = "measured"

[awr]
temperature = 0.5
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


class TestReading:
    def test_a_file_or_its_folder_by_path(self, tmp_path: Path) -> None:
        path = written(tmp_path, GOOD)
        recipe = load_recipe(path)
        assert load_recipe(str(tmp_path)) == recipe
        assert (recipe.env, recipe.episodes, recipe.seed, recipe.id) == ("Pendulum-v1", 3, 5, None)
        assert recipe.behaviors == (
            BehaviorSpec("pendulum-swing-up", noise=0.3, epsilon=0.5, weight=2.0),
        )
        assert recipe.references["expert"] == -150.5
        assert recipe.algorithms == {"awr": {"temperature": 0.5}}

    def test_survives_json(self, tmp_path: Path) -> None:
        recipe = load_recipe(written(tmp_path, GOOD))
        assert Recipe.from_dict(recipe.to_dict(), "itself") == recipe

    @pytest.mark.parametrize(
        ("old", "new", "fragment"),
        [
            ("episodes", "episode", r"Unknown 'episode' .* Did you mean 'episodes'"),
            ("noise", "noize", r"Unknown 'noize' in a behaviour .* Did you mean 'noise'"),
            ("expert", "exprt", r"Did you mean 'expert'"),
            ("[references]", "[reference]", r"Did you mean 'references'"),
            ("[[behaviors]]", "[[behaviours]]", r"Did you mean 'behaviors'"),
            ("seed = 5", 'seed = "5"', r"'seed' .* is '5'"),
            ("seed = 5", "seed = true", r"'seed' .* is True"),
            ("seed = 5", "seed = -5", r"seed=-5 is negative"),
            ("episodes = 3", "episodes = 0", r"episodes=0"),
            ("episodes = 3", "", r"amount to collect is not given"),
            ("episodes = 3", "episodes = 3\nenv_steps = 9", r"given twice"),
            ('env = "Pendulum-v1"', "", r"has no 'env'"),
            ("epsilon = 0.5", "epsilon = 1.5", r"epsilon=1.5 .* out of range"),
            ("noise = 0.3", "noise = nan", r"noise=nan"),
            ("weight = 2", "weight = 0", r"weight 0"),
            ('policy = "pendulum-swing-up"', "", r"names no policy"),
            ("temperature = 0.5", "temperature = [1]", r"'temperature' of \[awr\]"),
            ("seed = 5", "seed == 5", r"is not TOML"),
            ("seed = 5", 'id = "../x"', r"cannot be the id"),
        ],
    )
    def test_what_is_off_is_named(self, tmp_path: Path, old: str, new: str, fragment: str) -> None:
        path = written(tmp_path, GOOD.replace(old, new))
        with pytest.raises(ConfigError, match=fragment) as caught:
            load_recipe(path)
        assert caught.value.exit_code == 2

    def test_a_name_that_is_not_there_suggests_the_nearest(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match="Did you mean 'offrl/pendulum/medium-v0'"):
            load_recipe("offrl/pendulum/medum-v0")
        with pytest.raises(NotFoundError, match="no recipe file"):
            load_recipe(tmp_path / "none.toml")


class TestPolicyText:
    @given(
        noise=st.sampled_from([0.0, 0.1, 2.5]),
        epsilon=st.sampled_from([0.0, 0.25, 1.0]),
        stochastic=st.booleans(),
        weight=st.sampled_from([1.0, 0.5, 3.0]),
    )
    def test_reads_back_what_it_writes(
        self, noise: float, epsilon: float, stochastic: bool, weight: float
    ) -> None:
        spec = BehaviorSpec("random", noise, epsilon, stochastic, weight)
        assert BehaviorSpec.parse(str(spec)) == spec

    @pytest.mark.parametrize(
        ("text", "fragment"),
        [
            ("random,nois=1", "Did you mean 'noise'"),
            ("random,noise", "not a number"),
            ("random,noise=a", "not a number"),
            ("random,noise=1,noise=2", "given twice"),
            ("random,stochastic=1", "takes no value"),
            ("", "names no policy"),
            ("random,epsilon=-0.1", "out of range"),
        ],
    )
    def test_what_is_off_is_named(self, text: str, fragment: str) -> None:
        with pytest.raises(ConfigError, match=fragment):
            BehaviorSpec.parse(text)


SHIPPED = {
    "pendulum": ("random", "medium", "expert", "mixed"),
    "cartpole": ("random", "medium", "expert"),
    "mountaincar-continuous": ("medium", "expert"),
    "hopper": ("random", "medium", "medium-replay", "medium-expert", "expert"),
    "halfcheetah": ("random", "medium", "medium-replay", "medium-expert", "expert"),
    "pointmaze": ("umaze",),
}
OF_CONTROLLERS = ("pendulum", "cartpole", "mountaincar-continuous")


class TestWhatIsShipped:
    def test_every_set_has_a_recipe_and_a_card(self) -> None:
        wanted = {f"offrl/{n}/{v}-v0" for n, variants in SHIPPED.items() for v in variants}
        assert set(shipped_recipes()) == wanted
        for folder in shipped_recipes().values():
            assert (folder / "README.md").is_file()

    @pytest.mark.parametrize("name", OF_CONTROLLERS)
    def test_medium_is_half_uniform_and_noisy_where_actions_are_continuous(self, name: str) -> None:
        recipe = load_recipe(f"offrl/{name}/medium-v0")
        (behavior,) = recipe.behaviors
        assert behavior.epsilon == 0.5
        assert behavior.noise == (0.0 if name == "cartpole" else 0.3)

    def test_mixed_is_equal_shares_of_the_other_three(self) -> None:
        mixed = load_recipe("offrl/pendulum/mixed-v0")
        parts: list[Any] = [
            load_recipe(f"offrl/pendulum/{v}-v0").behaviors[0]
            for v in ("random", "medium", "expert")
        ]
        assert list(mixed.behaviors) == parts
        assert {b.weight for b in mixed.behaviors} == {1.0}

    def test_every_set_has_200_episodes_and_mixed_210_or_as_many_steps_as_mujoco_needs(
        self,
    ) -> None:
        for recipe_id in shipped_recipes():
            recipe = load_recipe(recipe_id)
            assert recipe.id == recipe_id
            if recipe.env in ("Hopper-v5", "HalfCheetah-v5"):
                assert recipe.env_steps == 100_000 or "medium-replay" in recipe_id
            else:
                assert recipe.episodes == (210 if "mixed" in recipe_id else 200)

    def test_every_set_carries_the_references_of_the_registry(self) -> None:
        for recipe_id in shipped_recipes():
            recipe, known = load_recipe(recipe_id), lookup(dataset_id=recipe_id)
            assert known is not None
            for name in ("random", "expert", "n", "source"):
                assert recipe.references.get(name) == getattr(known, name)
