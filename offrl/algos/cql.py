"""Conservative Q-learning: critics that are kept low where the log is silent.

    critics:  minimise  sum_i E_D[ (Q_i(s,a) - y)^2 ] + conservatism E_D[ G_i(s) - Q_i(s,a) ]

discrete:     G = log sum_a exp Q(s,a)          y = r + discount (1 - terminated) Q'(s', argmax Q)
              the policy is the action of the largest value, and its network is Q itself
continuous:   G = log sum_k exp(Q_i(s,a_k) - log p(a_k))    over `samples` actions a_k of each of
              the uniform distribution, pi(.|s) and pi(.|s')
              y = r + discount (1 - terminated) min_i Q'_i(s',a')     a' ~ pi(.|s'), no entropy
    policy:   minimise  E_D[ T log pi(a|s) - min_i Q_i(s,a) ]         a ~ pi, T learned as in sac

All losses are taken at the parameters before the step. Source: Kumar et al. 2020, 2006.04779,
eq. 4 and appendix F, and the authors' code. Deviations: see docs/algorithms/cql.md.
"""

from typing import final

from torch import Tensor

from offrl import losses
from offrl.batch import Batch
from offrl.conservative import Conservative, ConservativeConfig, asked
from offrl.learner import Metrics, Nets


@final
class CQL(Conservative[ConservativeConfig]):
    """Learn values that are low for actions that the log lacks, and act by them."""

    name = "cql"
    summary = "Q-learning or soft actor-critic with values kept low off the log (conservative)."
    Config = ConservativeConfig

    def value_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Discrete actions: the squared error to a double-DQN target, and conservatism."""
        pi, target = nets.policy(batch.obs), self.greedy_target(nets, batch)
        logged, values = losses.chosen(pi.value, batch.action)[None], pi.value[None]
        loss, metrics = self.penalised(nets, logged, values, target)
        best = {"policy/q_mean": pi.value.amax(-1).mean()}
        return loss, metrics | best | losses.departure(pi, batch.action)

    def critic_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Continuous actions: the squared error to a sampled target, and conservatism."""
        target, actions, log_density = self.drawn(nets, batch)
        values = (asked(nets.critic, batch.obs, actions) - log_density).movedim(1, -1)
        return self.penalised(nets, nets.critic(batch.obs, batch.action), values, target)
