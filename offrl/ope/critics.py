"""Q and V of a candidate by fitted Q evaluation, of episodes that the critics did not learn from.

The episodes are cut into folds. For each fold and each seed a critic learns from a resample of the
other episodes (with replacement, whole ones), so that what the seeds disagree about is chance of
the log and of the start alike: a bootstrap of the fit (Hao et al. 2021, 2102.03607). Q and V of a
step are means over the seeds. The folds are those of Chernozhukov et al. 2018, 1608.00060.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from offrl import losses
from offrl.algos.fqe import FQE, FQEConfig
from offrl.batch import Table
from offrl.configuration import configure
from offrl.data.transitions import Transitions
from offrl.learner import Nets
from offrl.nn import Head
from offrl.ope.fitting import (
    Counting,
    Member,
    Numbers,
    fit_together,
    folds_of,
    observation_rows,
    resample,
    rows_of,
    seed_of,
    tensor,
    without,
)
from offrl.ope.functions import FunctionPolicy
from offrl.ope.settings import JudgeConfig
from offrl.ope.trajectories import Floats
from offrl.watch import Earnings

CLIPPED = 0.05  # share of targets beyond what can be earned, from which on a critic has diverged
UNSETTLED = 0.2  # deviations of the log's returns that the value has moved late, or has yet to
ROWS = 16_384


@dataclass(frozen=True)
class Critics:
    """What the critics say of N steps and E episodes."""

    q: Floats  # [N], of the logged actions
    v: Floats  # [N]
    final_v: Floats  # [E], of each last observation
    seeds: Floats  # [S, E], V of each first observation, by seed
    notes: tuple[str, ...] = ()
    failed: str | None = None  # why none of it can be used


def fit_critics(
    data: Transitions, policy: nn.Module, acts: str, discount: float, config: JudgeConfig,
    counting: Counting,
) -> Critics:  # fmt: skip
    """Critics of `policy` on all episodes of `data`."""
    return _Fit(data, policy, acts, discount, config, counting).critics()


class _Fit:
    def __init__(
        self, data: Transitions, policy: nn.Module, acts: str, discount: float,
        config: JudgeConfig, counting: Counting,
    ) -> None:  # fmt: skip
        self.data, self.config, self.counting = data, config, counting
        self.discount, self.acts = discount, acts
        settings: dict[str, Any] = {
            "discount": discount,
            "acts": acts,
            "samples": config.fqe_samples,
            "critics": 1,
            "hidden_size": config.fqe_hidden_size,
            "hidden_layers": config.fqe_hidden_layers,
            "batch_size": config.fqe_batch_size,
            "lr": config.fqe_lr,
            "target_rate": config.fqe_target_rate,
        }
        self.fqe = FQE(configure(FQEConfig, settings), data.spec, policy)
        self.vectorised = isinstance(policy, Head | FunctionPolicy)
        self.moved: list[float] = []

    def critics(self) -> Critics:
        data, episodes, n = self.data, self.data.n_episodes, self.config.fqe_seeds
        nothing = np.zeros(len(data)), np.zeros(len(data)), np.zeros(episodes)
        if episodes < 2:
            return Critics(*nothing, np.zeros((0, episodes)), failed="There is one episode alone.")
        q, v = np.zeros((n, len(data))), np.zeros((n, len(data) + episodes))
        faults: dict[int, str] = {}
        for number, part in enumerate(folds_of(episodes, self.config.folds, self.config.seed)):
            self._fold(number, part, q, v, faults)
        good = [seed for seed in range(n) if seed not in faults]
        told = [f"Critic {k} has diverged and was left out: {why}" for k, why in faults.items()]
        if not good:
            why = f"Fitted Q evaluation has diverged: {next(iter(faults.values()))}"
            return Critics(*nothing, np.zeros((0, episodes)), failed=why)
        ends = data.starts[1:] + np.arange(episodes)
        firsts = data.starts[:-1] + np.arange(episodes)
        mean_v, notes = v[good].mean(0), (*told, *self._unsettled())
        return Critics(
            q[good].mean(0), mean_v[data.obs_row], mean_v[ends], v[good][:, firsts], notes
        )

    def _fold(
        self, number: int, part: Numbers, q: Floats, v: Floats, faults: dict[int, str]
    ) -> None:
        """Fill in what critics of the other episodes say of those of `part`."""
        data, n = self.data, self.config.fqe_seeds
        others = without(part, data.n_episodes)
        place = {int(episode): at for at, episode in enumerate(others)}
        table = Table.of(data, episodes=others)
        starts, rows, seeds = table.starts.tolist(), list[Tensor](), list[int]()
        for seed in range(n):
            drawn = [place[int(e)] for e in resample(others, self.config.seed, seed, number)]
            rows.append(torch.cat([torch.arange(starts[k], starts[k + 1]) for k in drawn]))
            seeds.append(seed_of(self.config.seed, seed, number, 5))
        members = fit_together(
            self.fqe, table, rows, seeds, self.config.fqe_steps, self.counting, self.vectorised
        )
        firsts = tensor(data.observations[data.starts[part] + part])
        steps, seen = rows_of(data, part), observation_rows(data, part)
        for seed, member in enumerate(members):
            for chunk in np.array_split(seen, max(1, len(seen) // ROWS)):
                values = self._v(member.nets, tensor(data.observations[chunk]))
                v[seed, chunk] = values.double().numpy()
            for chunk in np.array_split(steps, max(1, len(steps) // ROWS)):
                obs, action = data.observations[data.obs_row[chunk]], data.action[chunk]
                values = self._q(member.nets, tensor(obs), tensor(action))
                q[seed, chunk] = values.double().numpy()
            if why := self._fault(member, v[seed, seen]):
                faults.setdefault(seed, why)
            now, before = self._v(member.nets, firsts), self._v(member.before, firsts)
            self.moved.append(float(now.mean() - before.mean()))

    def _v(self, nets: Nets, obs: Tensor) -> Tensor:
        noise = None
        if draws := self.fqe.draws():  # the same for every critic
            generator = torch.Generator().manual_seed(seed_of(self.config.seed, 6))
            noise = torch.randn(len(obs), *draws["next"], generator=generator).to(obs)
        with torch.no_grad():
            return self.fqe.expected(nets.policy(obs), nets.critic, obs, noise)[0]

    def _q(self, nets: Nets, obs: Tensor, action: Tensor) -> Tensor:
        with torch.no_grad():
            if self.data.spec.discrete:
                return losses.chosen(nets.critic(obs), action)[0]
            return nets.critic(obs, action)[0]

    def _fault(self, member: Member, values: Floats) -> str:
        """Why a critic has diverged: its values are none that a policy can earn; "" where not."""
        if not member.finite:
            return "its loss stopped being finite."
        if (clipped := member.metrics["critic/clipped"]) > CLIPPED:
            return f"{clipped:.0%} of its targets are beyond what rewards of the log can add up to."
        low, high = Earnings.of(self.data, self.discount).possible
        room, mean = 0.1 * (high - low), float(values.mean())
        if low - room <= mean <= high + room or not np.isfinite(room):
            return ""
        return (
            f"its mean value is {mean:.4g}, and no policy can earn less than {low:.4g} or more than"
            f" {high:.4g}."
        )

    def _unsettled(self) -> list[str]:
        if len(self.data) == self.data.n_episodes:
            return []
        spread = float(discounted(self.data, self.discount).std())
        moved = abs(float(np.mean(self.moved)))
        left = moved / np.expm1(self._contraction() * max(1, self.config.fqe_steps // 4))
        if max(moved, left) <= UNSETTLED * spread:
            return []
        return [
            f"Fitted Q evaluation has not settled: its value moved by {moved:.3g} in the last"
            f" quarter of its {self.config.fqe_steps} steps, and about {left:.3g} more is to come;"
            " take more steps (--fqe-steps), or a target that moves faster (--fqe-target-rate)."
        ]

    def _contraction(self) -> float:
        """Share of an error of the target that a step takes away, where it is slowest.

        An error of every value is carried to the step before it, discounted, unless that one ended
        its episode: target_rate (1 - discount (1 - share of steps that terminated)).
        """
        ended = float(self.data.terminated.mean())
        return max(1e-9, self.config.fqe_target_rate * (1 - self.discount * (1 - ended)))


def discounted(data: Transitions, discount: float) -> Floats:
    """[E], the discounted sum of the rewards of each episode."""
    step = np.arange(len(data)) - np.repeat(data.starts[:-1], data.lengths)
    weighed = data.reward * discount ** step.astype(np.float64)
    return np.add.reduceat(weighed, data.starts[:-1])
