"""Parts of datasets hold what was asked for, unchanged, and say what they were made from."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from minari_files import ACTION, OBSERVATION, episode

from offrl import Dataset, Episode, check
from offrl.data.algebra import episode_numbers, filter_episodes, shared_out, split_episodes
from offrl.data.dataset import load
from offrl.data.writer import Writer
from offrl.errors import ConfigError

Run = Callable[..., tuple[int, str, str]]
RECIPE = {
    "behaviors": [
        {"policy": "random", "weight": 1.0},
        {"policy": "expert", "noise": 0.3, "weight": 2.0},
        {"policy": "expert", "weight": 1.0},
    ]
}
REFERENCES = {"random": -10.0, "expert": 5.0, "n": 100, "source": "somewhere"}


def one(number: int, steps: int = 4, total: float | None = None) -> Episode:
    """Episode 0, 3, 6... by behaviour 0, and so on; the even ones are terminated."""
    made = episode(steps, number, terminated=number % 2 == 0)
    infos = {
        **made.infos,
        "behavior": np.append(-1, np.full(steps, number % 3)),
        "success": np.arange(steps + 1) == (steps if number == 5 else -1),
    }
    rewards = made.rewards if total is None else np.append(np.zeros(steps - 1), total)
    return replace(made, infos=infos, rewards=rewards)


def made(n: int = 9) -> Dataset:
    """Episodes 0 to n-1 with n-i steps and a return of i."""
    episodes = [one(i, n - i, i) for i in range(n)]
    data = Dataset.from_episodes(episodes, OBSERVATION, ACTION, id="me/made-v0")
    data.metadata["offrl"] = {"recipe": RECIPE, "references": REFERENCES, "fingerprint": "stale"}
    return data


def ids(data: Dataset) -> list[int]:
    """Which episodes of `made` these are: their returns."""
    return [round(part.episode_return) for part in data]


@pytest.mark.parametrize(
    ("conditions", "kept"),
    [
        ({"min_return": 6}, [6, 7, 8]),
        ({"max_return": 1.5}, [0, 1]),
        ({"min_return": 2, "max_return": 3}, [2, 3]),
        ({"min_length": 8}, [0, 1]),
        ({"max_length": 1}, [8]),
        ({"episodes": [7, 0]}, [0, 7]),
        ({"episodes": "0-2,5,7-"}, [0, 1, 2, 5, 7, 8]),
        ({"ended": "terminated"}, [0, 2, 4, 6, 8]),
        ({"ended": "truncated", "min_return": 4}, [5, 7]),
        ({"behavior": 0}, [0, 3, 6]),
        ({"behavior": "random"}, [0, 3, 6]),
        ({"behavior": "expert"}, [1, 2, 4, 5, 7, 8]),
        ({"behavior": "expert,noise=0.3"}, [1, 4, 7]),
        ({"behavior": ["random", 2]}, [0, 2, 3, 5, 6, 8]),
        ({"info": "success"}, [5]),
        ({"where": lambda e: len(e) == 4}, [5]),
        ({"top": 0.2}, [7, 8]),
        ({"bottom": 0.3}, [0, 1, 2]),
        ({"top": 0.01}, [8]),
        ({"top": 0.5, "max_return": 3}, [2, 3]),
    ],
)
def test_a_filter_keeps_the_episodes_that_meet_every_condition(
    conditions: dict[str, Any], kept: list[int]
) -> None:
    data = made()
    found = filter_episodes(data, **conditions)
    assert ids(found) == kept
    np.testing.assert_array_equal(found[0].observations, data[kept[0]].observations)


def test_episodes_without_log_probabilities_with_nan_or_seen_before_can_be_left_out() -> None:
    episodes = [one(i) for i in range(4)]
    episodes[1].infos["behavior_log_prob"][2] = np.nan
    episodes[2].rewards[0] = np.inf
    # the same happened, and the log-probabilities of another policy were logged
    other = np.append(np.nan, np.full(4, -3.0))
    episodes.append(replace(episodes[0], infos={"behavior_log_prob": other}))
    data = Dataset.from_episodes(episodes, OBSERVATION, ACTION)
    first = [part.seed for part in data]
    assert first == [100, 101, 102, 103, 100]
    assert [e.seed for e in filter_episodes(data, logged=True)] == [100, 102, 103, 100]
    assert [e.seed for e in filter_episodes(data, finite=True)] == [100, 101, 103, 100]
    assert [e.seed for e in filter_episodes(data, distinct=True)] == [100, 101, 102, 103]
    assert len(filter_episodes(data, logged=True, finite=True, distinct=True)) == 2


@pytest.mark.parametrize(
    ("conditions", "fragment"),
    [
        ({}, "No condition"),
        ({"top": 0.1, "bottom": 0.1}, "both given"),
        ({"top": 0.0}, "no share"),
        ({"bottom": 1.5}, "no share"),
        ({"ended": "terminatd"}, "Did you mean 'terminated'"),
        ({"behavior": "experd"}, "Did you mean 'expert'"),
        ({"info": "sucess"}, "Did you mean 'success'"),
        ({"behavior": 9}, "by a behavior 9"),
        ({"episodes": "5-2"}, "runs backwards"),
        ({"episodes": "9"}, "There is no episode 9"),
        ({"episodes": [-1]}, "There is no episode -1"),
        ({"episodes": "1,1"}, "named twice"),
        ({"episodes": "one"}, "names no episodes"),
        ({"min_return": 99}, "returns run from 0 to 8"),
    ],
)
def test_conditions_that_cannot_be_are_named(conditions: dict[str, Any], fragment: str) -> None:
    with pytest.raises(ConfigError) as refused:
        filter_episodes(made(), **conditions)
    assert fragment in f"{refused.value.cause} {refused.value.remedy}"


def test_a_part_keeps_what_was_said_of_the_whole_and_says_where_it_is_from() -> None:
    data = made()
    data.metadata |= {"author": ["someone"], "ref_max_score": 3.0}
    part = filter_episodes(filter_episodes(data, min_return=2), ended="terminated")
    saved = part.save("me/part-v0")
    own = saved.metadata["offrl"]
    assert own["references"] == REFERENCES
    assert own["recipe"] == RECIPE
    assert own["fingerprint"] == saved.fingerprint
    assert saved.metadata["author"] == ["someone"]
    assert saved.metadata["ref_max_score"] == 3.0
    assert own["lineage"]["rule"] == {"ended": "terminated"}
    (source,) = own["lineage"]["sources"]
    assert source["taken"] == {"episodes": 4, "steps": 7 + 5 + 3 + 1}
    (first,) = source["lineage"]["sources"]
    assert (first["dataset"], first["fingerprint"]) == ("me/made-v0", data.fingerprint)
    assert first["episodes"] == 9
    assert saved.describe()["lineage"] == own["lineage"]
    for kept, original in zip(saved, (data[i] for i in (2, 4, 6, 8)), strict=True):
        assert kept.seed == original.seed
        for key in ("behavior", "behavior_log_prob", "success"):
            np.testing.assert_array_equal(kept.infos[key], original.infos[key])
    assert minari.load_dataset("me/part-v0").total_episodes == 4
    assert check(saved).ok


def test_pictures_lose_nothing(tmp_path: Path) -> None:
    """Minari's own combine and copy make JPEGs of them."""
    space = spaces.Box(0, 255, (32, 32, 3), np.uint8)
    episodes = [episode(3, i, observation_space=space) for i in range(4)]
    data = Dataset.from_episodes(episodes, space, ACTION).save("me/images-v0")
    train, test = split_episodes(data, shares=[0.5, 0.5])
    for part in (train.save("me/train-v0"), test.save("me/test-v0")):
        assert part.metadata["jpeg_encoding"] is False
        for kept in part:
            original = episodes[(kept.seed or 0) - 100]
            np.testing.assert_array_equal(kept.observations, original.observations)


