"""TD3, twin delayed deterministic policy gradient, on a fixed log.

    critics:  minimise  sum_i E_D[ (Q_i(s,a) - y)^2 ]
              y  = r + discount (1 - terminated) min_i Q'_i(s',a')
              a' = clip(pi'(s') + clip(N(0, smoothing), -smoothing_clip, smoothing_clip))
    policy:   maximise  E_D[ Q_1(s, pi(s)) ]             every `policy_period` steps, then the targets

The lecture's option 2: states of mu, advantages of pi. Nothing keeps pi near the log, so on a fixed
log it over-estimates; td3-bc is the remedy. Source: Fujimoto et al. 2018, 1802.09477. Deviations:
see docs/algorithms/td3.md.
"""

from dataclasses import dataclass
from typing import Annotated, final

import torch
from torch import Tensor, nn

from offrl import losses
from offrl.algorithm import TRACED, Algorithm, CriticConfig, Peers
from offrl.batch import Batch
from offrl.learner import Learner, Metrics, Nets
from offrl.nn import Critic, policy_head


@dataclass(frozen=True, kw_only=True)
class TD3Config(CriticConfig):
    """Settings of TD3; distances of actions are in half ranges of their bounds."""

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


@final
class TD3(Algorithm[TD3Config]):
    """Follow the gradient of the critic: twin critics, smoothed targets, a delayed policy."""

    name = "td3"
    summary = (
        "Deterministic policy gradient with twin critics; made for acting, not for fixed logs."
    )
    spaces = ("box",)
    targets = ("policy", "critic")
    Config = TD3Config

    def networks(self) -> dict[str, nn.Module]:
        c, sizes = self.config, (self.spec.obs_dim, self.spec.action_dim)
        shape = (c.hidden_size, c.hidden_layers)
        return {
            "policy": policy_head("deterministic", *sizes, *shape),
            "critic": Critic(*sizes, *shape, c.critics, c.layer_norm),
        }

    def draws(self) -> dict[str, tuple[int, ...]]:
        return {"smoothing": (self.spec.action_dim,)}

    def critic_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Squared error of every critic against the least of the target critics."""
        with torch.no_grad():
            next_action = losses.smoothed(
                nets.target_policy(batch.next_obs).action,
                batch.noise["smoothing"],
                nets.scalar("smoothing"),
                nets.scalar("smoothing_clip"),
                nets.buffer("policy", "action_low"),
                nets.buffer("policy", "action_high"),
            )
            future = nets.target_critic(batch.next_obs, next_action).amin(0)
            target = losses.td_target(batch.reward, future, batch.terminated, self.config.discount)
        q = nets.critic(batch.obs, batch.action)
        loss = losses.squared_error(q, target)
        return loss, {"critic/loss": loss, **losses.value_metrics(q, target)}

    def policy_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """-Q_1(s, pi(s))."""
        pi = nets.policy(batch.obs)
        value = nets.critic(batch.obs, pi.action, 1)[0]
        return -value.mean(), {
            "policy/loss": -value.mean(),
            "policy/q_mean": value.mean(),
            "policy/action_distance": losses.action_distance(pi.action, batch.action, pi.half),
        }

    def update(self, learner: Learner, batch: Batch, stage: str) -> tuple[Learner, Metrics]:
        learner, metrics = learner.descend("critic", self.critic_loss, batch)
        if stage == "policy":
            learner, more = learner.descend("policy", self.policy_loss, batch)
            rate = learner.scalar("target_rate")
            return learner.track("critic", rate).track("policy", rate), metrics | more
        return learner, metrics

    def least_steps(self) -> int:
        return self.config.policy_period

    def stage(self, step: int) -> str:
        return "policy" if (step + 1) % self.config.policy_period == 0 else "critic"
