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

from offrl.algorithm import Algorithm, Peers
from offrl.batch import Batch
from offrl.critics import CriticConfig, actor_critic, climb, least_error
from offrl.learner import Learner, Metrics, Nets


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
        return actor_critic(self.config, self.spec, "deterministic")

    def critic_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Squared error of Q against the target networks."""
        with torch.no_grad():
            next_action = nets.target_policy(batch.next_obs).action
        return least_error(nets, batch, next_action, self.config.discount)

    def policy_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """-Q(s, pi(s))."""
        return climb(nets, batch)

    def update(self, learner: Learner, batch: Batch, stage: str) -> tuple[Learner, Metrics]:
        learner, critic = learner.descend("critic", self.critic_loss, batch)
        learner, policy = learner.descend("policy", self.policy_loss, batch)
        return learner.track(self.targets, learner.scalar("target_rate")), critic | policy
