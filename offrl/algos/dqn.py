"""DQN and double DQN on a fixed log, discrete actions.

    minimise  E_D[ (Q(s,a) - y)^2 ]
    y = r + discount (1 - terminated) Q'(s', argmax_a' Q(s',a'))     double
    y = r + discount (1 - terminated) max_a' Q'(s',a')               plain

Q' moves by `target_rate` every `target_period` gradient steps: 0.005 each step is soft, 1 every 200
copies. The policy is the action of the largest value, and its network is Q itself. Sources: Mnih et
al. 2015; van Hasselt et al. 2016, 1509.06461, eq. 4. Deviations: see docs/algorithms/dqn.md.
"""

from dataclasses import dataclass
from typing import Annotated, final

import torch
from torch import Tensor, nn

from offrl import losses
from offrl.algorithm import TRACED, Algorithm, AlgorithmConfig, Peers
from offrl.batch import Batch
from offrl.learner import Learner, Metrics, Nets
from offrl.nn import policy_head


@dataclass(frozen=True, kw_only=True)
class DQNConfig(AlgorithmConfig):
    """Settings of DQN."""

    double: Annotated[
        bool, "The network chooses the next action, its target scores it.", Peers("double_dqn")
    ] = True
    target_rate: Annotated[
        float,
        "How far the target moves towards the network when it moves; 1 copies.",
        Peers("tau", "polyak", "soft_target_tau"),
        TRACED,
    ] = 0.005
    target_period: Annotated[
        int,
        "Gradient steps from one move of the target to the next.",
        Peers("target_update_interval", "target_update_freq", "target_network_frequency"),
    ] = 1

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {
            "target_rate": (0 < self.target_rate <= 1, "above 0 and up to 1"),
            "target_period": (self.target_period > 0, "at least 1"),
        }


@final
class DQN(Algorithm[DQNConfig]):
    """Learn Q of the greedy policy, and act greedily."""

    name = "dqn"
    summary = "Q-learning with a target network (double DQN); no guard against unseen actions."
    acts = "replay"
    spaces = ("discrete",)
    targets = ("policy",)
    Config = DQNConfig

    def networks(self) -> dict[str, nn.Module]:
        sizes = (self.config.hidden_size, self.config.hidden_layers)
        return {"policy": policy_head("greedy", self.spec.obs_dim, self.spec.action_dim, *sizes)}

    def value_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Squared error of the logged actions' values."""
        with torch.no_grad():
            next_value = nets.target_policy(batch.next_obs).value
            chooser = nets.policy(batch.next_obs).value if self.config.double else next_value
            future = losses.chosen(next_value, chooser.argmax(-1))
            target = losses.td_target(batch.reward, future, batch.terminated, self.config.discount)
        pi = nets.policy(batch.obs)
        loss, metrics = losses.critic_loss(losses.chosen(pi.value, batch.action)[None], target)
        return loss, metrics | {
            "policy/q_mean": pi.value.amax(-1).mean(),
            "policy/action_differs": losses.differing_share(pi.mode(), batch.action),
        }

    def update(self, learner: Learner, batch: Batch, stage: str) -> tuple[Learner, Metrics]:
        learner, metrics = learner.descend("policy", self.value_loss, batch)
        if stage == "target":
            learner = learner.track("policy", learner.scalar("target_rate"))
        return learner, metrics

    def stage(self, step: int) -> str:
        return "target" if (step + 1) % self.config.target_period == 0 else "update"
