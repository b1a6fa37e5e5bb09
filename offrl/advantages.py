"""How much better than usual each logged action was: V, Q and A of the behaviour mu.

    lambda:  minimise 1/2 E_D[ (R^lambda - V(s))^2 ]       R^lambda recomputed from V at each refit
             A = R^lambda - V(s)
    q:       after that  E_D[ (Q(s,a) - r - discount (1 - terminated) V(s'))^2 ]  for Q, and
             E_D[ (Q(s,a) - V(s))^2 ] / 2  for V: the expectile 1/2 of Q over the logged actions
             A = Q(s,a) - V(s)

Neither asks for the next logged action, so a truncated row counts like any other. The first is one
sample of what followed, the second its mean as far as Q has learned it. Sources: Schulman et al.
2016, 1506.02438, for the first; Brandfonbrener et al. 2021, 2106.08909, for steps on Q of mu.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from offrl import losses
from offrl.algorithm import AlgorithmConfig, Peers
from offrl.batch import Batch, Table
from offrl.data.spec import Spec
from offrl.learner import Learner, Metrics, Nets
from offrl.nn import Critic, DiscreteCritic, Value


@dataclass(frozen=True, kw_only=True)
class AdvantageConfig(AlgorithmConfig):
    """Settings of every algorithm that weighs logged actions by A of the behaviour."""

    advantage: Annotated[
        Literal["lambda", "q"], "A from TD(lambda) returns, or from a fitted Q of the behavior."
    ] = "lambda"
    adv_norm: Annotated[
        Literal["none", "std", "scale"],
        "Standardise advantages over the data (std), divide by their spread only (scale), or not.",
    ] = "std"
    td_lambda: Annotated[
        float, "1 is Monte-Carlo returns, 0 one-step; between, TD(lambda).", Peers("lam", "lmbda")
    ] = 0.95
    value_steps: Annotated[int, "Gradient steps of V on returns.", Peers("critic_steps")] = 1000
    value_refits: Annotated[int, "Times the value targets are recomputed in those steps."] = 4
    q_steps: Annotated[int, "Gradient steps of Q and V after that, where advantage is q."] = 4000

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {
            "td_lambda": (0 <= self.td_lambda <= 1, "from 0 to 1"),
            "value_steps": (self.value_steps > 0, "at least 1"),
            "value_refits": (0 < self.value_refits <= self.value_steps, "from 1 to value_steps"),
            "q_steps": (self.q_steps > 0, "at least 1"),
        }


class Advantages:
    """The stages "value" and "q", and the columns that they lead to."""

    def __init__(self, config: AdvantageConfig, spec: Spec) -> None:
        self.config, self.spec = config, spec
        self.steps = config.value_steps + (config.q_steps if config.advantage == "q" else 0)
        self._kept: tuple[tuple[Any, ...], dict[str, Tensor]] | None = None

    def networks(self) -> dict[str, nn.Module]:
        """V, and Q where it is asked for."""
        spec, sizes = self.spec, (self.config.hidden_size, self.config.hidden_layers)
        found: dict[str, nn.Module] = {"value": Value(spec.obs_dim, *sizes)}
        if self.config.advantage == "q":
            critic = DiscreteCritic if spec.discrete else Critic
            found["critic"] = critic(spec.obs_dim, spec.action_dim, *sizes, members=1)
        return found

    def shortened(self, steps: int) -> dict[str, int]:
        """The settings of stages that together take about `steps`."""
        first = max(1, steps // 2) if self.config.advantage == "q" else max(1, steps)
        short = {"value_steps": first, "value_refits": min(self.config.value_refits, first)}
        return short | ({"q_steps": max(1, steps - first)} if self.config.advantage == "q" else {})

    def stage(self, into: int) -> str:
        """The stage of step `into` of these `steps`."""
        return "value" if into < self.config.value_steps else "q"

    def refreshes(self, into: int) -> bool:
        """Whether the value targets are recomputed at step `into`, or the advantages after all."""
        value_steps, refits = self.config.value_steps, self.config.value_refits
        k = -(-into * refits // value_steps)  # the k-th refit is at value_steps * k // refits
        refit = into <= value_steps and value_steps * k // refits == into
        return refit or into == self.steps

    def value_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Squared error of V, in units of the returns' spread."""
        target, value = batch.columns["value_target"], nets.value(batch.obs)
        loss = 0.5 * ((target - value) / nets.buffer("value", "return_std")).square().mean()
        return loss, {
            "value/loss": loss,
            "value/mean": value.mean(),
            "value/explained_variance": losses.explained_variance(target, value),
        }

    def q_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Squared error of Q against one step and V, in units of the returns' spread."""
        with torch.no_grad():
            future = nets.value(batch.next_obs)
            target = losses.td_target(batch.reward, future, batch.terminated, self.config.discount)
        q = self._q(nets, batch.obs, batch.action)
        scale = nets.buffer("value", "return_std").square()
        loss = losses.squared_error(q[None], target) / scale
        return loss, {"critic/loss": loss, **losses.value_metrics(q[None], target)}

    def mean_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """The expectile 1/2 of Q over the logged actions: its mean."""
        with torch.no_grad():
            q = self._q(nets, batch.obs, batch.action)
        value, scale = nets.value(batch.obs), nets.buffer("value", "return_std").square()
        loss = losses.expectile_loss(q - value, 0.5) / scale
        return loss, {"value/loss": loss, "value/mean": value.mean()}

    def update(self, learner: Learner, batch: Batch, stage: str) -> tuple[Learner, Metrics]:
        """One gradient step of either stage."""
        if stage == "value":
            return learner.descend("value", self.value_loss, batch)
        learner, metrics = learner.descend("critic", self.q_loss, batch)
        learner, more = learner.descend("value", self.mean_loss, batch)
        return learner, metrics | more

    def columns(
        self, learner: Learner, table: Table, *, first: bool = False, lived: bool = False
    ) -> dict[str, Tensor]:
        """Value targets and advantages [N] of all transitions under the networks of this moment.

        With a Q over discrete actions also `advantages` [N, n], of every action. `first`: the
        targets are Monte-Carlo, since those of an untrained V would say nothing. `lived`: the rows
        are a rollout's, of a policy that Q does not know, and A is from TD(lambda) returns.
        """
        params, with_q = learner.state["params"], self.config.advantage == "q" and not lived
        inputs = [first, with_q, table.reward, table.terminated, table.observations]
        names = ("value", "critic") if with_q else ("value",)
        inputs += [p for name in names for p in params[name].values()]
        if self._kept and all(map(_same, self._kept[0], inputs)):
            return self._kept[1]  # no network that they depend on has moved
        found = self._columns(learner.nets, table, first, with_q)
        self._kept = (tuple(inputs), found)
        return found

    def _columns(self, nets: Nets, table: Table, first: bool, with_q: bool) -> dict[str, Tensor]:
        value = torch.cat([nets.value(chunk) for chunk in table.observations.split(16_384)])
        value, row = value.cpu().double(), table.obs_row.cpu()
        here, then = value[row], value[row + 1]
        advantage = losses.advantage_lambda(
            table.reward.cpu().double(),
            here,
            then,
            table.terminated.cpu().double(),
            table.last.cpu(),
            self.config.discount,
            1.0 if first else self.config.td_lambda,
        )
        target, like = advantage + here, table.reward
        found = {"value_target": target.to(like)}
        every = advantage[:, None]
        if with_q:
            every = self._every_q(nets, table) - here[:, None]
            chosen = table.action.cpu()[:, None] if self.spec.discrete else None
            advantage = every.gather(1, chosen)[:, 0] if chosen is not None else every[:, 0]
        centre, scale = losses.standard(advantage, self.config.adv_norm)
        found["advantage"] = ((advantage - centre) / scale).to(like)
        if with_q and self.spec.discrete:
            found["advantages"] = ((every - centre) / scale).to(like)
        return found

    def _every_q(self, nets: Nets, table: Table) -> Tensor:
        """Q of every discrete action [N, n], of the logged one where they are continuous [N, 1]."""
        found: list[Tensor] = []
        for index in torch.arange(len(table), device=table.obs_row.device).split(16_384):
            obs = table.observations[table.obs_row[index]]
            if self.spec.discrete:
                found.append(nets.critic(obs)[0])
            else:
                found.append(nets.critic(obs, table.action[index])[0, :, None])
        return torch.cat(found).cpu().double()

    def _q(self, nets: Nets, obs: Tensor, action: Tensor) -> Tensor:
        if self.spec.discrete:
            return losses.chosen(nets.critic(obs)[0], action)
        return nets.critic(obs, action)[0]


def _same(one: Any, other: Any) -> bool:
    """Whether two values are one; what holds `one` keeps its memory from being used again."""
    if isinstance(one, Tensor):
        return one is other or (
            one.data_ptr() == other.data_ptr()
            and one.shape == other.shape
            and one.stride() == other.stride()
        )
    return one == other
