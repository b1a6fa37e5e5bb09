"""mu(a|s), the probability with which the log's own policy took each action: logged, or fitted.

The fitted one is a network of the policy's kind, by maximum likelihood on most of the training
episodes; the rest decide which of its states is kept. A policy that starts as a copy of it has the
ratio 1 on every row, exactly, and what the ratio then shows is what training has changed.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from offrl.algorithm import AlgorithmConfig, Peers
from offrl.batch import Batch, Table
from offrl.learner import Learner, Metrics, Nets
from offrl.sampler import mix

CHECKED_ROWS = 16_384  # at most, of the episodes that are set aside


@dataclass(frozen=True, kw_only=True)
class BehaviorConfig(AlgorithmConfig):
    """Settings of every algorithm that needs mu(a|s)."""

    behavior: Annotated[
        Literal["auto", "logged", "fitted"],
        "Where mu(a|s) is from. auto: logged if every row is, else fitted. logged: row by row.",
    ] = "auto"
    behavior_steps: Annotated[int, "Gradient steps of the fitted behavior.", Peers("bc_steps")] = (
        5000
    )
    check_steps: Annotated[int, "Gradient steps between two checks on episodes set aside."] = 200
    check_share: Annotated[
        float, "Share of the training episodes that is set aside for checks and stopping."
    ] = 0.1

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {
            "behavior_steps": (self.behavior_steps > 0, "at least 1"),
            "check_steps": (self.check_steps > 0, "at least 1"),
            "check_share": (0 <= self.check_share < 1, "a share from 0 to below 1"),
        }


class Behavior:
    """The stage "behavior" and the rows that it learns from, or is judged on."""

    def __init__(self, config: BehaviorConfig) -> None:
        self.config = config

    def loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Negative log-likelihood of the logged actions as they were executed."""
        loss = -nets.behavior(batch.obs).log_prob(batch.action).mean()
        return loss, {"behavior/loss": loss, "behavior/best_log_prob": nets.scalar("best_log_prob")}

    def keep_best(self, learner: Learner, table: Table, step: int) -> Learner:
        """Copy `behavior` into `policy` where it is the best so far; at the end, the best back."""
        with torch.no_grad():
            batch = table.gather(self.checked_rows(table), {}, {})
            log_prob = learner.nets.behavior(batch.obs).log_prob(batch.action).mean()
        if step == 0 or bool(log_prob > learner.scalar("best_log_prob")):
            learner = learner.copy("behavior", into="policy").note(best_log_prob=log_prob)
        last = step == self.config.behavior_steps
        return learner.copy("policy", into="behavior") if last else learner

    def log_mu(self, table: Table) -> Tensor:
        """[N] logged log-probabilities, NaN where the fitted model is to be asked."""
        logged = torch.where(table.behavior_log_prob.isfinite(), table.behavior_log_prob, torch.nan)
        setting, missing = self.config.behavior, bool(logged.isnan().any())
        if setting == "fitted" or (setting == "auto" and missing):
            return torch.full_like(logged, torch.nan)
        return logged

    def fitted(self, learner: Learner, table: Table) -> Tensor:
        """[N] log-probabilities of the logged actions under the fitted model."""
        found: list[Tensor] = []
        with torch.no_grad():
            for index in torch.arange(len(table), device=table.obs_row.device).split(16_384):
                obs = table.observations[table.obs_row[index]]
                found.append(learner.nets.behavior(obs).log_prob(table.action[index]))
        return torch.cat(found)

    def facts(self, table: Table) -> dict[str, str]:
        """Whether mu(a|s) is logged or estimated, for the results."""
        estimated = int(self.log_mu(table).isnan().sum())
        if not estimated:
            return {"behavior": "logged"}
        part = "" if estimated == len(table) else f" for {estimated} of {len(table)} transitions"
        return {"behavior": f"estimated{part}"}

    def checked_rows(self, table: Table) -> Tensor:
        """Rows of the episodes set aside, evenly thinned to some thousands; all rows if none is."""
        aside = _aside(table, self.config.check_share)
        rows = torch.nonzero(aside if bool(aside.any()) else ~aside)[:, 0]
        every = torch.linspace(0, len(rows) - 1, min(len(rows), CHECKED_ROWS)).round().long()
        return rows[every].to(table.obs_row.device)

    def learned_rows(self, table: Table) -> Tensor | None:
        """Rows of the other episodes; None where none is set aside."""
        aside = _aside(table, self.config.check_share)
        return torch.nonzero(~aside)[:, 0].to(table.obs_row.device) if bool(aside.any()) else None


def _aside(table: Table, share: float) -> Tensor:
    """[N] bool, true in the episodes set aside: the same for every seed; none of a single one."""
    lengths = table.starts.cpu().diff()
    episodes = len(lengths)
    n = min(max(1, round(share * episodes)), episodes - 1) if share else 0
    generator = torch.Generator().manual_seed(mix(0, 0, 3))
    chosen = torch.zeros(episodes, dtype=torch.bool)
    chosen[torch.randperm(episodes, generator=generator)[:n]] = True
    return chosen.repeat_interleave(lengths)
