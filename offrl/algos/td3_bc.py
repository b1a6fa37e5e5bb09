"""TD3+BC: follow the critic's gradient, and stay near the logged actions.

    critics:  as td3: twin, targets smoothed, the least of both
    policy:   minimise  -w E_D[ Q_1(s, pi(s)) ] + E_D[ |pi(s) - a|^2 ] / A     every `policy_period`
              w = q_weight / E_D[ |Q_1(s, pi(s))| ]         a number: no gradient flows through it

The squared distance is a mean over the A action dimensions, in half ranges of their bounds. With
q_weight = 0 this is behaviour cloning. Source: Fujimoto & Gu 2021, 2106.06860, eq. 3 to 5.
Deviations: see docs/algorithms/td3-bc.md.
"""

from dataclasses import dataclass
from typing import Annotated, final

import torch
from torch import Tensor, nn

from offrl import losses
from offrl.algorithm import TRACED, Algorithm, DelayedConfig, Peers
from offrl.batch import Batch
from offrl.learner import Learner, Metrics, Nets
from offrl.nn import Critic, policy_head


@dataclass(frozen=True, kw_only=True)
class TD3BCConfig(DelayedConfig):
    """Settings of TD3+BC."""

    q_weight: Annotated[
        float,
        "Weight of the critic against staying near the log; 0 is BC.",
        Peers("alpha", "td3_alpha"),
        TRACED,
    ] = 2.5

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {"q_weight": (self.q_weight >= 0, "0 or more")}


@final
class TD3BC(Algorithm[TD3BCConfig]):
    """TD3 whose policy also imitates the log."""

    name = "td3-bc"
    summary = "Follow the critic's gradient near the logged actions (TD3+BC)."
    acts = "replay"
    spaces = ("box",)
    targets = ("policy", "critic")
    Config = TD3BCConfig

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
        """-Q_1(s, pi(s)) in units of its own size, and the squared distance from the log."""
        pi = nets.policy(batch.obs)
        q = nets.critic(batch.obs, pi.action, 1)
        climb = losses.relative_value(q, nets.scalar("q_weight"))
        distance = ((pi.action - batch.action) / pi.half).square().mean()
        loss = distance - climb
        return loss, {
            "policy/loss": loss,
            "policy/q_mean": q.mean(),
            "policy/action_distance": distance.sqrt(),
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