@given(
    st.integers(1, 40),
    st.lists(st.floats(0.05, 1.0), min_size=1, max_size=4),
    st.integers(0, 5),
)
def test_shares_are_held_to_within_one_and_lose_nothing(
    n: int, weights: list[float], seed: int
) -> None:
    shares = [weight / sum(weights) for weight in weights]
    counts = shared_out(n, shares)
    assert sum(counts) == n
    assert all(abs(c - s * n) < 1 + 1e-6 for c, s in zip(counts, shares, strict=True))


@given(st.integers(2, 12), st.floats(0.1, 0.9), st.integers(0, 3))
def test_parts_share_no_episode_and_keep_the_order(n: int, share: float, seed: int) -> None:
    data = made(n)
    try:
        parts = split_episodes(data, shares=[share, 1 - share], seed=seed)
    except ConfigError:
        assert min(share, 1 - share) * n <= 0.5 + 1e-9  # a part that holds nothing
        return
    found = [ids(part) for part in parts]
    assert all(one == sorted(one) for one in found)
    assert sorted(found[0] + found[1]) == list(range(n))
    again = split_episodes(data, shares=[share, 1 - share], seed=seed)
    assert [ids(part) for part in again] == found


def test_another_seed_deals_otherwise_and_what_shares_leave_is_in_no_part() -> None:
    data = made(9)
    first, second = (split_episodes(data, shares=[0.5], seed=seed)[0] for seed in (0, 1))
    assert len(first) == 4
    assert ids(first) != ids(second)


