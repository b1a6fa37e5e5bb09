"""Behaviour cloning, on all the data or on its best part.

    gaussian, categorical:  minimise  -E_D[ log pi(a|s) ]
    deterministic:          minimise   E_D[ |pi(s) - a|^2 ]      in units of the action's half range

Sources: BC and %BC baselines of TD3+BC (Fujimoto & Gu 2021, 2106.06860) and Decision Transformer
(Chen et al. 2021, 2106.01345). Deviations: see docs/algorithms/bc.md.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, final

import torch
from torch import Tensor, nn

from offrl.algorithm import Algorithm, AlgorithmConfig, Peers
from offrl.batch import Batch, Table
from offrl.distributions import Deterministic
from offrl.learner import Learner, Metrics, Nets
from offrl.nn import policy_head


@dataclass(frozen=True, kw_only=True)
class BCConfig(AlgorithmConfig):
    """Settings of behaviour cloning."""

    head: Annotated[
        Literal["gaussian", "deterministic"],
        "What continuous actions are drawn from; discrete ones are always categorical.",
        Peers("policy_type"),
    ] = "gaussian"
    keep: Annotated[
        float, "Share of the data to imitate, best returns first (%BC).", Peers("frac", "pct")
    ] = 1.0
    keep_unit: Annotated[Literal["trajectories", "timesteps"], "What `keep` is a share of."] = (
        "trajectories"
    )

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {"keep": (0 < self.keep <= 1, "a share above 0 and up to 1")}


@final
class BC(Algorithm[BCConfig]):
    """Imitate the actions of the log."""

    name = "bc"
    summary = "Imitate the logged actions, of all episodes or of the best."
    criteria = (("loss", "lowest"),)
    Config = BCConfig

    def networks(self) -> dict[str, nn.Module]:
        head = "categorical" if self.spec.discrete else self.config.head
        sizes = (self.config.hidden_size, self.config.hidden_layers)
        return {"policy": policy_head(head, self.spec.obs_dim, self.spec.action_dim, *sizes)}

    def policy_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Negative log-likelihood, or the squared error of a deterministic policy."""
        pi = nets.policy(batch.obs)
        if isinstance(pi, Deterministic):
            loss = ((pi.action - batch.action) / pi.half).square().mean()
            return loss, {"policy/loss": loss}
        log_prob = pi.log_density(batch.action).mean()
        return -log_prob, {
            "policy/loss": -log_prob,
            "policy/log_prob": log_prob,
            "policy/entropy": pi.entropy(),
        }

    def update(self, learner: Learner, batch: Batch, stage: str) -> tuple[Learner, Metrics]:
        return learner.descend("policy", self.policy_loss, batch)

    def rows(self, table: Table) -> Tensor | None:
        if self.config.keep == 1:
            return None
        best_first = table.returns.argsort(descending=True, stable=True)
        starts = table.starts.cpu()
        lengths = starts.diff()[best_first]
        if self.config.keep_unit == "trajectories":
            kept = max(1, round(self.config.keep * len(best_first)))
        else:  # whole trajectories until that share of all steps is reached
            enough = lengths.cumsum(0).double() >= self.config.keep * len(table) - 1e-6
            kept = int(enough.int().argmax()) + 1
        return torch.cat(
            [
                torch.arange(int(starts[e]), int(starts[e + 1]))
                for e in best_first[:kept].sort().values
            ]
        ).to(table.obs_row.device)

    def holdout(self, nets: Nets, batch: Batch) -> Metrics:
        return {"holdout/loss": self.policy_loss(nets, batch)[0]}
