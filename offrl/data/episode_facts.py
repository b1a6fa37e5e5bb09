"""What one pass over a dataset says of each episode, for rules that choose among them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from offrl.data.dataset import Dataset, named_behaviors
from offrl.data.episode_store import LEARNING_INFOS, Chosen
from offrl.data.episodes import Episode, digest, info_of_actions, leaves
from offrl.data.limits import all_finite
from offrl.data.lineage import own
from offrl.errors import ConfigError, suggest


@dataclass(frozen=True)
class Facts:
    """One entry per episode, in order."""

    returns: npt.NDArray[np.float64]
    steps: npt.NDArray[np.int64]
    terminated: npt.NDArray[np.bool_]
    logged: npt.NDArray[np.int64]  # steps with a behaviour log-probability
    finite: npt.NDArray[np.bool_]
    chosen: npt.NDArray[np.bool_]  # by the info that is asked for and the caller's own condition
    behaviors: tuple[frozenset[int], ...]
    digests: tuple[str, ...]
    contents: tuple[str, ...]  # digests of what happened, without what was said of the behaviour


def facts_of(
    data: Dataset,
    *,
    info: str | None = None,
    where: Callable[[Episode], bool] | None = None,
) -> Facts:
    """Read every episode once.

    Raises ConfigError for an info that no episode has.
    """
    rows: list[tuple[Any, ...]] = []
    known = info is None
    infos = None if info is not None or where is not None else LEARNING_INFOS
    for episode in Chosen(data.episodes, range(len(data))).read(infos):
        found = _info(episode, info) if info is not None else None
        known = known or found is not None
        wanted = info is None or (found is not None and bool(np.any(found)))
        rows.append(
            (
                episode.episode_return,
                len(episode),
                bool(episode.terminations[-1]),
                int(np.count_nonzero(~np.isnan(episode.behavior_log_prob))),
                all_finite(episode, data.spec),
                wanted and (where is None or bool(where(episode))),
                _behaviors(episode),
                digest(episode),
                contents(episode),
            )
        )
    if not known:
        has = sorted(path for path, column in leaves(data[0].infos) if column.dtype.kind in "biuf")
        raise ConfigError(
            f"No episode of {data.id} has infos/{info}.{suggest(str(info), has)}",
            f"Its infos are: {', '.join(has) or 'none'}.",
        )
    returns, steps, terminated, logged, finite, chosen, behaviors, digests, same = zip(
        *rows, strict=True
    )
    return Facts(
        returns=np.array(returns, np.float64),
        steps=np.array(steps, np.int64),
        terminated=np.array(terminated, bool),
        logged=np.array(logged, np.int64),
        finite=np.array(finite, bool),
        chosen=np.array(chosen, bool),
        behaviors=behaviors,
        digests=digests,
        contents=same,
    )


def behaviors_of(data: Dataset) -> Sequence[Any]:
    """Return the behaviours that `infos/behavior` numbers, as the metadata describes them."""
    listed = named_behaviors(own(data))
    return listed if isinstance(listed, list) else []


def contents(episode: Episode) -> str:
    """Return a digest of what happened, without what was said of the behaviour."""
    return digest(
        Episode(
            0,
            episode.observations,
            episode.actions,
            episode.rewards,
            episode.terminations,
            episode.truncations,
        )
    )


def _behaviors(episode: Episode) -> frozenset[int]:
    column = info_of_actions(episode, "behavior")
    if column is None or column.dtype.kind not in "iu":
        return frozenset()
    return frozenset(int(number) for number in np.unique(column) if number >= 0)


def _info(episode: Episode, path: str) -> npt.NDArray[Any] | None:
    """The column of an info by its path; None where there is none or it is not of numbers."""
    found: Any = episode.infos
    for step in path.split("/"):
        found = found.get(step) if isinstance(found, Mapping) else None
    column = None if found is None or isinstance(found, Mapping) else np.asarray(found)
    if column is None or column.dtype.kind not in "biuf":
        return None
    return np.nan_to_num(column) if column.dtype.kind == "f" else column
