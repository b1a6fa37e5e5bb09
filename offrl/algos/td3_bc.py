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

from torch import Tensor

from offrl import losses
from offrl.algorithm import TRACED, Peers
from offrl.batch import Batch
from offrl.critics import Delayed, DelayedConfig, climbed, counted, least_error, smoothed_action
from offrl.learner import Metrics, Nets


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
class TD3BC(Delayed[TD3BCConfig]):
    """TD3 whose policy also imitates the log."""

    name = "td3-bc"
    summary = "Follow the critic's gradient near the logged actions (TD3+BC)."
    Config = TD3BCConfig

    def critic_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Squared error of every critic against the least of the target critics."""
        next_action, members = smoothed_action(nets, batch), counted(self.config, batch)
        return least_error(nets, batch, next_action, self.config.discount, members)

    def policy_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """-Q_1(s, pi(s)) in units of its own size, and the squared distance from the log."""
        pi = nets.policy(batch.obs)
        q = climbed(nets, batch, pi.action, self.config.follow_mean)
        climb = losses.relative_value(q, nets.scalar("q_weight"))
        distance = ((pi.action - batch.action) / pi.half).square().mean()
        loss = distance - climb
        return loss, {
            "policy/loss": loss,
            "policy/q_mean": q.mean(),
            "policy/action_distance": distance.sqrt(),
        }
