"""How a run acts and learns online: one small table, [online] in run.toml.

Which settings there are depends on what the algorithm learns from while it acts.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from offrl.algorithm import Algorithm, AlgorithmConfig, Configuration, Peers, configure
from offrl.configuration import traced_settings
from offrl.errors import ConfigError, suggest
from offrl.lessons import Phase, RolloutAlgorithm

SCRATCH_WARMUP = 10_000  # at most; short runs warm up for a twentieth of their steps


@dataclass(frozen=True, kw_only=True)
class OnlineConfig(Configuration, ABC):
    """Settings of acting while learning; steps are environment steps unless they say otherwise."""

    mix: Annotated[
        float,
        "Share of every batch that comes from the logged data.",
        Peers("mixing_ratio", "offline_ratio", "offline_fraction"),
    ] = 0.0
    mix_steps: Annotated[int, "Steps after which no logged row is drawn any more; 0: never."] = 0
    n_envs: Annotated[int, "Environments that are acted in.", Peers("num_envs", "n_workers")] = 1
    floor: Annotated[
        float,
        "Return below which an evaluation stops the run and brings back the best policy.",
        Peers("min_return", "safety_threshold"),
    ] = -math.inf
    record: Annotated[
        str, "Id of a dataset for all that the policy does, with log-probabilities."
    ] = ""
    reset_optimizer: Annotated[bool, "Forget Adam's averages of the offline run."] = False
    eval_every: Annotated[int, "Steps between evaluations; 0: a twentieth of all."] = 0
    eval_episodes: Annotated[int, "Episodes of each evaluation."] = 10
    log_every: Annotated[
        int, "Steps between rows of metrics.csv; 0: a two-hundredth of all, or a rollout."
    ] = 0
    save_every: Annotated[int, "Steps between checkpoints; 0: a tenth of all."] = 0

    def rules(self) -> dict[str, tuple[bool, str]]:
        counts = ("mix_steps", "eval_every", "log_every", "save_every")
        return {
            **{name: (getattr(self, name) >= 0, "0 or more") for name in counts},
            "mix": (0 <= self.mix <= 1, "a share from 0 to 1"),
            "floor": (self.floor < math.inf, "a return"),
            "n_envs": (self.n_envs > 0, "at least 1"),
            "eval_episodes": (self.eval_episodes > 0, "at least 1"),
        }

    @classmethod
    @abstractmethod
    def usual(cls, env_steps: int, *, scratch: bool, logged: bool) -> dict[str, Any]:
        """Defaults by the length of the run, by whether none came before it (`scratch`), and by
        whether one of a log did (`logged`)."""

    def check(self, config: AlgorithmConfig) -> None:
        """Raise ConfigError where the algorithm's settings do not go with this schedule."""

    @abstractmethod
    def gradient_steps(self, env_steps: int, algorithm: Algorithm[Any]) -> int:
        """How many gradient steps a run of `env_steps` comes to."""


