"""Mixtures: whole episodes of several datasets with equal spaces, in the shares that are asked for.

A mixture is a view that reads its sources when it is read. The values of an episode are those of
its source; only the number of a behaviour changes, where several lists of behaviours become one.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from offrl.data import lineage
from offrl.data.algebra import shared_out, taken_of
from offrl.data.dataset import Dataset
from offrl.data.episode_facts import Facts, behaviors_of, facts_of
from offrl.data.episode_store import Chosen, Joined
from offrl.data.episodes import fingerprint_of
from offrl.errors import ConfigError


def mix(
    sources: Sequence[Dataset],
    *,
    shares: Sequence[float] | None = None,
    by: Literal["episodes", "steps"] = "episodes",
    episodes: int | None = None,
    env_steps: int | None = None,
    seed: int = 0,
    id: str = "in-memory",
) -> Dataset:
    """Return whole episodes of several datasets with equal spaces, one source after the other.

    Without shares all of every source is taken. With shares (any positive numbers, 3 to 1 for
    example) episodes are drawn without replacement, by the seed, so that each source has its
    share of the episodes or, `by="steps"` or with `env_steps`, of the steps to within one episode;
    the mixture is as large as the scarcest source allows, or of `episodes` or about `env_steps`.
    Raises ConfigError for spaces that differ, a source named twice, or more than there is.
    """
    _require_mixable(sources, shares, episodes, env_steps)
    facts = [facts_of(data) for data in sources]
    prints = [fingerprint_of(list(one.digests)) for one in facts]
    for i, one in enumerate(prints):
        if one in prints[:i]:
            twin, again = sources[prints.index(one)].id, sources[i].id
            what = (
                f"{again} is named twice" if twin == again else f"{again} holds what {twin} holds"
            )
            raise ConfigError(f"{what}.", "Name each set once.")
    by = "steps" if env_steps is not None else by
    size = env_steps if env_steps is not None else episodes
    if shares is None and size is None:
        taken = [np.arange(len(data)) for data in sources]
    else:
        given = shares or [_amount(one, by) for one in facts]  # as much of each as there is of it
        weights = [share / math.fsum(given) for share in given]
        draw = _draw_steps if by == "steps" else _draw_episodes
        taken = draw(sources, facts, weights, size, seed)
    _warn_of_overlap(sources, facts, taken)
    behaviors, numbers = _joined_behaviors(sources, facts)
    rule = {"shares": None if shares is None else list(shares), "by": by, "episodes": episodes,
            "env_steps": env_steps, "seed": seed}  # fmt: skip
    entries = [
        lineage.source(
            data, fingerprint, int(one.steps.sum()), taken_of(one, kept),
            offrl={key: value for key, value in lineage.own(data).items() if key != lineage.KEY},
        )
        for data, fingerprint, one, kept in zip(sources, prints, facts, taken, strict=True)
    ]  # fmt: skip
    rule = {name: value for name, value in rule.items() if value is not None}
    made = lineage.record("mix", rule, entries)
    parts = [
        (Chosen(data.episodes, kept.tolist()), renamed)
        for data, kept, renamed in zip(sources, taken, numbers, strict=True)
    ]
    return Dataset(
        Joined(parts),
        sources[0].spec,
        id=id,
        metadata=lineage.merged(sources, made, behaviors),
        clip_actions=all(data.clips_actions for data in sources),
    )


def _require_mixable(
    sources: Sequence[Dataset],
    shares: Sequence[float] | None,
    episodes: int | None,
    env_steps: int | None,
) -> None:
    if len(sources) < 2:
        raise ConfigError("A mixture is of two datasets or more.", "Name another one.")
    first = sources[0]
    for data in sources[1:]:
        for name in ("observation_space", "action_space"):
            one, other = getattr(first.spec, name), getattr(data.spec, name)
            if one != other:
                raise ConfigError(
                    f"{first.id} and {data.id} differ in the {name.replace('_', ' ')}:"
                    f" {one} and {other}.",
                    "Only datasets with equal spaces can be mixed.",
                )
        if lineage.own(first).get("columns") != lineage.own(data).get("columns"):
            raise ConfigError(
                f"{first.id} and {data.id} encode their columns differently.",
                "Import both with the same categories and fills, then mix them.",
            )
    if shares is not None and len(shares) != len(sources):
        raise ConfigError(
            f"There are {len(shares)} shares for {len(sources)} datasets.", "Give one for each."
        )
    if shares is not None and not all(math.isfinite(share) and share > 0 for share in shares):
        raise ConfigError(f"The shares {list(shares)} are off.", "Give numbers above 0.")
    if episodes is not None and env_steps is not None:
        raise ConfigError("Both episodes and env_steps are given.", "Give one of them.")
    for name, size in (("episodes", episodes), ("env_steps", env_steps)):
        if size is not None and size < 1:
            raise ConfigError(f"{name}={size} is nothing.", "Give 1 or more.")


def _amount(facts: Facts, by: str) -> int:
    return int(facts.steps.sum()) if by == "steps" else len(facts.steps)


def _draw_episodes(
    sources: Sequence[Dataset],
    facts: Sequence[Facts],
    weights: Sequence[float],
    size: int | None,
    seed: int,
) -> list[npt.NDArray[np.int64]]:
    most = max(len(one) / share for one, share in zip(sources, weights, strict=True))
    fitting = int(min(len(one) / w for one, w in zip(sources, weights, strict=True)) + 1e-9)
    while fitting and not _fits(sources, shared_out(fitting, weights)):
        fitting -= 1
    if size is not None and size > fitting and not _fits(sources, shared_out(size, weights)):
        raise ConfigError(
            f"{size} episodes in these shares are more than there are.",
            f"At most {fitting} can be had.",
        )
    counts = shared_out(fitting if size is None else size, weights)
    if min(counts) < 1:
        poor = sources[counts.index(0)].id
        raise ConfigError(
            f"No episode of {poor} would be in the mixture.",
            f"Ask for more episodes, {math.ceil(most)} for example, or give it a larger share.",
        )
    return [
        np.sort(np.random.default_rng([seed, i]).permutation(len(data))[:count])
        for i, (data, count) in enumerate(zip(sources, counts, strict=True))
    ]


def _fits(sources: Sequence[Dataset], counts: Sequence[int]) -> bool:
    return all(count <= len(data) for data, count in zip(sources, counts, strict=True))


def _draw_steps(
    sources: Sequence[Dataset],
    facts: Sequence[Facts],
    weights: Sequence[float],
    size: int | None,
    seed: int,
) -> list[npt.NDArray[np.int64]]:
    totals = [int(one.steps.sum()) for one in facts]
    fitting = int(min(n / w for n, w in zip(totals, weights, strict=True)) + 1e-9)
    if size is not None and size > fitting:
        raise ConfigError(
            f"{size} steps in these shares are more than there are.",
            f"At most {fitting} can be had.",
        )
    taken: list[npt.NDArray[np.int64]] = []
    for i, (one, share) in enumerate(zip(facts, weights, strict=True)):
        target = share * (fitting if size is None else size)
        order = np.random.default_rng([seed, i]).permutation(len(one.steps))
        reached = np.cumsum(one.steps[order])
        count = 1 + int(np.argmin(np.abs(reached - target)))
        taken.append(np.sort(order[:count]))
    return taken


def _warn_of_overlap(
    sources: Sequence[Dataset], facts: Sequence[Facts], taken: Sequence[npt.NDArray[np.int64]]
) -> None:
    seen: dict[str, int] = {}
    again = 0
    for i, (one, kept) in enumerate(zip(facts, taken, strict=True)):
        for number in kept:
            again += seen.setdefault(one.contents[number], i) != i
    if again:
        names = ", ".join(data.id for data in sources)
        warnings.warn(
            f"{again} episodes are in more than one of {names}: they count twice in the mixture.",
            stacklevel=3,
        )


def _joined_behaviors(
    sources: Sequence[Dataset], facts: Sequence[Facts]
) -> tuple[list[Any], list[dict[int, int]]]:
    """One list of the behaviours of all sources, and the number in it of each source's own."""
    joined: list[Any] = []
    numbers: list[dict[int, int]] = []
    for data, one in zip(sources, facts, strict=True):
        known = behaviors_of(data)
        renamed: dict[int, int] = {}
        for number in sorted({*range(len(known)), *set().union(*one.behaviors)}):
            # The weight was its share of the source, and says nothing of the mixture.
            entry = (
                {key: value for key, value in known[number].items() if key != "weight"}
                if number < len(known) and isinstance(known[number], Mapping)
                else {"dataset": data.id, "behavior": number}
            )
            if entry not in joined:
                joined.append(entry)
            renamed[number] = joined.index(entry)
        numbers.append(renamed)
    return joined, numbers
