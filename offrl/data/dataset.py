"""Dataset: episodes from a Minari folder or from memory, read lazily and flattened once."""

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from offrl.data.arrays import (
    as_episode,
    episodes_of_arrays,
    space_of_actions,
    space_of_observations,
)
from offrl.data.cache import columns_of_store
from offrl.data.episode_store import LEARNING_INFOS, Chosen, EpisodeStore
from offrl.data.episodes import Episode, columns_of, fingerprint_of, structure_faults
from offrl.data.limits import all_finite, require_finite, within_bounds
from offrl.data.minari_store import env_spec_of
from offrl.data.spec import Spec
from offrl.data.totals import Totals
from offrl.data.transitions import Transitions
from offrl.errors import ConfigError, CorruptDataError


class Dataset:
    """A sequence of episodes with the spaces they were logged in.

    Made by `offrl.load`, `from_episodes` or `from_arrays`. Indexing and iterating yield
    `Episode`s; `transitions` holds all of them as flat columns.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        spec: Spec,
        *,
        id: str,
        path: Path | None = None,
        metadata: Mapping[str, Any] | None = None,
        clip_actions: bool = False,
    ) -> None:
        self._episodes = episodes
        self.spec = spec
        self.id = id
        self.path = path
        self.metadata = dict(metadata or {})
        self._clip_actions = clip_actions

    def __len__(self) -> int:
        return len(self._episodes)

    def __iter__(self) -> Iterator[Episode]:
        return iter(self._episodes)

    @overload
    def __getitem__(self, index: int) -> Episode: ...
    @overload
    def __getitem__(self, index: slice) -> "Dataset": ...
    def __getitem__(self, index: int | slice) -> "Episode | Dataset":
        if isinstance(index, slice):
            return self.select(range(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)}")
        return self._episodes[index % len(self)]

    def __repr__(self) -> str:
        env = f", env={self.env_id}" if self.env_id else ""
        return f"Dataset({self.id}, episodes={self.n_episodes}, steps={self.n_steps}{env})"

    @property
    def episodes(self) -> Sequence[Episode]:
        """The episodes as a sequence; those on disk are read when they are asked for."""
        return self._episodes

    @property
    def is_whole(self) -> bool:
        """Whether these are all the episodes of a folder, so that `load` gives the same again."""
        return isinstance(self._episodes, EpisodeStore)

    @property
    def clips_actions(self) -> bool:
        """Whether actions outside their bounds are moved to them."""
        return self._clip_actions

    def _learning_episodes(self) -> Iterator[Episode]:
        """The episodes with the infos that learning and the fingerprint need, and no others."""
        return Chosen(self._episodes, range(len(self))).read(LEARNING_INFOS)

    @property
    def n_episodes(self) -> int:
        """The number of episodes."""
        return len(self._episodes)

    @cached_property
    def n_steps(self) -> int:
        """The number of steps of all episodes."""
        if isinstance(self._episodes, EpisodeStore):
            return self._episodes.n_steps
        return sum(self._totals.steps)

    @property
    def env_spec(self) -> dict[str, Any] | None:
        """What the metadata says of the environment, as plain data; nothing is made from it."""
        return env_spec_of(self.metadata)

    @property
    def env_id(self) -> str | None:
        """The id of the environment that the metadata names, if any."""
        named = (self.env_spec or {}).get("id")
        return named if isinstance(named, str) else None

    @cached_property
    def _totals(self) -> Totals:
        totals = Totals()
        for episode in self._learning_episodes():
            totals.add(episode)
        return totals

    @cached_property
    def transitions(self) -> Transitions:
        """All steps as flat columns.

        Raises CorruptDataError naming episode, step and field where a value is not finite, an
        action is outside its bounds, or an episode is malformed.
        """
        kept = None
        if isinstance(self._episodes, EpisodeStore):
            kept = columns_of_store(self._episodes, lambda built: require_finite(built, self.id))
        built, totals = kept or self._built()
        self.__dict__["_totals"] = totals  # of the same pass: not to be read a second time
        return within_bounds(built, self.id, clip=self._clip_actions)

    def _built(self) -> tuple[Transitions, Totals]:
        totals = Totals()

        def counted() -> Iterator[Episode]:
            for episode in self._learning_episodes():
                yield episode
                totals.add(episode)  # after the episode was found well formed

        built = Transitions.build(counted(), self.spec)
        require_finite(built, self.id)
        return built, totals

    @property
    def fingerprint(self) -> str:
        """`sha256:` and a digest of the contents of every column, in order."""
        return fingerprint_of(self._totals.digests)

    @property
    def log_prob(self) -> Literal["logged", "partial", "none"]:
        """Whether every, some or no step carries the behaviour's log-probability."""
        logged = sum(self._totals.logged)
        if logged == 0:
            return "none"
        return "logged" if logged == self.n_steps else "partial"

    def summary(self) -> dict[str, Any]:
        """Return the figures that `offrl data show` and `offrl collect` print."""
        totals = self._totals
        terminated = sum(totals.terminated)
        returns = np.array(totals.returns)
        with np.errstate(invalid="ignore"):  # of infinite returns, which `check` reports
            spread = float(returns.std(ddof=1)) if len(returns) > 1 else None
        return {
            "dataset": self.id,
            "path": str(self.path) if self.path else None,
            "episodes": self.n_episodes,
            "steps": self.n_steps,
            "return_mean": float(returns.mean()) if len(returns) else None,
            "return_std": spread,
            "terminated_episodes": terminated,
            "truncated_episodes": self.n_episodes - terminated,
            "log_prob": self.log_prob,
            "fingerprint": self.fingerprint,
        }

    def describe(self) -> dict[str, Any]:
        """Return what the data is made of: parts and their columns, actions, origin."""
        spec, own = self.spec, self.metadata.get("offrl")
        own = own if isinstance(own, dict) else {}
        named = ("description", "author", "algorithm_name", "code_permalink", "minari_version")
        return {
            "id": self.id,
            "path": str(self.path) if self.path else None,
            "env": self.env_id,
            "obs_dim": spec.obs_dim,
            "parts": [
                {
                    "path": part.path or "obs",
                    "kind": part.kind,
                    "shape": list(part.shape),
                    "dtype": part.dtype,
                    "columns": [part.start, part.stop] if part.width else None,
                }
                for part in spec.obs_parts
            ],
            "table": spec.columns.describe(spec.discrete) if spec.columns else None,
            "action": _action_text(spec),
            "action_dim": spec.action_dim,
            "discrete": spec.discrete,
            "log_prob": self.log_prob,
            "metadata": {key: self.metadata[key] for key in named if key in self.metadata},
            "recipe": own.get("recipe"),
            "behaviors": named_behaviors(own),
            "lineage": own.get("lineage"),
            "references": own.get("references"),
            "versions": own.get("versions"),
        }

    def select(self, indices: Iterable[int]) -> "Dataset":
        """Return a dataset of the chosen episodes only, in the order given."""
        chosen = [range(len(self))[index] for index in indices]
        return self._of(Chosen(self._episodes, chosen), clip=self._clip_actions)

    def clipped(self) -> "Dataset":
        """Return the same episodes, with actions outside their bounds moved to them."""
        return self if self._clip_actions else self._of(self._episodes, clip=True)

    def _of(self, episodes: Sequence[Episode], *, clip: bool) -> "Dataset":
        path, metadata = self.path, self.metadata
        return Dataset(
            episodes, self.spec, id=self.id, path=path, metadata=metadata, clip_actions=clip
        )

    def save(
        self, id: str, *, root: Path | str | None = None, overwrite: bool = False
    ) -> "Dataset":
        """Write the episodes as the Minari dataset `id` and return it, opened from there."""
        from offrl.data.writer import Writer  # it opens what it wrote, so it imports this module

        writer = Writer(
            id,
            self.spec.observation_space,
            self.spec.action_space,
            env=self.metadata.get("env_spec"),
            metadata=self.metadata,
            root=root,
            overwrite=overwrite,
            shard_episodes=2**14,
            keep_unfinished=False,  # this dataset still holds the episodes
        )
        with writer:
            for episode in self:
                writer.add(episode)
            return writer.close()

    @classmethod
    def from_episodes(
        cls,
        episodes: Iterable[Any],
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        id: str = "in-memory",
        env: str | EnvSpec | None = None,
    ) -> "Dataset":
        """Return a dataset of `Episode`s (or Minari's `EpisodeData`) held in memory.

        Raises CorruptDataError naming episode and field where a column is missing or has the
        wrong length, shape or type.
        """
        spec = Spec(observation_space, action_space)
        held = [as_episode(given, number) for number, given in enumerate(episodes)]
        for episode in held:
            for fault in structure_faults(columns_of(episode), spec):
                raise CorruptDataError(f"Episode {episode.id}: {fault.message}.", fault.advice)
        if not held:
            raise ConfigError("There are no episodes in the dataset.", "Give at least one.")
        return cls(held, spec, id=id, metadata=_env_metadata(env))

    @classmethod
    def from_arrays(
        cls,
        obs: Any,
        action: Any,
        reward: Any,
        terminated: Any,
        truncated: Any,
        *,
        next_obs: Any = None,
        behavior_log_prob: Any = None,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
        id: str = "in-memory",
        env: str | EnvSpec | None = None,
    ) -> "Dataset":
        """Return a dataset of N steps given as arrays; an episode ends where a flag is true.

        `obs` has N+E rows (T+1 for each of the E episodes), or N rows together with `next_obs` of N
        rows. Where no action space is given, whole-number actions are Discrete and floats a Box
        without bounds. Raises ConfigError explaining what does not fit; a last episode without an
        end counts as truncated, with a warning.
        """
        given = obs, action, reward, terminated, truncated, next_obs, behavior_log_prob
        episodes = list(episodes_of_arrays(*given))  # first, so that what is empty is called so
        return cls.from_episodes(
            episodes,
            observation_space or space_of_observations(obs),
            action_space or space_of_actions(action),
            id=id,
            env=env,
        )

    @classmethod
    def from_dataframe(cls, frame: Any, *, id: str = "in-memory", **roles: Any) -> "Dataset":
        """Return a dataset of a data frame with a row for each decision.

        `roles` name the columns, as the options of `offrl data import` do: obs, action, reward;
        episode, time and ends, or bandit=True; propensity or log_prob, action_mask, categories,
        fill, action_values, action_bounds (`offrl.data.formats.tables.Roles`). Policies learned
        from it take and give the values of the frame. Raises ConfigError for a role that is off,
        CorruptDataError naming row and column.
        """
        from offrl.data.formats import dataset_of_frame  # the formats make datasets of this class

        return dataset_of_frame(frame, id, roles)


