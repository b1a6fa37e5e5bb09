"""Learning from single transitions of any age, a little after every step.

env_step     0 ......... warmup ........................................ env_steps
acting       anything    the policy, exploring
learning                 updates_per_step gradient steps for each env_step
batches                  a share `mix` of logged rows, the rest lived ones
policies                                             | the mean of average_steps |

The mean of the last policies is what the run ends with (Polyak & Juditsky 1992): on the way it
neither acts nor is learned from.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offrl import checkpoint as checkpoints
from offrl.batch import Batch, Table
from offrl.learner import Learner, Progress, State, check_finite
from offrl.online.acting import Alone, alone
from offrl.online.exploring import anything, exploring
from offrl.online.loop import LIVED, LOGGED, Loop
from offrl.online.replay import Replay
from offrl.online.schedule import ReplayConfig
from offrl.online.worlds import Lived
from offrl.sampler import Sampler, mix, noise_of


@dataclass
class ReplayLoop(Loop[ReplayConfig, Replay]):
    """One seed that acts, and learns from what it remembers."""

    mean: dict[str, Tensor] = field(default_factory=dict[str, Tensor])  # of the last policies
    counted: int = 0  # policies in it

    @cached_property
    def _logged_columns(self) -> dict[str, Tensor]:
        if self.logged is None or not self.algorithm.lived:
            return {}
        return self._columns(self.logged)

    def _columns(self, table: Table) -> dict[str, Tensor]:
        """What the algorithm must know of the whole episodes in `table`."""
        learner = Learner(self.modules, self.now.state)
        return self.algorithm.columns(learner, table, self.now.step)

    def _remember(self, step: Lived, log_prob: Tensor) -> None:
        super()._remember(step, log_prob)
        if not self.algorithm.lived:
            return
        ended = np.flatnonzero(step.terminated | step.truncated).tolist()
        for world, length in zip(ended, step.lengths, strict=True):
            rows = self.replay.episode(world, len(self.worlds.worlds), length)
            self.replay.fill(rows, self._columns(self.replay.table(rows)))

    def _acting(self, distribution: Any) -> Any:
        if self.env_step < self.online.warmup:
            return anything(distribution)
        return exploring(distribution, self.online.noise, self._epsilon())

    def _acted(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        acts, warm = self._alone, self.env_step >= self.online.warmup
        if acts is None or len(noise) > 1 or not warm:
            return super()._acted(noise)
        params = self.now.state["params"]["policy"]
        action, log_prob = acts(params, self.worlds.obs[0], noise[0].numpy())
        return torch.as_tensor(action[None]), torch.tensor([log_prob], dtype=torch.float32)

    @cached_property
    def _alone(self) -> Alone | None:
        return alone(self.modules["policy"], self.spec, self.now.state, self.online.noise)

    def _epsilon(self) -> float:
        """Falls in a straight line from 1 after the warm-up to `epsilon` at `epsilon_steps`."""
        online = self.online
        if online.epsilon_steps == 0:
            return online.epsilon
        share = (self.env_step - online.warmup) / online.epsilon_steps
        return max(online.epsilon, 1 - (1 - online.epsilon) * share)

    def _learn(self) -> None:
        """Take the gradient steps that are due at this env_step."""
        after = self.env_step - self.online.warmup
        due = int(after * self.online.updates_per_step) if after > 0 else 0
        while self.now.step < due:
            step, stage = self.now.step, self.algorithm.stage(self.now.step)
            state, metrics = self.update(self._annealed(), self._batch(step), stage)
            check_finite(metrics, step)
            now, mean = Progress(step + 1, state, state, metrics), self._averaged(state)
            # At once, so that no stop falls between a policy and its share of the mean.
            self.now, (self.mean, self.counted) = now, mean
        if self.env_step >= self.env_steps and self.mean:
            state = self.now.state
            state = {**state, "params": {**state["params"], "policy": self.mean}}
            self.now = self.now._replace(state=state, anchor=state)

    def _averaged(self, state: State) -> tuple[dict[str, Tensor], int]:
        """The mean and its count, the policy of `state` among them where they are the last."""
        if self.env_step <= self.env_steps - self.online.average_steps:
            return self.mean, self.counted
        policy = state["params"]["policy"]
        before, count = self.mean or policy, self.counted + 1
        return {k: before[k].lerp(p, 1 / count) for k, p in policy.items()}, count

    def _held(self) -> tuple[int, dict[str, State], dict[str, Any]]:
        step, trees, page = super()._held()
        if self.mean:
            trees["mean"] = {"policy": self.mean, "counted": torch.tensor(self.counted)}
        return step, trees, page

    def restore(self, tensors: dict[str, Tensor]) -> None:
        super().restore(tensors)
        if "mean/counted" in tensors:
            self.counted = int(tensors["mean/counted"])
            policy = {"mean": {"policy": self.now.state["params"]["policy"]}}
            self.mean = checkpoints.restore(policy, tensors)["mean"]["policy"]

    def _annealed(self) -> State:
        """The state, with the setting that is annealed at the value of this env_step."""
        name, state = self.online.anneal, self.now.state
        if not name:
            return state
        first, last = getattr(self.algorithm.config, name), self.online.anneal_to
        steps = self.online.anneal_steps or self.env_steps - self.online.warmup
        share = min(1.0, (self.env_step - self.online.warmup) / steps)
        value = first + (last - first) * share
        if name == "lr":  # networks with rates of their own keep the proportion
            own = self.algorithm.rates()
            rates = {net: own.get(net, first) * value / first for net in state["adam"]}
            adam = {n: {**m, "lr": m["lr"].new_tensor(rates[n])} for n, m in state["adam"].items()}
            return {**state, "adam": adam}
        scalar = state["scalars"][name].new_tensor(value)
        return {**state, "scalars": {**state["scalars"], name: scalar}}

    def _batch(self, step: int) -> Batch:
        """Row 0 ... are logged ones, a share `mix` of the batch; the rest were lived."""
        size, draws = self.algorithm.config.batch_size, self.algorithm.draws()
        n = round(self.online.mix * size) if self.logged is not None else 0
        if 0 < self.online.mix_steps <= self.env_step:
            n = 0
        parts = list[Batch]()
        if self.logged is not None and n > 0:
            logged = Sampler(self.logged, mix(self.seed, LOGGED, 0), n)
            parts.append(self.logged.gather(logged.index(step), self._logged_columns, {}))
        if n < size:
            generator = torch.Generator().manual_seed(mix(self.seed, step, LIVED))
            index = torch.randint(len(self.replay), (size - n,), generator=generator)
            parts.append(self.replay.gather(index.to(self.replay.reward.device), {}, {}))
        noise = noise_of(draws, self.seed, step, size, self.replay.reward)
        if len(parts) == 1:
            return parts[0]._replace(noise=noise)
        joined = (torch.cat(pair) for pair in zip(parts[0][:6], parts[1][:6], strict=True))
        columns = {n: torch.cat([part.columns[n] for part in parts]) for n in self.algorithm.lived}
        return Batch(*joined, columns=columns, noise=noise)
