"""Settings of an evaluation, as the command line and Python give them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from offrl.configuration import Configuration, Peers
from offrl.ope import weights


@dataclass(frozen=True, kw_only=True)
class StatisticsConfig(Configuration):
    """Settings of estimates and intervals."""

    level: Annotated[float, "Level of the intervals."] = 0.95
    replicates: Annotated[
        int, "Bootstrap resamples of the episodes.", Peers("n_bootstrap_samples", "n_boot")
    ] = 2000
    seed: Annotated[int, "Seed of resamples, folds and critics.", Peers("random_state")] = 0
    min_ess: Annotated[
        float, "Effective episodes below which importance estimates are refused."
    ] = weights.FEW
    clip: Annotated[
        float,
        "Weight where clipped-ips clips and switch-dr switches, and where bounds are clipped;"
        " 0: the square root of the number of episodes.",
        Peers("lambda_", "max_weight"),
    ] = 0.0
    horizon: Annotated[int, "Most steps that an episode can have, for the bounds; 0: no limit."] = 0

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {
            "level": (0 < self.level < 1, "between 0 and 1"),
            "replicates": (self.replicates >= 100, "at least 100"),
            "seed": (self.seed >= 0, "0 or more"),
            "min_ess": (self.min_ess >= 0, "0 or more"),
            "clip": (0 <= self.clip < float("inf"), "0 or more, and finite"),
            "horizon": (self.horizon >= 0, "0 or more"),
        }


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(StatisticsConfig):
    """Settings of judging policies on a dataset."""

    acts: Annotated[
        Literal["mode", "sample"],
        "How a candidate acts: its likeliest action, as `offrl eval` plays it, or its own"
        " distribution.",
    ] = "mode"
    behavior: Annotated[
        Literal["auto", "logged", "fitted"],
        "Where mu(a|s) is from. auto: logged if every row is, else fitted.",
    ] = "auto"
    behavior_steps: Annotated[int, "Gradient steps of a fitted behavior."] = 2000
    folds: Annotated[
        int, "Parts of the episodes; critics judge a part that they did not learn from."
    ] = 2
    fqe_seeds: Annotated[int, "Critics, each from another start and resample of the episodes."] = 5
    fqe_steps: Annotated[int, "Gradient steps of a critic.", Peers("n_steps", "n_epochs")] = 4000
    fqe_hidden_size: Annotated[int, "Units of a hidden layer of a critic."] = 64
    fqe_hidden_layers: Annotated[int, "Hidden layers of a critic."] = 2
    fqe_batch_size: Annotated[int, "Transitions in a gradient step of a critic."] = 256
    fqe_lr: Annotated[float, "Adam's learning rate of a critic."] = 1e-3
    fqe_target_rate: Annotated[float, "How far a critic's target moves with each step."] = 0.02
    fqe_samples: Annotated[
        int, "Actions that V and targets average over, where they are continuous and sampled."
    ] = 8

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {
            "behavior_steps": (self.behavior_steps > 0, "at least 1"),
            "folds": (self.folds >= 2, "at least 2"),
            "fqe_seeds": (self.fqe_seeds > 0, "at least 1"),
            "fqe_steps": (self.fqe_steps > 0, "at least 1"),
            "fqe_hidden_size": (self.fqe_hidden_size > 0, "at least 1"),
            "fqe_hidden_layers": (self.fqe_hidden_layers >= 0, "0 or more"),
            "fqe_batch_size": (self.fqe_batch_size > 0, "at least 1"),
            "fqe_lr": (0 < self.fqe_lr < float("inf"), "above 0 and finite"),
            "fqe_target_rate": (0 < self.fqe_target_rate <= 1, "above 0 and up to 1"),
            "fqe_samples": (self.fqe_samples > 0, "at least 1"),
        }
