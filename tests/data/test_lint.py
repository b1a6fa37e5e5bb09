"""Good data that is spoilt in a known way is called so; good data is called nothing."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import offrl
from offrl import Dataset, Episode, check
from offrl.data.catalogue import shipped_recipes

SETS = (
    "offrl/pendulum/medium-v0",
    "offrl/cartpole/medium-v0",
    "offrl/mountaincar-continuous/medium-v0",
)
EPISODES = 12
SEEDS = (0, 1, 2)
Spoil = Callable[[list[Episode], np.random.Generator], list[Episode]]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """A few episodes of three shipped recipes, in memory."""
    root = tmp_path_factory.mktemp("good")
    made: dict[str, Dataset] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        for name in SETS:
            data = offrl.record(name, episodes=EPISODES, out=f"{name[:-1]}9")
            made[name] = in_memory(data, list(data))
    return made


def in_memory(data: Dataset, episodes: list[Episode]) -> Dataset:
    made = Dataset.from_episodes(
        episodes, data.spec.observation_space, data.spec.action_space, id=data.id
    )
    made.metadata.update(data.metadata)
    return made


def any_of(episodes: list[Episode], rng: np.random.Generator) -> int:
    return int(rng.integers(len(episodes) - 1))


def changed(column: str, change: Callable[[Any, np.random.Generator], Any]) -> Spoil:
    """Change one column of one episode."""

    def spoil(episodes: list[Episode], rng: np.random.Generator) -> list[Episode]:
        i = any_of(episodes, rng)
        values = change(getattr(episodes[i], column).copy(), rng)
        return [*episodes[:i], replace(episodes[i], **{column: values}), *episodes[i + 1 :]]

    return spoil


def everywhere(column: str, change: Callable[[Any], Any]) -> Spoil:
    """Change one column of every episode."""

    def spoil(episodes: list[Episode], rng: np.random.Generator) -> list[Episode]:
        return [replace(e, **{column: change(getattr(e, column).copy())}) for e in episodes]

    return spoil


def at(value: float) -> Callable[[Any, np.random.Generator], Any]:
    """Put a value into one row, not the last one."""

    def change(column: Any, rng: np.random.Generator) -> Any:
        column.reshape(len(column), -1)[rng.integers(len(column) - 1), 0] = value
        return column

    return change


def merged(episodes: list[Episode], i: int) -> list[Episode]:
    """Episode i and the next become one: the end between them was not flagged."""
    one, other = episodes[i : i + 2]
    both = {
        name: np.concatenate([getattr(one, name), getattr(other, name)])
        for name in ("actions", "rewards")
    }
    flags = {
        name: np.concatenate([np.zeros(len(one), bool), getattr(other, name)])
        for name in ("terminations", "truncations")
    }
    observations = np.concatenate([one.observations[:-1], other.observations])
    infos = {
        key: np.concatenate([one.infos[key], other.infos[key][1:]])
        for key in ("behavior_log_prob",)
    }
    joined = replace(one, observations=observations, infos=infos, **both, **flags)
    return [*episodes[:i], joined, *episodes[i + 2 :]]


def carried(episodes: list[Episode], rng: np.random.Generator) -> list[Episode]:
    """The last observation is the first of the next episode, as an automatic reset hands it out."""
    for one, other in itertools.pairwise(episodes):
        one.observations[-1] = other.observations[0]
    return episodes


def repeated(episodes: list[Episode], rng: np.random.Generator) -> list[Episode]:
    for one in episodes:
        one.observations[-1] = one.observations[-2]
    return episodes


def twice(episodes: list[Episode], rng: np.random.Generator) -> list[Episode]:
    return [*episodes, episodes[any_of(episodes, rng)]]


def stuck(episodes: list[Episode], rng: np.random.Generator) -> list[Episode]:
    """Every second row is the one before, logged again."""
    made = []
    for one in episodes:
        rows = np.arange(len(one)) // 2 * 2
        observations = one.observations[np.append(rows, len(one))]
        made.append(replace(one, observations=observations, actions=one.actions[rows]))
    return made


def scaled(episodes: list[Episode], rng: np.random.Generator) -> list[Episode]:
    rows = np.concatenate([one.observations for one in episodes])
    mean, std = rows.mean(axis=0), rows.std(axis=0)
    return [
        replace(one, observations=((one.observations - mean) / std).astype(np.float32))
        for one in episodes
    ]


def ended(terminated: bool, truncated: bool) -> Spoil:
    """Flag the last step of every episode like this."""

    def spoil(episodes: list[Episode], rng: np.random.Generator) -> list[Episode]:
        last = [np.arange(len(one)) == len(one) - 1 for one in episodes]
        return [
            replace(one, terminations=end & terminated, truncations=end & truncated)
            for one, end in zip(episodes, last, strict=True)
        ]

    return spoil


def logged(change: Callable[[Any, np.random.Generator], Any], most: int | None = None) -> Spoil:
    """Change the log-probabilities of the first episodes, or of all."""

    def spoil(episodes: list[Episode], rng: np.random.Generator) -> list[Episode]:
        made = list(episodes)
        for i, one in enumerate(episodes[:most]):
            column = change(one.infos["behavior_log_prob"].copy(), rng)
            infos = {**one.infos, "behavior_log_prob": column}
            if column is None:
                infos.pop("behavior_log_prob")
            made[i] = replace(one, infos=infos)
        return made

    return spoil


def masked(allow: Callable[[Episode, Any], Any], offset: int = 0) -> Spoil:
    """Give every episode a mask of the two actions, that allows all but what `allow` clears."""

    def spoil(episodes: list[Episode], rng: np.random.Generator) -> list[Episode]:
        made = []
        for one in episodes:
            mask = np.ones((len(one) + 1, 2), bool)
            mask[np.arange(offset, len(one) + offset), 1 - one.actions] = False
            made.append(replace(one, infos={**one.infos, "action_mask": allow(one, mask)}))
        return made

    return spoil


def forbidding(one: Episode, mask: Any) -> Any:
    mask[len(one) // 2] = ~mask[len(one) // 2]
    return mask


@dataclass(frozen=True)
class Kind:
    """One way of spoiling data, what it is called, how gravely, and on which of the sets."""

    spoil: Spoil
    code: str
    severity: str
    sets: tuple[int, ...] = (0, 1, 2)


KINDS = {
    "nan observation": Kind(changed("observations", at(np.nan)), "non-finite-observation", "error"),
    "nan action": Kind(changed("actions", at(np.nan)), "non-finite-action", "error", (0, 2)),
    "infinite reward": Kind(changed("rewards", at(np.inf)), "non-finite-reward", "error"),
    "wide action": Kind(changed("actions", at(2.5)), "action-out-of-bounds", "error", (0, 2)),
    "third choice": Kind(changed("actions", at(2)), "action-out-of-range", "error", (1,)),
    "speed of 9": Kind(changed("observations", at(9)), "observation-out-of-space", "warning"),
    "observation of the next": Kind(carried, "last-observation-from-next", "warning"),
    "observation repeated": Kind(repeated, "last-observation-repeated", "warning", (0,)),
    "end repeated": Kind(repeated, "last-observation-repeated", "note", (1, 2)),
    "clipped actions": Kind(
        everywhere("actions", lambda a: np.clip(a, -0.3, 0.3)), "saturated-action", "note", (0, 2)
    ),
    "column of zeros": Kind(
        everywhere("observations", lambda o: o * (np.arange(o.shape[1]) > 0).astype(np.float32)),
        "constant-observation",
        "note",
    ),
    "column twice": Kind(
        everywhere("observations", lambda o: o[:, [0, 0, *range(2, o.shape[1])]]),
        "duplicate-observation",
        "note",
    ),
    "one action": Kind(everywhere("actions", np.zeros_like), "constant-action", "note"),
    "no reward": Kind(everywhere("rewards", np.zeros_like), "constant-reward", "note", (0,)),
    "episode twice": Kind(twice, "duplicate-episode", "warning"),
    "rows twice": Kind(stuck, "duplicate-row", "warning", (0, 2)),
    "error code": Kind(changed("rewards", at(-9999.0)), "reward-outlier", "warning"),
    "huge rewards": Kind(everywhere("rewards", lambda r: r * 1e9), "reward-scale", "warning"),
    "tiny rewards": Kind(everywhere("rewards", lambda r: r * 1e-12), "reward-scale", "warning"),
    "normalised": Kind(scaled, "observation-normalised", "note"),
    "time limit as end": Kind(ended(True, False), "ends-at-one-length", "warning", (0,)),
    "both ends": Kind(ended(True, True), "both-ends", "note"),
    "no end": Kind(ended(False, False), "open-end", "note"),
    "early end": Kind(changed("terminations", at(1)), "end-inside-episode", "error"),
    "probabilities": Kind(logged(lambda p, _: np.exp(p)), "log-prob-positive", "error", (1,)),
    "no probability": Kind(logged(at(-np.inf), 1), "log-prob-infinite", "error"),
    "a gap": Kind(
        logged(lambda p, _: np.where(np.arange(len(p)) == 3, np.nan, p), 1),
        "log-prob-gap",
        "warning",
    ),
    "log-probs early": Kind(logged(lambda p, _: np.roll(p, -1)), "log-prob-shifted", "error"),
    "log-probs of some": Kind(logged(lambda p, _: None, 3), "log-prob-partial", "note"),
    "log-probs short": Kind(logged(lambda p, _: p[:-2], 1), "log-prob-shape", "error"),
    "log2": Kind(logged(lambda p, _: p / np.log(2)), "log-prob-mean-ratio", "error", (1,)),
    "actions of another unit": Kind(
        logged(lambda p, _: p - np.log(2)), "log-prob-mean-ratio", "error", (0, 2)
    ),
    "mask ignored": Kind(masked(forbidding), "action-mask-violated", "error", (1,)),
    "mask of three": Kind(
        masked(lambda _, mask: mask[:, [0, 1, 1]]), "action-mask-shape", "error", (1,)
    ),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_spoilt_data_is_found(good: dict[str, Dataset], kind: str, seed: int) -> None:
    wanted = KINDS[kind]
    for number in wanted.sets:
        data = good[SETS[number]]
        copies = [
            replace(one, observations=one.observations.copy(), infos=dict(one.infos))
            for one in data
        ]
        rng = np.random.default_rng([seed, number])
        report = check(in_memory(data, wanted.spoil(copies, rng)))
        found = {problem.code: problem.severity for problem in report.problems}
        assert found.get(wanted.code) == wanted.severity, (SETS[number], found)


@pytest.mark.parametrize(("number", "share"), [(0, 0.6), (1, 0.6), (2, 1.0)])
def test_an_end_that_was_not_flagged_is_found_where_the_step_over_it_is_wide(
    good: dict[str, Dataset], number: int, share: float
) -> None:
    """A pendulum that hangs where the next episode begins gives no sign of it."""
    data = good[SETS[number]]
    found = []
    for i in range(EPISODES - 1):
        report = check(in_memory(data, merged(list(data), i)))
        problems = {problem.code: problem for problem in report.problems}
        found.append("boundary-crossing" in problems)
        if found[-1]:
            place = f"episode {i} step {len(data[i]) - 1}"
            assert place in problems["boundary-crossing"].places
            assert problems["boundary-crossing"].severity == "warning"
    assert np.mean(found) >= share, found


@pytest.mark.parametrize("offset", [0, 1])
def test_masks_are_read_as_rows_of_observations_or_of_infos(
    good: dict[str, Dataset], offset: int
) -> None:
    data = good[SETS[1]]
    spoil = masked(lambda _, mask: mask, offset)
    report = check(in_memory(data, spoil(list(data), np.random.default_rng(0))))
    assert report.problems == check(data).problems


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_good_data_is_called_nothing(name: str, seed: int) -> None:
    report = check(offrl.record(name, episodes=EPISODES, seed=seed, out="me/good-v0"))
    assert report.ok
    assert {problem.code for problem in report.problems if problem.severity != "note"} == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_whole_recipes_are_called_nothing(name: str) -> None:
    report = check(offrl.record(name))
    assert [problem for problem in report.problems if problem.severity != "note"] == []


def test_a_prize_for_reaching_the_goal_is_no_outlier(good: dict[str, Dataset]) -> None:
    """MountainCar pays 100 at its goal and at most a tenth of one for anything else."""
    data = good[SETS[2]]
    assert max(float(one.rewards.max()) for one in data) > 90
    assert "reward-outlier" not in {problem.code for problem in check(data).problems}


def test_a_log_cut_in_pieces_is_a_note(good: dict[str, Dataset]) -> None:
    pieces: list[Episode] = []
    for one in good[SETS[0]]:
        for start in range(0, len(one), 50):
            cut = slice(start, start + 50)
            pieces.append(
                replace(
                    one,
                    observations=one.observations[start : start + 51],
                    actions=one.actions[cut],
                    rewards=one.rewards[cut],
                    terminations=one.terminations[cut],
                    truncations=np.arange(50) == 49,
                    infos={},
                )
            )
    found = {p.code: p.severity for p in check(in_memory(good[SETS[0]], pieces)).problems}
    assert found == {"continued-in-next": "note"}


def test_one_step_decisions_are_no_wart() -> None:
    """A table of single decisions: nothing follows, and two of them can be equal."""
    rng = np.random.default_rng(0)
    context = rng.integers(3, size=(500, 1)).astype(np.float32)
    data = Dataset.from_arrays(
        np.repeat(context, 2, axis=0),
        rng.integers(4, size=500),
        rng.integers(2, size=500).astype(float),
        np.ones(500, bool),
        np.zeros(500, bool),
        behavior_log_prob=np.full(500, -np.log(4)),
    )
    assert not check(data).problems
