"""TD3, twin delayed deterministic policy gradient, on a fixed log.

    critics:  minimise  sum_i E_D[ (Q_i(s,a) - y)^2 ]
              y  = r + discount (1 - terminated) min_i Q'_i(s',a')
              a' = clip(pi'(s') + clip(N(0, smoothing), -smoothing_clip, smoothing_clip))
    policy:   maximise  E_D[ Q_1(s, pi(s)) ]           every `policy_period` steps, then the targets

The lecture's option 2: states of mu, advantages of pi. Nothing keeps pi near the log, so on a fixed
log it over-estimates; td3-bc is the remedy. Source: Fujimoto et al. 2018, 1802.09477. Deviations:
see docs/algorithms/td3.md.
"""

from typing import final

import torch
from torch import Tensor, nn

from offrl import losses
from offrl.algorithm import Algorithm, DelayedConfig
from offrl.batch import Batch
from offrl.learner import Learner, Metrics, Nets
from offrl.nn import Critic, policy_head


@final
class TD3(Algorithm[DelayedConfig]):
    """Follow the gradient of the critic: twin critics, smoothed targets, a delayed policy."""

    name = "td3"
    summary = (
        "Deterministic policy gradient with twin critics; made for acting, not for fixed logs."
    )
    acts = "replay"
    spaces = ("box",)
    targets = ("policy", "critic")
    Config = DelayedConfig

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
            pi = nets.target_policy(batch.next_obs)
            std, limit = nets.scalar("smoothing"), nets.scalar("smoothing_clip")
            noise = batch.noise["smoothing"]
            next_action = losses.smoothed(pi.action, noise, std, limit, pi.low, pi.high)
            future = nets.target_critic(batch.next_obs, next_action).amin(0)
            target = losses.td_target(batch.reward, future, batch.terminated, self.config.discount)
        return losses.critic_loss(nets.critic(batch.obs, batch.action), target)

    def policy_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """-Q_1(s, pi(s))."""
        pi = nets.policy(batch.obs)
        value = nets.critic(batch.obs, pi.action, 1).mean()
        return -value, {
            "policy/loss": -value,
            "policy/q_mean": value,
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
