"""Learning from rollouts: act for a while, learn a lesson from what came of it, and so on.

env_step     0 ....... rollout ....... 2 rollouts ....... 3 rollouts       all worlds together
acting       the policy's own distribution, its log-probability kept as mu
learning               lesson          lesson             lesson           phases of minibatches

Everything a run says and saves is said and saved between rollouts: one that is stopped within a
rollout, or its lesson, goes on from the end of the lesson before.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from offrl import checkpoint as checkpoints
from offrl.algorithm import statistics
from offrl.batch import Batch, Table
from offrl.learner import Learner, Progress, State, check_finite
from offrl.lessons import Phase, RolloutAlgorithm
from offrl.online.loop import LIVED, LOGGED, Loop
from offrl.online.rollouts import Rollouts, Running
from offrl.online.schedule import LessonConfig
from offrl.sampler import Sampler, mix

# Products of fewer rows than this are added up in another order, and mu would be a rounding away
# from what the update finds for the same parameters; of a multiple of it they are not.
_WIDTH = 16

Held = tuple[int, dict[str, State], dict[str, Any]]


@dataclass
class RolloutLoop(Loop[LessonConfig, Rollouts]):
    """One seed that acts, and learns from whole rollouts."""

    anchor: State = field(default_factory=dict)  # the networks that the logged columns are from
    scratch: bool = False  # V then takes its scale from the first rollout
    running: Running | None = None  # statistics of observations, where they are not of a log
    _before: Held | None = None  # the checkpoint of the moment before this rollout
    _logged: dict[str, Tensor] = field(default_factory=dict)  # columns of the logged rows

    @property
    def teacher(self) -> RolloutAlgorithm[Any]:
        """The algorithm, as one that learns from rollouts."""
        if not isinstance(self.algorithm, RolloutAlgorithm):
            raise TypeError(f"{self.algorithm.name} does not learn from rollouts")
        return self.algorithm

    def _live(self) -> None:
        """Take the steps of a rollout in every world."""
        self._before = self._held()
        for _ in range(self.online.ticks(self.env_steps - self.env_step)):
            super()._live()

    def _acted(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """As any loop acts, in a batch that is as wide as its results need."""
        n = len(noise)
        rows = torch.arange(-(-n // _WIDTH) * _WIDTH) % n  # the first worlds again
        with torch.no_grad():
            acting = self._policy()(torch.as_tensor(self.worlds.obs)[rows])
            action = acting.sample(noise[rows])
            return action[:n], acting.log_prob(action)[:n]

    def _stopped(self) -> None:
        if self._before is None:
            super()._stopped()
        elif self._before[2]["env_step"] > self.saved_at:
            self._write(*self._before)

    def _held(self) -> Held:
        step, trees, page = super()._held()
        if self.logged is not None:
            trees["anchor"] = self.anchor
        if self.running is not None:
            trees["running"] = self.running.tensors()
        return step, trees, page

    def restore(self, tensors: dict[str, Tensor]) -> None:
        super().restore(tensors)
        if self.logged is not None:
            self.anchor = checkpoints.restore({"anchor": self.anchor}, tensors)["anchor"]
        if self.running is not None:
            self.running.restore(checkpoints.under("running", tensors))

    def _learn(self) -> None:
        """Learn the lesson of the rollout that has just ended."""
        newest = self.replay.close()
        if newest is None:
            return
        table, step, state = self.replay.table(), self.now.step, self.now.state
        if self.scratch and step == 0:
            found = statistics(newest, self.algorithm.config)
            state = _scaled(state, {k: found[k] for k in ("return_mean", "return_std")})
        told = {"online/ratio_error": _ratio_error(Learner(self.modules, state), newest)}
        for phase in self.online.lesson(self.teacher, len(table)):
            learner = Learner(self.modules, state)
            columns = self.teacher.fresh_columns(learner, table)
            every = torch.arange(len(table), device=table.obs_row.device)
            rollout = table.gather(every, columns, {})
            state = self.teacher.reflect(learner, rollout, phase.stage).state
            metrics: dict[str, Tensor] = {}
            for batch in self._batches(phase, step, table, columns):
                state, metrics = self.update(state, batch, phase.stage)
                check_finite(metrics, step)
                step += 1
            told |= metrics
        if self.running is not None:
            self.running.add(newest.observations)
            state = _scaled(state, self.running.buffers())
        self.now, self._before = Progress(step, state, state, told), None

    def _batches(self, phase: Phase, step: int, table: Table, columns: dict[str, Tensor]) -> Any:
        """The minibatches of a phase that begins at `step`: fresh rows in an order of chance.

        Every row is drawn once before any is drawn again. Row 0 ... are logged ones.
        """
        size = self.algorithm.config.batch_size
        logged = self.logged
        n = self._mixed(size) if phase.mixed and logged is not None else 0
        generator = torch.Generator().manual_seed(mix(self.seed, step, LIVED))
        fresh, rows = size - n, len(table)
        rounds = -(-phase.steps * fresh // rows)
        order = [torch.randperm(rows, generator=generator) for _ in range(rounds)]
        index = torch.cat([torch.zeros(0, dtype=torch.int64), *order])[: phase.steps * fresh]
        for number, chosen in enumerate(index.view(phase.steps, fresh)):
            lived = table.gather(chosen.to(table.obs_row.device), columns, {})
            if logged is not None and n > 0:
                lived = self._with_logged(logged, lived, n, step + number)
            yield lived

    def _mixed(self, size: int) -> int:
        """How many rows of a batch are logged ones."""
        over = 0 < self.online.mix_steps <= self.env_step
        return 0 if over else round(self.online.mix * size)

    def _with_logged(self, table: Table, lived: Batch, n: int, step: int) -> Batch:
        """n logged rows of `table` and then those that were lived, each with columns of its own."""
        if not self._logged:
            found = self.teacher.logged_columns(Learner(self.modules, self.anchor), table)
            self._logged = {name: found[name] for name in lived.columns}
        index = Sampler(table, mix(self.seed, LOGGED, 0), n).index(step)
        logged = table.gather(index, self._logged, {})
        pairs = zip(logged[:6], lived[:6], strict=True)
        columns = {k: torch.cat([logged.columns[k], lived.columns[k]]) for k in lived.columns}
        return Batch(*(torch.cat(pair) for pair in pairs), columns=columns, noise={})


def _ratio_error(learner: Learner, table: Table) -> Tensor:
    """The largest |pi/mu - 1| over a rollout before anything is learned from it.

    mu was the policy of this moment, a row of each world at a time: 0 but for rounding.
    """
    with torch.no_grad():
        log_prob = learner.nets.policy(table.observations[table.obs_row]).log_prob(table.action)
    return torch.expm1(log_prob - table.behavior_log_prob).abs().max()


def _scaled(state: State, found: dict[str, Tensor]) -> State:
    """The state with the statistics `found` in every buffer of their names."""

    def changed(buffers: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: found.get(k.rpartition(".")[2], b).to(b) for k, b in buffers.items()}

    return {**state, "buffers": {name: changed(b) for name, b in state["buffers"].items()}}
