"""What algorithms with critics share: settings, networks, the error of Q, and a delayed policy.

    critics:  minimise  sum_i E_D[ (Q_i(s,a) - y)^2 ]
              y = r + discount (1 - terminated) min_i Q'_i(s',a')

Algorithms differ in a' and in what their policy does with Q; that is in their own files.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

import torch
from torch import Tensor, nn

from offrl import losses
from offrl.algorithm import TRACED, Algorithm, AlgorithmConfig, Peers
from offrl.batch import Batch
from offrl.data.spec import Spec
from offrl.learner import Learner, Metrics, Nets
from offrl.nn import Critic, DiscreteCritic, policy_head


@dataclass(frozen=True, kw_only=True)
class CriticConfig(AlgorithmConfig):
    """Settings of every algorithm that learns Q against a slow copy of itself."""

    target_rate: Annotated[
        float,
        "How far a target moves towards its network when it moves; 1 copies.",
        Peers("tau", "polyak", "soft_target_tau"),
        TRACED,
    ] = 0.005
    critics: Annotated[
        int, "Q functions, trained side by side.", Peers("n_critics", "num_critics", "ensemble")
    ] = 2
    layer_norm: Annotated[
        bool, "Layer normalisation in the critics.", Peers("critic_ln", "use_layer_norm")
    ] = False

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {
            "target_rate": (0 < self.target_rate <= 1, "above 0 and up to 1"),
            "critics": (self.critics > 0, "at least 1"),
        }


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig(CriticConfig):
    """Settings of every algorithm whose policy follows critics that may be many.

    RLPD (Ball et al. 2023, 2302.02948) has ten, targets by two of them, and a policy that follows
    their mean.
    """

    target_critics: Annotated[
        int,
        "Critics whose least is the target, drawn anew in every step; 0 is all.",
        Peers("num_min_qs", "subsample_critics", "M"),
    ] = 0
    follow_mean: Annotated[
        bool, "The policy follows the mean of all critics, not the least or the first of them."
    ] = False

    def rules(self) -> dict[str, tuple[bool, str]]:
        few = 0 <= self.target_critics <= self.critics
        return super().rules() | {"target_critics": (few, f"from 0 to the {self.critics} critics")}


@dataclass(frozen=True, kw_only=True)
class DelayedConfig(EnsembleConfig):
    """Settings of every algorithm whose deterministic policy follows smoothed critics, delayed.

    Distances of actions are in half ranges of their bounds.
    """

    smoothing: Annotated[
        float,
        "Standard deviation of the noise on target actions.",
        Peers("policy_noise", "target_policy_noise", "target_smoothing_sigma"),
        TRACED,
    ] = 0.2
    smoothing_clip: Annotated[
        float,
        "Largest noise on a target action.",
        Peers("noise_clip", "target_noise_clip", "target_smoothing_clip"),
        TRACED,
    ] = 0.5
    policy_period: Annotated[
        int,
        "Critic steps to one step of the policy and the targets.",
        Peers("policy_freq", "policy_delay", "update_actor_interval"),
    ] = 2

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {
            "smoothing": (self.smoothing >= 0, "0 or more"),
            "smoothing_clip": (self.smoothing_clip >= 0, "0 or more"),
            "policy_period": (self.policy_period > 0, "at least 1"),
        }


@dataclass(frozen=True, kw_only=True)
class SoftConfig(EnsembleConfig):
    """Settings of every algorithm whose policy keeps its entropy at what is aimed at."""

    dimension_entropy: Annotated[
        float,
        "Entropy aimed at of a dimension of a continuous action, in nats over [-1, 1].",
        Peers("target_entropy", conversion="ours is of one dimension"),
    ] = -1.0

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {
            "dimension_entropy": (self.dimension_entropy < math.log(2), "below log 2")
        }


def actor_critic(config: CriticConfig, spec: Spec, head: str) -> dict[str, nn.Module]:
    """A policy and its critics."""
    return {"policy": actor(config, spec, head), "critic": critics(config, spec)}


def actor(config: AlgorithmConfig, spec: Spec, head: str) -> nn.Module:
    """A policy with that head, or with a softmax over discrete actions."""
    sizes = (spec.obs_dim, spec.action_dim, config.hidden_size, config.hidden_layers)
    return policy_head("categorical" if spec.discrete else head, *sizes)


def critics(config: CriticConfig, spec: Spec) -> Critic | DiscreteCritic:
    """Q of continuous actions, or of every discrete one."""
    sizes = (spec.obs_dim, spec.action_dim, config.hidden_size, config.hidden_layers)
    kind = DiscreteCritic if spec.discrete else Critic
    return kind(*sizes, config.critics, config.layer_norm)


def logged_value(critic: Callable[..., Tensor], batch: Batch) -> Tensor:
    """[M, B], what a critic says of the logged actions."""
    if batch.action.is_floating_point():
        return critic(batch.obs, batch.action)
    return losses.chosen(critic(batch.obs), batch.action)


def smoothed_action(nets: Nets, batch: Batch) -> Tensor:
    """The target policy's next action with clipped noise, [B, A] (TD3, 1802.09477, eq. 14)."""
    with torch.no_grad():
        pi, noise = nets.target_policy(batch.next_obs), batch.noise["smoothing"]
        std, limit = nets.scalar("smoothing"), nets.scalar("smoothing_clip")
        return losses.smoothed(pi.action, noise, std, limit, pi.low, pi.high)


