"""What episodes came to: means, their interval, and the score, of a policy or of a behaviour.

With two or more training seeds the interval is over the means of the seeds, else over the episodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from offrl.data.metadata import versions
from offrl.errors import ConfigError
from offrl.evaluation.references import Reference, score
from offrl.evaluation.rollouts import Rollouts
from offrl.evaluation.statistics import deviation, interval, mean
from offrl.evaluation.video import Video
from offrl.run import current_versions


@dataclass(frozen=True)
class SeedEvaluation:
    """The episodes of one training seed."""

    seed: int | None
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    checkpoint_step: int | None = None
    values: tuple[float, ...] | None = None  # discounted sums of the same episodes
    cut: tuple[bool, ...] | None = None  # whether each was truncated, so that more would follow

    @property
    def return_mean(self) -> float:
        """Mean of the undiscounted returns."""
        return mean(self.returns)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON."""
        known = {"values": self.values, "cut": self.cut}
        more = {name: list(found) for name, found in known.items() if found is not None}
        return {
            "seed": self.seed,
            "checkpoint_step": self.checkpoint_step,
            "return_mean": self.return_mean,
            "return_std": deviation(self.returns),
            "length_mean": mean(self.lengths),
            "returns": list(self.returns),
            "lengths": list(self.lengths),
            **more,
        }


@dataclass(frozen=True)
class Evaluation:
    """What a policy, or a behaviour, came to."""

    env: str
    n_episodes: int  # of each seed
    n_seeds: int
    interval_over: Literal["seeds", "episodes"]
    return_mean: float
    return_std: float | None  # of all episodes, n - 1 below the line; None for a single one
    return_ci: tuple[float, float] | None  # Student t, 95 %; None for a single value
    score: float | None  # 0 is random, 100 is expert; None where nobody measured the two
    score_ci: tuple[float, float] | None
    length_mean: float  # environment steps
    seeds: tuple[SeedEvaluation, ...]
    reference: Reference | None
    notes: tuple[str, ...] = ()
    checkpoint: str | None = None  # last, selected or a step; None of a policy that was given
    picked: str | None = None  # how that was picked, in words
    episode_seed: int | None = None  # of the episodes, not of the training
    discount: float | None = None  # of the values of the seeds, where there are any
    wall_seconds: float | None = None
    versions: dict[str, str] = field(default_factory=dict[str, str])
    videos: tuple[Video, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON, the keys that scripts rely on first."""
        plain = {key: value for key, value in vars(self).items() if key not in _NESTED}
        return plain | {
            "return_ci": _list(self.return_ci),
            "score_ci": _list(self.score_ci),
            "notes": list(self.notes),
            "reference": None if self.reference is None else self.reference.to_dict(),
            "seeds": [seed.to_dict() for seed in self.seeds],
            "videos": [video.to_dict() for video in self.videos],
        }


_NESTED = ("seeds", "reference", "notes", "videos")


def summarise(
    seeds: Sequence[SeedEvaluation],
    *,
    env: str,
    reference: Reference | None = None,
    notes: Sequence[str] = (),
    checkpoint: str | None = None,
    picked: str | None = None,
    episode_seed: int | None = None,
    discount: float | None = None,
    wall_seconds: float | None = None,
) -> Evaluation:
    """Return the means, intervals and score of episodes that were run already.

    A behaviour's episodes are one entry of `seeds` with the seed None. Raises ConfigError where
    there is no episode, or where the two returns of `reference` are equal.
    """
    if not seeds or any(not one.returns for one in seeds):
        raise ConfigError("There is no episode to summarise.", "Run at least one.")
    returns = [value for one in seeds for value in one.returns]
    means = [one.return_mean for one in seeds]
    over_seeds = len(seeds) >= 2
    bounds = interval(means if over_seeds else returns)
    average = mean(means if over_seeds else returns)
    said = list(notes)
    if bounds is None:
        said.append("n=1: no interval; it takes two or more episodes, or seeds.")
    if reference is None:
        said.append(f"No score: nobody measured a random and an expert policy in {env}.")
    elif reference.note:
        said.append(reference.note)
    return Evaluation(
        env=env,
        n_episodes=len(seeds[0].returns),
        n_seeds=len(seeds),
        interval_over="seeds" if over_seeds else "episodes",
        return_mean=average,
        return_std=deviation(returns),
        return_ci=bounds,
        score=score(average, reference),
        score_ci=_scored(bounds, reference),
        length_mean=mean([length for one in seeds for length in one.lengths]),
        seeds=tuple(seeds),
        reference=reference,
        notes=tuple(said),
        checkpoint=checkpoint,
        picked=picked,
        episode_seed=episode_seed,
        discount=discount,
        wall_seconds=wall_seconds,
        versions=versions() | current_versions(),
    )


def seed_evaluation(
    played: Rollouts, seed: int | None = None, checkpoint_step: int | None = None
) -> SeedEvaluation:
    """Return the episodes of `played` as those of one training seed."""
    return SeedEvaluation(
        seed,
        tuple(float(value) for value in played.returns),
        tuple(int(length) for length in played.lengths),
        checkpoint_step,
        None if played.values is None else tuple(float(value) for value in played.values),
        None
        if played.values is None
        else tuple(bool(cut) for cut in played.truncated & ~played.terminated),
    )


def _scored(
    bounds: tuple[float, float] | None, reference: Reference | None
) -> tuple[float, float] | None:
    if bounds is None or reference is None:
        return None
    low, high = (score(bound, reference) for bound in bounds)
    return None if low is None or high is None else (min(low, high), max(low, high))


def _list(bounds: tuple[float, float] | None) -> list[float] | None:
    return None if bounds is None else list(bounds)
