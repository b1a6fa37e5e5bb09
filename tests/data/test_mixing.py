"""A mixture holds whole episodes in the shares that were asked for, and knows whose they are."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import minari
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from minari_files import ACTION, OBSERVATION, episode

from offrl import Dataset, check
from offrl.data.algebra import filter_episodes
from offrl.data.dataset import load
from offrl.data.mixing import mix
from offrl.errors import ConfigError

Run = Callable[..., tuple[int, str, str]]
REFERENCES = {"random": -10.0, "expert": 5.0}


def made(
    name: str, n: int, behaviors: list[str] | None = None, *, first: int = 0, steps: int = 4
) -> Dataset:
    """n episodes, by each of the behaviours in turn, of 4, 5, 6, 4, ... steps."""
    episodes = []
    for i in range(n):
        one = episode(steps + i % 3, first + i)
        if behaviors:
            column = np.append(-1, np.full(len(one), i % len(behaviors)))
            one = replace(one, infos={**one.infos, "behavior": column})
        episodes.append(one)
    data = Dataset.from_episodes(episodes, OBSERVATION, ACTION, id=name, env="Pendulum-v1")
    recipe = {"behaviors": [{"policy": policy, "weight": 1.0} for policy in behaviors or ()]}
    data.metadata["offrl"] = {"recipe": recipe, "references": REFERENCES} if behaviors else {}
    return data


def shares_of(mixture: Dataset) -> list[dict[str, int]]:
    return [source["taken"] for source in mixture.metadata["offrl"]["lineage"]["sources"]]


def test_without_shares_everything_is_taken_in_order() -> None:
    """Fault B3 of a peer: what a filter left out comes back."""
    one = filter_episodes(made("me/one-v0", 10), episodes="0-2")
    other = made("me/other-v0", 4, first=50)
    mixture = mix([one, other])
    assert len(mixture) == 7
    assert [part.seed for part in mixture] == [100, 101, 102, 150, 151, 152, 153]
    assert [part.id for part in mixture] == list(range(7))
    assert mixture.n_steps == one.n_steps + other.n_steps
    for number, part in ((1, one[1]), (5, other[2])):
        np.testing.assert_array_equal(mixture[number].observations, part.observations)
    assert [part.seed for part in mixture[2:4]] == [102, 150]


def test_behaviors_are_numbered_anew_and_equal_ones_are_one() -> None:
    one = made("me/one-v0", 4, ["random", "expert"])
    other = made("me/other-v0", 6, ["novice", "random", "medium"], first=50)
    mixture = mix([one, other]).save("me/mixed-v0")
    known = mixture.describe()["behaviors"]
    assert [entry["policy"] for entry in known] == ["random", "expert", "novice", "medium"]
    numbers = [int(part.infos["behavior"][1]) for part in mixture]
    assert numbers == [0, 1, 0, 1, 2, 0, 3, 2, 0, 3]
    assert all(part.infos["behavior"][0] == -1 for part in mixture)
    assert [part.seed for part in filter_episodes(mixture, behavior="random")] == [
        *(100, 102),
        *(151, 154),
    ]
    assert check(mixture).ok


def test_references_are_kept_where_all_sources_agree() -> None:
    """Fault B4 of a peer: its combine drops them."""
    one, other = made("me/one-v0", 3, ["random"]), made("me/other-v0", 3, ["expert"], first=50)
    unknown = made("me/unknown-v0", 3, first=90)
    mixture = mix([one, other, unknown]).save("me/mixed-v0")
    assert mixture.metadata["offrl"]["references"] == REFERENCES
    assert mixture.metadata["ref_max_score"] == 5.0
    assert mixture.metadata["combined_datasets"] == ["me/one-v0", "me/other-v0", "me/unknown-v0"]
    assert mixture.env_id == "Pendulum-v1"
    other.metadata["offrl"]["references"] = {"random": -11.0, "expert": 5.0}
    differing = mix([one, other])
    assert "references" not in differing.metadata["offrl"]
    sources = differing.metadata["offrl"]["lineage"]["sources"]
    assert sources[1]["offrl"]["references"]["random"] == -11.0
    assert minari.load_dataset("me/mixed-v0").total_episodes == 9


def test_another_environment_takes_env_and_references_away() -> None:
    one, other = made("me/one-v0", 3, ["random"]), made("me/other-v0", 3, ["random"], first=50)
    for data in (one, other):
        data.metadata["ref_max_score"] = 5.0
    other.metadata["env_spec"] = json.dumps({"id": "CartPole-v1"})
    mixture = mix([one, other])
    assert mixture.env_id is None
    assert "ref_max_score" not in mixture.metadata
    assert "references" not in mixture.metadata["offrl"]


@given(st.integers(2, 30), st.integers(2, 30), st.floats(0.1, 0.9), st.integers(0, 3))
def test_shares_of_episodes_are_exact_and_as_many_as_there_are(
    n: int, m: int, share: float, seed: int
) -> None:
    one, other = made("me/one-v0", n, steps=1), made("me/other-v0", m, first=50, steps=1)
    most = min(n / share, m / (1 - share))
    if min(share, 1 - share) * most < 2:  # a share of less than two may be none
        return
    mixture = mix([one, other], shares=[share, 1 - share], seed=seed)
    assert len(mixture) >= int(most) - 1
    taken = [part["episodes"] for part in shares_of(mixture)]
    assert abs(taken[0] - share * len(mixture)) <= 1
    assert taken[0] <= n
    assert taken[1] <= m
    again = mix([one, other], shares=[share, 1 - share], seed=seed)
    assert [part.seed for part in again] == [part.seed for part in mixture]
    seeds = [part.seed for part in mixture]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("by", ["steps", "episodes"])
def test_shares_count_what_they_are_asked_to(by: Literal["steps", "episodes"]) -> None:
    short, long = made("me/short-v0", 40, steps=1), made("me/long-v0", 40, first=50, steps=20)
    mixture = mix([short, long], shares=[1, 1], by=by)
    first, second = (part[by] for part in shares_of(mixture))
    assert abs(first - second) <= (22 if by == "steps" else 0)


def test_sizes_are_met() -> None:
    one, other = made("me/one-v0", 20), made("me/other-v0", 20, first=50)
    assert len(mix([one, other], shares=[3, 1], episodes=12)) == 12
    assert [p["episodes"] for p in shares_of(mix([one, other], shares=[3, 1], episodes=12))] == [
        *(9, 3)
    ]
    by_steps = shares_of(mix([one, other], shares=[3, 1], env_steps=60))
    assert abs(by_steps[0]["steps"] - 45) <= 3
    assert abs(by_steps[1]["steps"] - 15) <= 3
    assert len(mix([one, other], episodes=10)) == 10


@pytest.mark.parametrize(
    ("change", "given", "fragment"),
    [
        ("none", {"shares": [1]}, "1 shares for 2 datasets"),
        ("none", {"shares": [1, 0]}, "above 0"),
        ("none", {"shares": [1, 1], "episodes": 30}, "At most 8"),
        ("none", {"shares": [1, 1], "env_steps": 300}, "At most "),
        ("none", {"shares": [99, 1], "episodes": 3}, "No episode of me/other-v0"),
        ("none", {"episodes": 2, "env_steps": 2}, "Both"),
        ("none", {"episodes": 0}, "is nothing"),
        ("space", {}, "differ in the action space"),
        ("columns", {}, "encode their columns differently"),
        ("same", {}, "me/one-v0 is named twice"),
        ("alone", {}, "two datasets or more"),
    ],
)
def test_mixtures_that_cannot_be_are_named(
    change: str, given: dict[str, Any], fragment: str
) -> None:
    one, other = made("me/one-v0", 6), made("me/other-v0", 4, first=50)
    if change == "space":
        wider = spaces.Box(-2, 2, (2,), np.float32)
        other = Dataset.from_episodes(list(other), OBSERVATION, wider, id="me/other-v0")
    if change == "columns":
        other.metadata["offrl"] = {"columns": [{"name": "city", "categories": ["Oslo"]}]}
    sources = {"same": [one, one], "alone": [one]}.get(change, [one, other])
    with pytest.raises(ConfigError) as refused:
        mix(sources, **given)
    assert fragment in f"{refused.value.cause} {refused.value.remedy}"


def test_episodes_that_two_sources_share_are_told() -> None:
    one, other = made("me/one-v0", 6), made("me/other-v0", 8, first=3)
    with pytest.warns(UserWarning, match="3 episodes are in more than one of me/one-v0"):
        mix([one, other])


def test_the_command_writes_the_mixture(root: Path, typed: Run) -> None:
    made("me/one-v0", 20, ["random"]).save("me/one-v0")
    made("me/other-v0", 20, ["expert"], first=50).save("me/other-v0")
    words = ("--shares", "3,1", "--episodes", "16", "--out", "me/mixed-v0")
    status, out, _ = typed("data", "mix", "me/one-v0", "me/other-v0", *words, "--json")
    assert status == 0
    assert json.loads(out)["episodes"] == 16
    assert json.loads(out)["lineage"]["rule"]["shares"] == [3.0, 1.0]
    mixture = load("me/mixed-v0")
    assert mixture.log_prob == "logged"
    np.testing.assert_allclose(mixture.transitions.returns, [e.episode_return for e in mixture])
    status, out, err = typed("data", "mix", "me/one-v0", "--out", "me/x-v0")
    assert (status, out) == (2, "")
    assert "two datasets or more" in err
