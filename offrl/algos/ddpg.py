"""DDPG, deep deterministic policy gradient, on a fixed log.

    critic:   minimise  E_D[ (Q(s,a) - y)^2 ]      y = r + discount (1 - terminated) Q'(s',pi'(s'))
    policy:   maximise  E_D[ Q(s, pi(s)) ]         gradient  E_D[ dQ/da at a = pi(s)  dpi/dtheta ]

both in every step, then the targets. The lecture's option 2 in its plainest form: on a fixed log it
over-estimates and fails, and is kept as the baseline that td3 and td3-bc mend. Source: Lillicrap et
al. 2015, 1509.02971, algorithm 1. Deviations: see docs/algorithms/ddpg.md.
"""

from dataclasses import dataclass
from typing import Annotated, final

import torch
from torch import Tensor, nn

from offrl import losses
from offrl.algorithm import Algorithm, CriticConfig, Peers
from offrl.batch import Batch
from offrl.learner import Learner, Metrics, Nets
from offrl.nn import Critic, policy_head


@dataclass(frozen=True, kw_only=True)
class DDPGConfig(CriticConfig):
    """Settings of DDPG."""

    critics: Annotated[
        int,
        "Q functions; of several, the target is the least.",
        Peers("n_critics", "num_critics", "ensemble"),
    ] = 1


@final
class DDPG(Algorithm[DDPGConfig]):
    """Follow the gradient of one critic in every step."""

    name = "ddpg"
    summary = "Deterministic policy gradient with one critic; fails on most fixed logs."
    acts = "replay"
    spaces = ("box",)
    targets = ("policy", "critic")
    Config = DDPGConfig

    def networks(self) -> dict[str, nn.Module]:
        c, sizes = self.config, (self.spec.obs_dim, self.spec.action_dim)
        shape = (c.hidden_size, c.hidden_layers)
        return {
            "policy": policy_head("deterministic", *sizes, *shape),
            "critic": Critic(*sizes, *shape, c.critics, c.layer_norm),
        }

    def critic_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Squared error of Q against the target networks."""
        with torch.no_grad():
            next_action = nets.target_policy(batch.next_obs).action
            future = nets.target_critic(batch.next_obs, next_action).amin(0)
            target = losses.td_target(batch.reward, future, batch.terminated, self.config.discount)
        return losses.critic_loss(nets.critic(batch.obs, batch.action), target)

    def policy_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """-Q(s, pi(s))."""
        pi = nets.policy(batch.obs)
        value = nets.critic(batch.obs, pi.action, 1).mean()
        return -value, {
            "policy/loss": -value,
            "policy/q_mean": value,
            "policy/action_distance": losses.action_distance(pi.action, batch.action, pi.half),
        }

    def update(self, learner: Learner, batch: Batch, stage: str) -> tuple[Learner, Metrics]:
        learner, metrics = learner.descend("critic", self.critic_loss, batch)
        learner, more = learner.descend("policy", self.policy_loss, batch)
        rate = learner.scalar("target_rate")
        return learner.track("critic", rate).track("policy", rate), metrics | more
