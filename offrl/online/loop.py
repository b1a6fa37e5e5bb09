"""The online loop: act, remember, learn; a generator of events, as offline training is.

env_step     0 ......... warmup ........................................ env_steps
acting       anything    the policy, exploring
learning                 updates_per_step gradient steps for each env_step
batches                  a share `mix` of logged rows, the rest lived ones
"""

import copy
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from offrl import checkpoint as checkpoints
from offrl.algorithm import Algorithm
from offrl.batch import Batch, Table
from offrl.data.spec import Spec
from offrl.errors import NumericsError, OffrlError
from offrl.events import Diverged, Evaluated, Event, RolledBack, Saved, Trained
from offrl.learner import Progress, Update, check_finite
from offrl.online.exploring import anything, exploring
from offrl.online.floor import Floor
from offrl.online.replay import Replay
from offrl.online.schedule import OnlineConfig
from offrl.online.worlds import Lived, Worlds
from offrl.sampler import Sampler, mix, noise_of

_ACTING, _LOGGED, _LIVED = 3, 4, 5  # streams of draws, apart from those of offline training


@dataclass
class Loop:
    """One seed that acts and learns."""

    algorithm: Algorithm[Any]
    modules: dict[str, nn.Module]
    spec: Spec
    online: OnlineConfig
    env_steps: int
    seed: int
    folder: Path
    update: Update
    worlds: Worlds
    replay: Replay
    logged: Table | None
    evaluate: Callable[[nn.Module], dict[str, Any]]
    floor: Floor
    now: Progress
    env_step: int = 0
    returns: list[float] = field(default_factory=list)  # of episodes since the last row
    lengths: list[int] = field(default_factory=list)
    seconds: float = 0.0  # of earlier sittings
    began: float = 0.0
    logged_at: int = -1  # env_steps of the newest row, evaluation and checkpoint
    tried_at: int = -1
    saved_at: int = -1
    acting: bool = False  # whether some worlds may be a step ahead of others

    def events(self) -> Generator[Event]:
        """Act and learn from `env_step` up to `env_steps`."""
        online = self.online
        mark, marked = time.perf_counter(), self.env_step
        try:
            if self.saved_at < 0:
                self.worlds.begin()
                yield from self._tried()
                yield self._save()
            while self.floor.fell is None:
                self._learn()
                if self._due(online.log_every, self.logged_at):
                    rate = (self.env_step - marked) / max(time.perf_counter() - mark, 1e-9)
                    self.logged_at = self.env_step
                    yield Trained(self.seed, self.now.step, self._told(rate), rate)
                    mark, marked = time.perf_counter(), self.env_step
                if self._due(online.eval_every, self.tried_at) or self.floor.alarmed:
                    yield from self._tried()
                    mark, marked = time.perf_counter(), self.env_step
                    if self.floor.fell is not None:
                        break
                if self._due(online.save_every, self.saved_at):
                    yield self._save()
                if self.env_step >= self.env_steps:
                    return
                self._live()
            yield from self._rolled_back()
        except NumericsError as error:
            yield self._save()
            yield Diverged(self.seed, self.now.step, error.cause)
        except (KeyboardInterrupt, SystemExit, GeneratorExit, OffrlError):
            if self.env_step > self.saved_at and not self.acting:
                self._save()  # stopped: lose nothing that was reported
            raise

    def _due(self, every: int, last: int) -> bool:
        """Whether what happens every so often, and at the end, happens now; `last` it did."""
        before = self.env_step - len(self.worlds.worlds)
        passes = self.env_step // every > before // every or self.env_step >= self.env_steps
        return passes and self.env_step != last

    def _live(self) -> None:
        """Take one step in every world and remember it."""
        self.acting = True
        tick = self.env_step // len(self.worlds.worlds)
        generator = torch.Generator().manual_seed(mix(self.seed, tick, _ACTING))
        with torch.no_grad():
            obs = torch.as_tensor(self.worlds.obs)
            distribution = self._policy()(obs)
            if self.env_step < self.online.warmup:
                acting = anything(distribution)
            else:
                acting = exploring(distribution, self.online.noise, self._epsilon())
            shape = (len(obs),) if self.spec.discrete else (len(obs), self.spec.action_dim)
            draw = torch.rand if self.spec.discrete else torch.randn
            action = acting.sample(draw(shape, generator=generator))
            log_prob = acting.log_prob(action)
        self._remember(self.worlds.step(action.numpy()), log_prob)
        self.env_step += len(obs)
        self.acting = False

    def _policy(self) -> nn.Module:
        """The policy network with the parameters of `now`, by reference."""
        network = self.modules["policy"]
        tensors = self.now.state["params"]["policy"]
        for name, parameter in network.named_parameters():
            parameter.data = tensors[name]
        for name, buffer in network.named_buffers():
            buffer.data = self.now.state["buffers"]["policy"][name]
        return network

    def _epsilon(self) -> float:
        """Falls in a straight line from 1 after the warm-up to `epsilon` at `epsilon_steps`."""
        online = self.online
        if online.epsilon_steps == 0:
            return online.epsilon
        share = (self.env_step - online.warmup) / online.epsilon_steps
        return max(online.epsilon, 1 - (1 - online.epsilon) * share)

    def _remember(self, step: Lived, log_prob: Tensor) -> None:
        self.returns += step.returns
        if self.env_step >= self.online.warmup:
            self.floor.lived(step.returns)
        self.lengths += step.lengths
        self.replay.add(
            {
                "obs": torch.as_tensor(step.obs),
                "action": torch.as_tensor(step.action),
                "reward": torch.as_tensor(step.reward),
                "next_obs": torch.as_tensor(step.next_obs),
                "terminated": torch.as_tensor(step.terminated),
                "behavior_log_prob": log_prob,
            }
        )

    def _learn(self) -> None:
        """Take the gradient steps that are due at this env_step."""
        after = self.env_step - self.online.warmup
        due = int(after * self.online.updates_per_step) if after > 0 else 0
        while self.now.step < due:
            step, stage = self.now.step, self.algorithm.stage(self.now.step)
            state, metrics = self.update(self.now.state, self._batch(step), stage)
            check_finite(metrics, step)
            self.now = Progress(step + 1, state, state, metrics)

    def _batch(self, step: int) -> Batch:
        """Row 0 ... are logged ones, a share `mix` of the batch; the rest were lived."""
        size, draws = self.algorithm.config.batch_size, self.algorithm.draws()
        n = round(self.online.mix * size) if self.logged is not None else 0
        if 0 < self.online.mix_steps <= self.env_step:
            n = 0
        parts = list[Batch]()
        if self.logged is not None and n > 0:
            logged = Sampler(self.logged, mix(self.seed, _LOGGED, 0), n)
            parts.append(self.logged.gather(logged.index(step), {}, {}))
        if n < size:
            generator = torch.Generator().manual_seed(mix(self.seed, step, _LIVED))
            index = torch.randint(len(self.replay), (size - n,), generator=generator)
            parts.append(self.replay.gather(index.to(self.replay.reward.device), {}, {}))
        noise = noise_of(draws, self.seed, step, size, self.replay.reward)
        if len(parts) == 1:
            return parts[0]._replace(noise=noise)
        joined = (torch.cat(pair) for pair in zip(parts[0][:6], parts[1][:6], strict=True))
        return Batch(*joined, columns={}, noise=noise)

    def _told(self, rate: float) -> dict[str, float]:
        values = {name: float(value) for name, value in self.now.metrics.items()}
        values |= {"env_step": self.env_step, "online/env_steps_per_second": rate}
        if self.returns:
            values["online/return_mean"] = float(np.mean(self.returns))
            values["online/length_mean"] = float(np.mean(self.lengths))
            values["online/episodes"] = float(len(self.returns))
        self.returns, self.lengths = [], []
        return values

    def _tried(self) -> Generator[Event]:
        found = self.evaluate(copy.deepcopy(self._policy()))
        self.tried_at = self.env_step
        self.floor.judge(self.now, self.env_step, float(found["return_mean"]))
        yield Evaluated(self.seed, self.now.step, {**found, "env_step": self.env_step})

    def _rolled_back(self) -> Generator[Event]:
        """Put the best state that is known in the place of this one."""
        best, state = self.floor.best, self.floor.state
        if best is None or state is None:
            raise ValueError("nothing was evaluated")
        self.now = Progress(self.now.step, state, state, {})
        yield self._save()
        message = self.floor.sentence()
        yield RolledBack(self.seed, self.now.step, message, best.step, best.env_step, best.mean)

    def _save(self) -> Saved:
        page = checkpoints.page_of(self.modules, self.spec)
        page["env_step"] = self.env_step
        page |= {"returns": self.returns, "lengths": self.lengths}
        page |= {"logged_at": self.logged_at, "tried_at": self.tried_at}
        page |= self.floor.page()
        page["seconds"] = time.perf_counter() - self.began
        trees = {
            "state": self.now.state,
            "replay": self.replay.tensors(),
            "worlds": self.worlds.tensors(),
            "floor": self.floor.tensors(),
        }
        path = checkpoints.save(self.folder, self.now.step, trees, page)
        self.saved_at = self.env_step
        return Saved(self.seed, self.now.step, path)
