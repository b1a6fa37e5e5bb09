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

from torch import Tensor

from offrl.batch import Batch
from offrl.critics import Delayed, DelayedConfig, climb, counted, least_error, smoothed_action
from offrl.learner import Metrics, Nets


@final
class TD3(Delayed[DelayedConfig]):
    """Follow the gradient of the critic: twin critics, smoothed targets, a delayed policy."""

    name = "td3"
    summary = (
        "Deterministic policy gradient with twin critics; made for acting, not for fixed logs."
    )
    Config = DelayedConfig

    def critic_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Squared error of every critic against the least of the target critics."""
        next_action, members = smoothed_action(nets, batch), counted(self.config, batch)
        return least_error(nets, batch, next_action, self.config.discount, members)

    def policy_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """-Q_1(s, pi(s)), or the mean of all critics for Q_1."""
        return climb(nets, batch, self.config.follow_mean)