def test_a_split_by_episodes_is_what_was_named() -> None:
    train, test = split_episodes(made(), episodes=["0-5", [8, 7]])
    assert (ids(train), ids(test)) == ([0, 1, 2, 3, 4, 5], [7, 8])
    assert test.metadata["offrl"]["lineage"]["rule"] == {"episodes": [8, 7]}


@pytest.mark.parametrize(
    ("given", "fragment"),
    [
        ({"shares": [0.6, 0.6]}, "more than 1"),
        ({"shares": [0.5, -0.5]}, "above 0"),
        ({"shares": [0.99, 0.01]}, "Part 1 of me/made-v0 would be empty"),
        ({"episodes": ["0-5", "5-8"]}, "Episode 5 is in two parts"),
        ({}, "by shares or by episodes"),
    ],
)
def test_splits_that_cannot_be_are_named(given: dict[str, Any], fragment: str) -> None:
    with pytest.raises(ConfigError) as refused:
        split_episodes(made(), **given)
    assert fragment in f"{refused.value.cause} {refused.value.remedy}"


def test_ranges_are_read_as_people_write_them() -> None:
    assert episode_numbers("3, 0 - 1,8-", 10).tolist() == [0, 1, 3, 8, 9]


def shop(root: Path) -> Dataset:
    with Writer(
        "me/shop-v0", OBSERVATION, ACTION, metadata={"recipe": RECIPE, "references": REFERENCES}
    ) as writer:
        for i in range(9):
            writer.add(one(i, 9 - i, i))
        return writer.close()


def test_the_commands_write_datasets_and_answer_as_show_does(root: Path, typed: Run) -> None:
    shop(root)
    words = ("--top", "0.4", "--behavior", "expert", "--out", "me/best-v0", "--json")
    status, out, _ = typed("data", "filter", "me/shop-v0", *words)
    assert status == 0
    shown = json.loads(out)
    assert (shown["dataset"], shown["episodes"], shown["log_prob"]) == ("me/best-v0", 2, "logged")
    assert ids(load("me/best-v0")) == [7, 8]
    assert json.loads(typed("data", "show", "me/best-v0", "--json")[1]) == shown
    words = ("--shares", "0.7", "--out", "me/train-v0", "--out", "me/test-v0", "--seed", "3")
    status, out, _ = typed("data", "split", "me/shop-v0", *words, "--json")
    assert [part["episodes"] for part in json.loads(out)["parts"]] == [6, 3]
    train, test = ids(load("me/train-v0")), ids(load("me/test-v0"))
    assert sorted(train + test) == list(range(9))
    shown = typed("data", "show", "me/train-v0")[1]
    assert "made by" in shown
    assert "0 random; 1 expert,noise=0.3; 2 expert" in shown
    status, out, _ = typed("data", "filter", "me/shop-v0", "--distinct", "--out", "me/all-v0")
    assert "9 of 9 episodes" in out
    assert out.splitlines()[-1] == "next: offrl data check me/all-v0"


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (("filter", "me/shop-v0", "--out", "me/x-v0"), "--top 0.1"),
        (("filter", "me/shop-v0", "--top", "0.1", "--out", "me/shop-v0"), "exists already"),
        (("filter", "me/shop-v0", "--top", "0.1", "--out", "../x-v0"), "cannot be the id"),
        (("filter", "me/shop-v0", "--ended", "done", "--out", "me/x-v0"), "terminated"),
        (("filter", "me/shop-v0", "--quantile", "0.9", "--out", "me/x-v0"), "--top"),
        (("split", "me/shop-v0", "--out", "me/x-v0"), "--shares 0.8,0.2"),
        (("split", "me/shop-v0", "--shares", "a", "--out", "me/x-v0"), "holds no shares"),
        (
            ("split", "me/shop-v0", "--shares", "0.1,0.2,0.3", "--out", "me/x-v0"),
            "3 parts and 1 ids",
        ),
        (
            ("split", "me/shop-v0", "--shares", "0.5", "--out", "me/x-v0", "--out", "me/x-v0"),
            "same id twice",
        ),
        (
            ("split", "me/shop-v0", "--shares", "0.5", "--out", "me/x-v0", "--out", "me/shop-v0"),
            "exists already",
        ),
    ],
)
def test_words_that_are_off_write_nothing(
    root: Path, typed: Run, words: tuple[str, ...], fragment: str
) -> None:
    before = shop(root).fingerprint
    status, out, err = typed("data", *words)
    assert (status, out) == (2, "")
    assert fragment in err
    assert not (root / "me" / "x-v0").exists()
    assert load("me/shop-v0").fingerprint == before


def test_a_dataset_can_be_replaced_by_a_part_of_itself(root: Path, typed: Run) -> None:
    shop(root)
    words = ("--min-return", "7", "--out", "me/shop-v0", "--overwrite")
    assert typed("data", "filter", "me/shop-v0", *words)[0] == 0
    assert ids(load("me/shop-v0")) == [7, 8]