def load(
    ref: str | Path,
    *,
    allow_nonfinite: Literal["drop-episode"] | None = None,
    clip_actions: bool = False,
) -> Dataset:
    """Open a dataset by Minari id (optionally `minari:ID`) or by path; its structure is checked.

    `allow_nonfinite="drop-episode"` leaves out episodes that hold NaN or infinity, with a warning;
    `clip_actions` moves actions to their bounds. Raises NotFoundError, CorruptDataError,
    UnsafeDataError or IncompatibleVersionError.
    """
    from offrl.data.catalogue import resolve  # both open folders; a dataset in memory needs neither
    from offrl.data.minari_store import open_store

    if allow_nonfinite not in (None, "drop-episode"):
        raise ConfigError(
            f"allow_nonfinite is {allow_nonfinite!r}.", "The one choice is 'drop-episode'."
        )
    store = open_store(resolve(ref))
    store.require_structure()
    data = Dataset(
        store,
        store.spec,
        id=store.id,
        path=store.folder,
        metadata=store.metadata,
        clip_actions=clip_actions,
    )
    return drop_nonfinite(data) if allow_nonfinite else data


def drop_nonfinite(data: Dataset) -> Dataset:
    """Return the dataset without the episodes that hold NaN or infinity, with a warning."""
    kept = [
        i for i, episode in enumerate(data._learning_episodes()) if all_finite(episode, data.spec)
    ]
    if len(kept) == len(data):
        return data
    if not kept:
        raise CorruptDataError(
            f"{data.id}: every episode holds a value that is not finite.",
            "Find out where the log went wrong: offrl data check.",
        )
    warnings.warn(
        f"{data.id}: {len(data) - len(kept)} of {len(data)} episodes hold values that are not"
        " finite and were left out.",
        stacklevel=2,
    )
    return data.select(kept)


def _env_metadata(env: str | EnvSpec | None) -> dict[str, Any]:
    if env is None:
        return {}
    return {"env_spec": json.dumps({"id": env}) if isinstance(env, str) else env.to_json()}


def _action_text(spec: Spec) -> str:
    space = spec.action_space
    if isinstance(space, spaces.Discrete):
        return f"Discrete, {space.n} choices from {space.start}"
    low, high = spec.action_low, spec.action_high
    pairs = [f"[{a:g}, {b:g}]" for a, b in zip(low, high, strict=True)]
    pairs = pairs[0] if len(set(pairs)) == 1 else ", ".join(pairs)
    return f"Box {list(space.shape or ())} in {pairs}, {space.dtype}"


def named_behaviors(own: Mapping[str, Any]) -> Any:
    """Return what `infos/behavior` numbers: of a mixture its own list, else its recipe's."""
    if "behaviors" in own:
        return own["behaviors"]
    recipe = own.get("recipe")
    return recipe.get("behaviors") if isinstance(recipe, dict) else None