def member_draws(config: EnsembleConfig) -> dict[str, tuple[int, ...]]:
    """What `counted` needs."""
    return {"members": (config.critics,)} if 0 < config.target_critics < config.critics else {}


def counted(config: EnsembleConfig, batch: Batch) -> Tensor | None:
    """Numbers of the target critics that count in this step, each set as likely; None is all.

    The largest of independent draws, of which the batch brings one for every critic: so the set is
    a pure function of (seed, step), and its size known when the update is compiled.
    """
    if not member_draws(config):
        return None
    return batch.noise["members"][0].topk(config.target_critics).indices


def least_error(
    nets: Nets, batch: Batch, next_action: Tensor, discount: float, members: Tensor | None = None
) -> tuple[Tensor, Metrics]:
    """Squared error of every critic against the least that target critics say of `next_action`."""
    with torch.no_grad():
        future = nets.target_critic(batch.next_obs, next_action, members).amin(0)
        target = losses.td_target(batch.reward, future, batch.terminated, discount)
    return losses.critic_loss(nets.critic(batch.obs, batch.action), target)


def climbed(nets: Nets, batch: Batch, action: Tensor, mean: bool = False) -> Tensor:
    """[1, B], what a deterministic policy climbs: the first critic, or the mean of all."""
    if mean:
        return nets.critic(batch.obs, action).mean(0, keepdim=True)
    return nets.critic(batch.obs, action, 1)


def climb(nets: Nets, batch: Batch, mean: bool = False) -> tuple[Tensor, Metrics]:
    """-Q(s, pi(s)): a deterministic policy's loss, whose gradient is dQ/da dpi/dtheta."""
    pi = nets.policy(batch.obs)
    value = climbed(nets, batch, pi.action, mean).mean()
    return -value, {
        "policy/loss": -value,
        "policy/q_mean": value,
        **losses.departure(pi, batch.action),
    }


K = TypeVar("K", bound=DelayedConfig)


class Delayed(Algorithm[K]):
    """Two losses in turn: the policy and all targets move in every `policy_period`th step only."""

    acts = "replay"
    spaces = ("box",)
    targets = ("policy", "critic")

    @abstractmethod
    def critic_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """What every step descends."""

    @abstractmethod
    def policy_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """What the last step of a period descends too, at the critics it has by then."""

    def networks(self) -> dict[str, nn.Module]:
        return actor_critic(self.config, self.spec, "deterministic")

    def draws(self) -> dict[str, tuple[int, ...]]:
        return {"smoothing": (self.spec.action_dim,), **member_draws(self.config)}

    def update(self, learner: Learner, batch: Batch, stage: str) -> tuple[Learner, Metrics]:
        learner, metrics = learner.descend("critic", self.critic_loss, batch)
        if stage == "critic":
            return learner, metrics
        learner, more = learner.descend("policy", self.policy_loss, batch)
        return learner.track(self.targets, learner.scalar("target_rate")), metrics | more

    def least_steps(self) -> int:
        return self.config.policy_period

    def stage(self, step: int) -> str:
        return "policy" if (step + 1) % self.config.policy_period == 0 else "critic"
