"""What a policy does while it learns, as a Minari dataset with log-probabilities (`--record ID`).

An episode is recorded when it ends, in the order of ends; those under way when the run is over are
recorded too, cut there, so that every step is in the data. A checkpoint is written after the
episodes that ended before it. A run that is resumed from one acts out again what it did since:
episodes that are recorded already are not recorded twice.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from offrl.data.catalogue import dataset_path
from offrl.data.dataset import load
from offrl.data.metadata import user_metadata
from offrl.data.openepisode import OpenEpisode
from offrl.data.writer import Writer, require_finite
from offrl.environments import plain_spec
from offrl.errors import ConfigError, CorruptDataError, WorkError
from offrl.guard import Env


def recorded_id(id: str, seed: int, seeds: tuple[int, ...]) -> str:
    """The dataset of one seed: `id`, or with several seeds me/acting-seed-3-v0 for me/acting-v0."""
    if len(seeds) == 1:
        return id
    name, _, version = id.rpartition("-v")
    return f"{name}-seed-{seed}-v{version}"


class Marks(NamedTuple):
    """Where a recording stands; lists grow afterwards, so that their lengths belong to it."""

    ended: int
    scores: list[tuple[list[float], int]]  # of each world's open episode, and how many they are

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, beside the actions of the episodes that are open."""
        scores = [score for kept, n in self.scores for score in kept[:n]]
        return {
            "log_prob": torch.tensor(scores, dtype=torch.float64),
            "recorded": torch.tensor(self.ended),
        }


class Recording:
    """The episodes of one seed, on their way into a dataset."""

    def __init__(self, id: str, env: Env, metadata: Mapping[str, Any], *, resume: bool) -> None:
        self.ended = 0  # episodes that this run has lived to the end
        self._open: dict[int, OpenEpisode] = {}  # by the number of the world
        self._scores: dict[int, list[float]] = {}
        self._writer = Writer(
            id,
            env.observation_space,
            env.action_space,
            env=plain_spec(env),
            metadata=metadata,
            resume=resume,
        )

    def begin(self, world: int, obs: Any, seed: int) -> None:
        """Begin an episode; one that is open in this world is forgotten."""
        self._open[world] = OpenEpisode(self._writer.spec, self.ended, obs, seed, None)
        self._scores[world] = []

    def step(
        self,
        world: int,
        action: Any,
        reward: float,
        obs: Any,
        ends: tuple[bool, bool],
        score: float,
    ) -> None:
        """Record a step whose action had the log-probability `score`; NaN where it has none."""
        try:
            self._open[world].step(action, reward, obs, *ends, score, 0, None)
        except ConfigError as error:
            raise _strange(error) from error
        self._scores[world].append(score)

    def end(self, world: int, *, cut: bool = False) -> None:
        """Record the episode that is open in a world, unless it is recorded already."""
        self.ended += 1
        if self.ended <= self._writer.n_episodes:
            return
        episode = self._open[world].finish(cut=cut)
        require_finite(episode)
        try:
            self._writer.add(episode)
        except ConfigError as error:
            raise _strange(error) from error

    def flush(self) -> None:
        """Put on the disk what a checkpoint will rely on."""
        self._writer.flush()

    def marks(self) -> "Marks":
        """Where it stands."""
        return Marks(self.ended, [(s, len(s)) for _, s in sorted(self._scores.items())])

    def restore(self, tensors: Mapping[str, Tensor]) -> np.ndarray:
        """Take back what `tensors` gave; the log-probabilities of the episodes that were open."""
        self.ended = int(tensors["recorded"])
        if self._writer.n_episodes < self.ended:
            raise CorruptDataError(
                f"The recording of {self._writer.id} holds {self._writer.n_episodes} of the"
                f" {self.ended} episodes that the run has lived.",
                "Restore its folder, or act again into a new folder.",
            )
        return tensors["log_prob"].numpy()

    def depart(self) -> None:
        """Go on where the episodes to come are others than those that may be recorded already."""
        self.ended = self._writer.n_episodes

    def publish(self) -> None:
        """Record what is open as cut, and publish everything under the id, where there is any."""
        for world in sorted(self._open):
            if self._scores[world]:
                self.end(world, cut=True)
        self._open, self._scores = {}, {}
        if self._writer.n_episodes:
            self._writer.close()
        else:  # the policy was below the floor before it acted
            self._writer.abandon()

    def abandon(self) -> None:
        """Let go; what is recorded stays for a later resume."""
        self._writer.abandon()


def metadata_of(algorithm: str, config: Any, online: Any, seed: int) -> dict[str, Any]:
    """What a recorded dataset says of how it came about."""
    settings = {k: v for k, v in asdict(online).items() if k != "record" and _finite(v)}
    return {
        "algorithm_name": f"{algorithm}, acting while it learns",
        "acting": {"algorithm": algorithm, algorithm: asdict(config), "online": settings},
        "seeds": {"seed": seed, "rule": "episode i is reset with a seed drawn from (seed, i)"},
    }


def published(id: str, metadata: Mapping[str, Any] | None = None) -> bool:
    """Whether there is a dataset of this id; with `metadata`, whether it was recorded with that."""
    if not (dataset_path(id) / "data").is_dir():
        return False
    if metadata is None:
        return True
    theirs = load(id).metadata.get("offrl", {})
    ours = user_metadata(metadata)["offrl"]
    return all(theirs.get(key) == value for key, value in ours.items())


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or bool(np.isfinite(value))


def _strange(error: ConfigError) -> WorkError:
    return WorkError(f"The environment does not keep to its spaces: {error.cause}", error.remedy)
