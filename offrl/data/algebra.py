"""The algebra of one dataset: the episodes that meet a rule, and parts that share no episode.

Every result is a view that reads its source when it is read, with its lineage in the metadata;
`save` writes it as a dataset of its own. Nothing of an episode is changed: observations, actions,
infos and log-probabilities are the values that the source holds, so images lose nothing.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from offrl.data import lineage
from offrl.data.dataset import Dataset
from offrl.data.episode_facts import Facts, behaviors_of, facts_of
from offrl.data.episode_store import Chosen
from offrl.data.episodes import Episode, fingerprint_of
from offrl.data.recipe import BehaviorSpec
from offrl.errors import ConfigError, suggest

Ended = Literal["terminated", "truncated"]


def filter_episodes(
    data: Dataset,
    *,
    episodes: Collection[int] | str | None = None,
    min_return: float | None = None,
    max_return: float | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    ended: Ended | None = None,
    behavior: int | str | Sequence[int | str] | None = None,
    info: str | None = None,
    logged: bool = False,
    finite: bool = False,
    distinct: bool = False,
    where: Callable[[Episode], bool] | None = None,
    top: float | None = None,
    bottom: float | None = None,
) -> Dataset:
    """Return the episodes that meet every condition, in their order.

    `episodes` are numbers or text like "0-9,20,30-"; lengths count steps; `behavior` is a number
    or a policy of the recipe; `info` names an info that is true at some step; `logged` wants a
    log-probability at every step, `finite` no NaN and no infinity, `distinct` one of each set of
    equal episodes. `top` and `bottom` are shares by return of the episodes that the other
    conditions leave. Raises ConfigError for a condition that cannot be, and where nothing is left.
    """
    if top is not None and bottom is not None:
        raise ConfigError("top and bottom are both given.", "Give one of them.")
    for name, share in (("top", top), ("bottom", bottom)):
        if share is not None and not 0 < share <= 1:
            raise ConfigError(f"{name}={share:g} is no share.", "Give a share such as 0.1.")
    if ended not in (None, "terminated", "truncated"):
        raise ConfigError(f"ended={ended!r}.{suggest(str(ended), ('terminated', 'truncated'))}",
                          "The choices are terminated and truncated.")  # fmt: skip
    rule = {
        "episodes": episodes if isinstance(episodes, str) or episodes is None else list(episodes),
        "min_return": min_return, "max_return": max_return,
        "min_length": min_length, "max_length": max_length,
        "ended": ended, "behavior": _plain(behavior),
        "info": info, "logged": logged or None, "finite": finite or None,
        "distinct": distinct or None, "where": _name(where), "top": top, "bottom": bottom,
    }  # fmt: skip
    rule = {name: value for name, value in rule.items() if value is not None}
    if not rule:
        raise ConfigError("No condition is given.", "Give one, such as top=0.1 (--top 0.1).")
    facts = facts_of(data, info=info, where=where)
    kept = np.ones(len(data), bool)
    if episodes is not None:
        kept &= np.isin(np.arange(len(data)), episode_numbers(episodes, len(data)))
    kept &= _between(facts.returns, min_return, max_return)
    kept &= _between(facts.steps, min_length, max_length)
    if ended is not None:
        kept &= facts.terminated == (ended == "terminated")
    if behavior is not None:
        wanted = _behavior_numbers(data, behavior, frozenset[int]().union(*facts.behaviors))
        kept &= np.array([bool(found) and found <= wanted for found in facts.behaviors])
    kept &= ~(logged & (facts.logged < facts.steps))
    kept &= ~(finite & ~facts.finite) & facts.chosen
    if distinct:
        kept &= _first_of_each(facts.contents, kept)
    left = np.flatnonzero(kept)
    if len(left) and top is not None:
        left = _best(facts.returns, left, top)
    elif len(left) and bottom is not None:
        left = _best(-facts.returns, left, bottom)
    if not len(left):
        raise ConfigError(f"No episode of {data.id} meets the conditions.", _ranges(facts))
    return _part(data, "filter", rule, facts, left)


def split_episodes(
    data: Dataset,
    *,
    shares: Sequence[float] | None = None,
    episodes: Sequence[Collection[int] | str] | None = None,
    seed: int = 0,
) -> list[Dataset]:
    """Return parts of a dataset that share no episode, each in the order of the whole.

    By `shares`, episodes are dealt out at random by the seed and every part holds its share to
    within one episode; what they leave of 1 is in no part. By `episodes`, a part is what its entry
    names. Raises ConfigError for shares above 1 in sum, an episode named twice, an empty part.
    """
    if (shares is None) == (episodes is None):
        raise ConfigError("A split is by shares or by episodes.", "Give one of the two.")
    facts = facts_of(data)
    if shares is not None:
        counts = shared_out(len(data), shares)
        order = np.random.default_rng(seed).permutation(len(data))
        ends = np.cumsum(counts)
        parts = [np.sort(order[end - n : end]) for n, end in zip(counts, ends, strict=True)]
        rules = [
            {"share": share, "part": i, "shares": list(shares), "seed": seed}
            for i, share in enumerate(shares)
        ]
    else:
        named = list(episodes or ())
        parts = [episode_numbers(one, len(data)) for one in named]
        rules = [{"episodes": one if isinstance(one, str) else list(one)} for one in named]
        every, times = np.unique(np.concatenate([*parts, []]), return_counts=True)
        if (times > 1).any():
            twice = int(every[times > 1][0])
            raise ConfigError(f"Episode {twice} is in two parts.", "Name each episode once.")
    for i, part in enumerate(parts):
        if not len(part):
            raise ConfigError(
                f"Part {i} of {data.id} would be empty: there are {len(data)} episodes.",
                "Give it a larger share, or make fewer parts.",
            )
    return [_part(data, "split", *pair) for pair in
            ((rule, facts, part) for rule, part in zip(rules, parts, strict=True))]  # fmt: skip


def episode_numbers(named: Collection[int] | str, n: int) -> npt.NDArray[np.int64]:
    """Return the sorted numbers that `0-9,20,30-` or a collection names, of n episodes."""
    if isinstance(named, str):
        numbers: list[int] = []
        for piece in named.split(","):
            first, dash, last = (text.strip() for text in piece.partition("-"))
            if not first.isdecimal() or (last and not last.isdecimal()):
                raise ConfigError(f"'{named}' names no episodes.", "Write 0-9,20,30- for example.")
            end = int(last) if last else (n - 1 if dash else int(first))
            _require_episode(max(int(first), end), n)
            if end < int(first):
                raise ConfigError(f"'{piece.strip()}' runs backwards.", f"Write {end}-{first}.")
            numbers.extend(range(int(first), end + 1))
    else:
        numbers = [int(number) for number in named]
        for number in numbers:
            _require_episode(number, n)
    found = np.unique(np.array(numbers, np.int64))
    if len(found) != len(numbers):
        raise ConfigError("An episode is named twice.", "Name each episode once.")
    return found


def shared_out(n: int, shares: Sequence[float]) -> list[int]:
    """Return how many of n things each share is, to within one, none of the sum lost."""
    if not shares or not all(math.isfinite(share) and share > 0 for share in shares):
        raise ConfigError(f"The shares {list(shares)} are off.", "Give numbers above 0.")
    total = math.fsum(shares)
    if total > 1 + 1e-9:
        raise ConfigError(f"The shares are {total:g} in sum, more than 1.", "Give less.")
    exact = [share * n for share in shares]
    counts = [math.floor(value + 1e-9) for value in exact]
    over = sorted(range(len(shares)), key=lambda i: counts[i] - exact[i])
    for i in over[: round(total * n) - sum(counts)]:
        counts[i] += 1
    return counts


def _require_episode(number: int, n: int) -> None:
    if not 0 <= number < n:
        raise ConfigError(f"There is no episode {number}.", f"Episodes run from 0 to {n - 1}.")


def _plain(behavior: int | str | Sequence[int | str] | None) -> Any:
    return behavior if behavior is None or isinstance(behavior, int | str) else list(behavior)


def _name(where: Callable[[Episode], bool] | None) -> str | None:
    if where is None:
        return None
    return f"{getattr(where, '__module__', '')}:{getattr(where, '__qualname__', repr(where))}"


def _between(
    values: npt.NDArray[Any], low: float | None, high: float | None
) -> npt.NDArray[np.bool_]:
    return (values >= (-math.inf if low is None else low)) & (
        values <= (math.inf if high is None else high)
    )


def _behavior_numbers(
    data: Dataset, wanted: int | str | Sequence[int | str], logged: frozenset[int]
) -> set[int]:
    """The numbers of behaviours named by number, by policy, or as `--policy` takes them."""
    known = behaviors_of(data)
    names = [str(one.get("policy", "")) if isinstance(one, Mapping) else "" for one in known]
    found: set[int] = set()
    for one in wanted if isinstance(wanted, Sequence) and not isinstance(wanted, str) else [wanted]:
        if isinstance(one, int) or one.isdecimal():
            if int(one) not in logged:
                shown = ", ".join(map(str, sorted(logged))) or "none"
                raise ConfigError(
                    f"No step of {data.id} is by a behavior {one}.", f"The numbers are: {shown}."
                )
            found.add(int(one))
            continue
        same = {i for i, name in enumerate(names) if name == one}
        if not same and "," in one:
            same = {i for i, name in enumerate(known) if _same_behavior(one, name)}
        if not same:
            listed = ", ".join(name for name in names if name) or "none by name"
            raise ConfigError(
                f"{data.id} has no behavior '{one}'.{suggest(one, names)}", f"It has: {listed}."
            )
        found |= same
    return found


def _same_behavior(text: str, known: Any) -> bool:
    keys = ("policy", "noise", "epsilon", "stochastic")
    spec = BehaviorSpec.parse(text)
    default = BehaviorSpec(spec.policy)
    return isinstance(known, Mapping) and all(
        getattr(spec, key) == known.get(key, getattr(default, key)) for key in keys
    )


def _first_of_each(contents: Sequence[str], kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    seen: set[str] = set()
    first = np.zeros(len(contents), bool)
    for i in np.flatnonzero(kept).tolist():
        first[i] = contents[i] not in seen
        seen.add(contents[i])
    return first


def _best(
    returns: npt.NDArray[np.float64], left: npt.NDArray[np.int64], share: float
) -> npt.NDArray[np.int64]:
    """The share with the highest returns, at least one; of equal returns the earlier episode."""
    count = max(1, round(share * len(left)))
    order = np.argsort(-returns[left], kind="stable")
    return np.sort(left[order[:count]])


def _ranges(facts: Facts) -> str:
    return (
        f"Its returns run from {facts.returns.min():g} to {facts.returns.max():g}, its lengths"
        f" from {facts.steps.min()} to {facts.steps.max()} steps; {int(facts.terminated.sum())} of"
        f" {len(facts.steps)} episodes are terminated."
    )


def taken_of(facts: Facts, kept: npt.NDArray[np.int64]) -> dict[str, int]:
    """Return how much of a source was taken."""
    return {"episodes": len(kept), "steps": int(facts.steps[kept].sum())}


def _part(
    data: Dataset,
    by: str,
    rule: Mapping[str, Any],
    facts: Facts,
    kept: npt.NDArray[np.int64],
) -> Dataset:
    entry = lineage.source(
        data, fingerprint_of(list(facts.digests)), int(facts.steps.sum()), taken_of(facts, kept)
    )
    return Dataset(
        Chosen(data.episodes, kept.tolist()),
        data.spec,
        id=data.id,
        path=data.path,
        metadata=lineage.derived(data, lineage.record(by, rule, [entry])),
        clip_actions=data.clips_actions,
    )
