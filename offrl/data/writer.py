"""Writer: any loop can record a Minari dataset that is whole, or absent, whatever happens.

    with offrl.Writer("me/shop-v0", observation_space, action_space) as writer:
        writer.reset(obs)
        writer.step(action, reward, next_obs, terminated, truncated, log_prob=log_prob)

Finished episodes are committed in shards inside `<id>.incomplete` (see `shards`). A clean exit
publishes them under `<id>` by one rename; an exception keeps them for `resume=True`.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from offrl.data import shards
from offrl.data.episodes import Episode, leaves, validate
from offrl.data.metadata import env_spec_json, user_metadata
from offrl.data.minari_store import open_store
from offrl.data.openepisode import OpenEpisode
from offrl.data.publishing import Workshop
from offrl.data.spec import Spec
from offrl.data.totals import Totals
from offrl.errors import ConfigError, CorruptDataError

if TYPE_CHECKING:
    from offrl.data.dataset import Dataset

_SHARD_BYTES = 2**26  # a shard is also closed at this size, since it is held in memory
_SHARE_OF_ALL = 128
_LOG = logging.getLogger("offrl")


class Writer:
    """Records episodes into the dataset `id`.

    `metadata` holds anything JSON; Minari's own fields (author, description, ...) go where Minari
    looks for them and the rest (recipe, seeds, references) under `offrl`. An id that exists is
    refused unless `overwrite`; what an interrupted writer left is continued with `resume` and set
    aside without it. `keep_unfinished=False` removes it when an exception ends the block.

    Raises ConfigError for an id or spaces that are off, OffrlError where the folder cannot be
    written, LockedError where another process is writing the same id.
    """

    def __init__(
        self,
        id: str,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        env: EnvSpec | str | None = None,
        metadata: Mapping[str, Any] | None = None,
        root: Path | str | None = None,
        overwrite: bool = False,
        resume: bool = False,
        shard_episodes: int = 8,
        keep_unfinished: bool = True,
    ) -> None:
        if shard_episodes < 1:
            raise ConfigError(f"shard_episodes={shard_episodes} holds nothing.", "Give 1 or more.")
        self.id = id
        self.spec = Spec(observation_space, action_space)
        self._shard_episodes, self._keep = shard_episodes, keep_unfinished
        settings = {
            **self.spec.to_json(),
            "env_spec": env_spec_json(env),
            "metadata": user_metadata(metadata or {}),
        }
        self._workshop = Workshop(id, root, settings, overwrite=overwrite, resume=resume)
        self._pending: list[tuple[Episode, str]] = []  # and their digests
        self._totals = Totals()  # of the episodes that this writer was given
        self._pending_bytes = 0  # of the observations, which are most of an episode
        self._open: OpenEpisode | None = None
        self._published: Dataset | None = None

    @property
    def n_episodes(self) -> int:
        """The number of finished episodes, those of a resumed writer included."""
        return len(self._workshop.manifest["episodes"]) + len(self._uncommitted)

    @property
    def n_steps(self) -> int:
        """The number of steps of the finished episodes."""
        done = sum(entry["steps"] for entry in self._workshop.manifest["episodes"])
        return done + sum(len(episode) for episode, _ in self._uncommitted)

    @property
    def _uncommitted(self) -> list[tuple[Episode, str]]:
        """The pending episodes; a stop may have come before those of a shard were forgotten."""
        done = len(self._workshop.manifest["episodes"])
        if not self._pending or self._pending[0][0].id == done:
            return self._pending
        return [(episode, sha) for episode, sha in self._pending if episode.id >= done]

    def reset(self, obs: Any, *, seed: int | None = None, infos: Any = None) -> None:
        """Begin an episode at `obs`; one that is still open ends here as truncated."""
        self._require_writable()
        self._end(cut=True)
        self._open = OpenEpisode(self.spec, self.n_episodes, obs, seed, infos)

    def step(
        self,
        action: Any,
        reward: float,
        next_obs: Any,
        terminated: bool,
        truncated: bool,
        *,
        log_prob: float | None = None,
        behavior: int | None = None,
        infos: Any = None,
    ) -> None:
        """Record one step; the episode is finished where either flag is true.

        `log_prob` is the natural log of the density or probability of `action` under whoever
        chose it, `behavior` the number of who did. Raises ConfigError naming the field that does
        not fit the spaces, CorruptDataError for an observation, action or reward that is not
        finite; the open episode is then lost, finished ones are not.
        """
        self._require_writable()
        if self._open is None:
            raise ConfigError(
                f"Episode {self.n_episodes} has no first observation.", "Call reset(obs) first."
            )
        self._open.step(
            action, reward, next_obs, terminated, truncated, log_prob, behavior, infos
        )  # fmt: skip
        if terminated or truncated:
            self._end(cut=False)

    def add(self, episode: Episode) -> None:
        """Record a whole episode, as it is, under the next number.

        Raises ConfigError naming the field where it does not fit the spaces.
        """
        self._require_writable()
        self._end(cut=True)
        self._commit(episode)

    def flush(self) -> None:
        """Put every finished episode on the disk, from where `resume` would take it."""
        if new := self._uncommitted:
            self._workshop.commit(*zip(*new, strict=True))
        self._pending, self._pending_bytes = [], 0

    def close(self) -> "Dataset":
        """Publish what was recorded under the id and return it, opened from there.

        An open episode ends as truncated. Raises ConfigError where there is no episode, OffrlError
        where the disk has no room; the shards then stay and `resume=True` continues.
        """
        if self._published is not None:
            return self._published
        self._require_writable()
        try:
            self._end(cut=True)
            if not self.n_episodes:
                raise ConfigError(
                    f"Nothing was recorded for {self.id}.", "Record at least one episode."
                )
            self.flush()
            path = self._workshop.publish()
        except BaseException as error:
            self._let_go(error)
            raise
        written = [entry["sha256"] for entry in self._workshop.manifest["episodes"]]
        everything = self._totals.digests == written
        self._published = _reopened(path, self._totals if everything else None)
        return self._published

    def abandon(self) -> None:
        """Keep what is finished in `<id>.incomplete` (or remove it: keep_unfinished) and let go."""
        if self._workshop.closed:
            return
        self._open = None
        if self._keep:
            self.flush()
        if self._keep and self.n_episodes:
            self._workshop.release()
        else:
            self._workshop.discard()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._let_go(error)
        elif self._published is None:
            self.close()

    def _let_go(self, error: BaseException) -> None:
        """Abandon while an error is on its way: that one is what the caller must see."""
        try:
            if self._keep and not self.n_episodes and not isinstance(error, Exception):
                # Stopped from outside before the first episode: the settings are worth resuming.
                self._workshop.release()
            self.abandon()
        except Exception as second:
            _LOG.warning("The last finished episodes of %s could not be kept: %s", self.id, second)
            self._workshop.release()

    def _require_writable(self) -> None:
        if self._workshop.closed:
            raise ConfigError(f"The writer of {self.id} is closed.", "Open another one.")

    def _end(self, *, cut: bool) -> None:
        opened, self._open = self._open, None
        if opened is None or not opened.steps:
            return
        episode = opened.finish(cut=cut)
        require_finite(episode)
        self._commit(episode)

    def _commit(self, episode: Episode) -> None:
        number = self.n_episodes
        episode = renumbered(episode, number)
        try:
            validate(episode, self.spec)
        except CorruptDataError as error:
            raise ConfigError(error.cause, error.remedy) from error
        shards.check_infos(episode)
        self._totals.add(episode)
        self._pending.append((episode, self._totals.digests[-1]))
        self._pending_bytes += sum(leaf.nbytes for _, leaf in leaves(episode.observations))
        # The manifest is rewritten with every shard: of very many episodes a shard holds more, so
        # that writing does not grow with their square.
        enough = max(self._shard_episodes, number // _SHARE_OF_ALL)
        if len(self._pending) >= enough or self._pending_bytes >= _SHARD_BYTES:
            self.flush()


def _reopened(path: Path, totals: Totals | None) -> "Dataset":
    """Open what was just written; totals of all of it spare looking at every episode again.

    Its file is compared with the digest of what was written, as ever.
    """
    from offrl.data.dataset import Dataset, load  # a dataset saves itself through this module

    if totals is None:
        return load(path)
    store = open_store(path)
    store.counts = len(totals.steps), sum(totals.steps)
    data = Dataset(store, store.spec, id=store.id, path=store.folder, metadata=store.metadata)
    data.__dict__["_totals"] = totals
    return data


def renumbered(episode: Episode, number: int) -> Episode:
    """Return the episode with another id."""
    if episode.id == number:
        return episode
    return Episode(
        number,
        episode.observations,
        episode.actions,
        episode.rewards,
        episode.terminations,
        episode.truncations,
        episode.infos,
        episode.seed,
    )


def require_finite(episode: Episode) -> None:
    """Raise CorruptDataError naming episode, step and field of a number that is not finite."""
    columns = [
        ("reward", episode.rewards),
        *leaves(episode.actions, "action"),
        *leaves(episode.observations, "observation"),
    ]
    for name, column in columns:
        if column.dtype.kind != "f" or np.isfinite(column).all():
            continue
        bad = np.argwhere(~np.isfinite(column))
        at = tuple(int(i) for i in bad[0])
        raise CorruptDataError(
            f"Episode {episode.id}: {name} is {column[at]} at step {at[0]} ({len(bad)} such).",
            "The episode was not recorded; find out why the environment or the log says so.",
        )