@dataclass(frozen=True, kw_only=True)
class ReplayConfig(OnlineConfig):
    """Settings of algorithms that learn from single transitions of any age."""

    warmup: Annotated[
        int,
        "Steps of uniformly random actions before anything is learned.",
        Peers("learning_starts", "start_timesteps", "start_training", "random_steps"),
    ] = 0
    updates_per_step: Annotated[
        float,
        "Gradient steps for each environment step.",
        Peers("utd", "utd_ratio", "updates_per_env_step", "gradient_steps"),
    ] = 1.0
    replay_size: Annotated[
        int, "Transitions that are remembered.", Peers("buffer_size", "replay_buffer_size")
    ] = 1_000_000
    noise: Annotated[
        float,
        "Exploration of a deterministic policy: standard deviation in half ranges.",
        Peers("expl_noise", "exploration_noise", "action_noise"),
    ] = 0.1
    epsilon: Annotated[
        float,
        "Exploration of a greedy policy: share of random actions.",
        Peers("exploration_final_eps", "final_epsilon", "eps"),
    ] = 0.05
    epsilon_steps: Annotated[
        int,
        "Steps in which epsilon falls from 1 to its value; 0: at once.",
        Peers("exploration_steps", "epsilon_decay_steps"),
    ] = 0
    anneal: Annotated[
        str, "A setting of the algorithm that changes in a straight line, such as lr."
    ] = ""
    anneal_to: Annotated[float, "What the annealed setting ends at."] = 0.0
    anneal_steps: Annotated[int, "Steps after the warm-up in which it does; 0: all of them."] = 0
    average_steps: Annotated[
        int, "Last steps whose policies are averaged into the one that the run ends with; 0: none."
    ] = 0

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {
            "warmup": (self.warmup >= 0, "0 or more"),
            "updates_per_step": (0 < self.updates_per_step < math.inf, "above 0 and finite"),
            "replay_size": (self.replay_size >= self.n_envs, "at least n_envs"),
            "noise": (0 <= self.noise < math.inf, "0 or more and finite"),
            "epsilon": (0 <= self.epsilon <= 1, "a share from 0 to 1"),
            "epsilon_steps": (self.epsilon_steps >= 0, "0 or more"),
            "anneal_steps": (self.anneal_steps >= 0, "0 or more"),
            "average_steps": (self.average_steps >= 0, "0 or more"),
            "anneal": (
                bool(self.anneal) or (self.anneal_to, self.anneal_steps) == (0, 0),
                "the name of a setting where anneal_to or anneal_steps is given",
            ),
        }

    def check(self, config: AlgorithmConfig) -> None:
        if not self.anneal:
            return
        known = {"lr", *traced_settings(config)}
        if self.anneal not in known:
            raise ConfigError(
                f"'{self.anneal}' cannot change while it acts.{suggest(self.anneal, known)}",
                f"What can be annealed here: {', '.join(sorted(known))}.",
            )
        try:
            replace(config, **{self.anneal: self.anneal_to})
        except ConfigError as error:
            told = f"'{self.anneal}' cannot end at that: {error.cause}"
            raise ConfigError(told, "Change --anneal-to.") from error

    @classmethod
    def usual(cls, env_steps: int, *, scratch: bool, logged: bool) -> dict[str, Any]:
        return {
            "warmup": min(SCRATCH_WARMUP, env_steps // 20) if scratch else 0,
            "mix": 0.5 if logged else 0.0,
            "replay_size": min(1_000_000, env_steps),
        }

    def gradient_steps(self, env_steps: int, algorithm: Algorithm[Any]) -> int:
        if self.warmup >= env_steps:
            raise ConfigError(
                f"A warm-up of {self.warmup} steps leaves none of {env_steps} to learn in.",
                "Give fewer --warmup, or more --env-steps.",
            )
        if self.average_steps > env_steps - self.warmup:
            raise ConfigError(
                f"Policies of the last {self.average_steps} steps cannot be averaged where the run "
                f"learns in {env_steps - self.warmup}.",
                "Give fewer --average-steps, or more --env-steps.",
            )
        return int((env_steps - self.warmup) * self.updates_per_step)


@dataclass(frozen=True, kw_only=True)
class LessonConfig(OnlineConfig):
    """Settings of algorithms that learn from rollouts."""

    rollout_steps: Annotated[
        int,
        "Steps of each environment before anything is learned from them.",
        Peers("n_steps", "num_steps", "horizon", "rollout_length", "rollout_fragment_length"),
    ] = 2048

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {"rollout_steps": (self.rollout_steps > 0, "at least 1")}

    def ticks(self, left: int) -> int:
        """Steps of each world in the next rollout, where `left` environment steps are left."""
        return min(self.rollout_steps, -(-left // self.n_envs))

    @abstractmethod
    def lesson(self, algorithm: RolloutAlgorithm[Any], rows: int) -> list[Phase]:
        """What is learned from a table of so many rows after a rollout."""

    def gradient_steps(self, env_steps: int, algorithm: Algorithm[Any]) -> int:
        if not isinstance(algorithm, RolloutAlgorithm):
            raise TypeError(f"{algorithm.name} does not learn from rollouts")
        total, left = 0, env_steps
        while left > 0:
            rows = self.ticks(left) * self.n_envs
            total += sum(phase.steps for phase in self.lesson(algorithm, rows))
            left -= rows
        return total


@dataclass(frozen=True, kw_only=True)
class RolloutConfig(LessonConfig):
    """Settings of algorithms that learn from the newest rollout alone."""

    epochs: Annotated[
        int,
        "Times that a rollout is gone through, in minibatches of batch_size.",
        Peers("n_epochs", "update_epochs", "ppo_epochs", "ppo_epoch", "k_epochs", "num_sgd_iter"),
    ] = 10

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {"epochs": (self.epochs > 0, "at least 1")}

    @classmethod
    def usual(cls, env_steps: int, *, scratch: bool, logged: bool) -> dict[str, Any]:
        return {}

    def lesson(self, algorithm: RolloutAlgorithm[Any], rows: int) -> list[Phase]:
        return algorithm.lesson(max(1, rows // algorithm.config.batch_size), self.epochs)


@dataclass(frozen=True, kw_only=True)
class RecentConfig(LessonConfig):
    """Settings of algorithms that learn from recent rollouts."""

    replay_size: Annotated[
        int,
        "Transitions of the rollouts that are remembered; the newest is in any case.",
        Peers("buffer_size", "replay_buffer_size"),
    ] = 50_000

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {"replay_size": (self.replay_size > 0, "at least 1")}

    @classmethod
    def usual(cls, env_steps: int, *, scratch: bool, logged: bool) -> dict[str, Any]:
        return {"mix": 0.5 if logged else 0.0}

    def lesson(self, algorithm: RolloutAlgorithm[Any], rows: int) -> list[Phase]:
        return algorithm.lesson(max(1, rows // algorithm.config.batch_size), 1)


# by what `Algorithm.acts` says
SCHEDULES: dict[str, type[OnlineConfig]] = {
    "replay": ReplayConfig,
    "rollout": RolloutConfig,
    "recent": RecentConfig,
}


def scheduled(
    acts: str, given: Mapping[str, Any], env_steps: int, *, scratch: bool, logged: bool
) -> OnlineConfig:
    """The schedule of a run, as `usual` has it; ConfigError where it makes no sense."""
    config = SCHEDULES[acts]
    usual = config.usual(env_steps, scratch=scratch, logged=logged)
    found = configure(config, {**usual, **given})
    if found.mix > 0 and not logged:
        fix = "Use `offrl finetune RUN`." if scratch else "Leave --mix away: the run had no log."
        raise ConfigError("There is no logged data to mix in.", fix)
    if scratch and found.floor > -math.inf:
        raise ConfigError(
            "A policy that starts from scratch is below any floor.",
            "Leave --floor away, or let a trained policy act: offrl finetune RUN",
        )
    if isinstance(found, LessonConfig):
        found = replace(found, rollout_steps=found.ticks(env_steps))
    rollout = found.rollout_steps * found.n_envs if isinstance(found, LessonConfig) else 0
    return replace(
        found,
        eval_every=found.eval_every or max(1, env_steps // 20),
        log_every=found.log_every or rollout or max(1, env_steps // 200),
        save_every=found.save_every or max(1, env_steps // 10),
    )
