"""The online loop: act, remember, learn; a generator of events, as offline training is.

What is remembered, and when and from what is learned, is told in `replay_loop` and `rollout_loop`.
"""

import copy
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from offrl import checkpoint as checkpoints
from offrl.algorithm import Algorithm
from offrl.batch import Table
from offrl.data.spec import Spec
from offrl.errors import NumericsError, OffrlError
from offrl.events import Diverged, Evaluated, Event, RolledBack, Saved, Trained
from offrl.learner import Progress, State, Update
from offrl.online.exploring import in_double
from offrl.online.floor import Floor
from offrl.online.schedule import OnlineConfig
from offrl.online.worlds import Lived, Worlds
from offrl.sampler import mix
from offrl.watch import Extremes

POSSIBLE_LOW, POSSIBLE_HIGH = "online/possible_low", "online/possible_high"  # metrics
_ACTING, LOGGED, LIVED = 3, 4, 5  # streams of draws, apart from those of offline training


class Memory(Protocol):
    """What was lived and may still be learned from."""

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Append K transitions, one of each world, as columns [K, ...]."""
        ...

    def tensors(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        ...


S = TypeVar("S", bound=OnlineConfig)
M = TypeVar("M", bound=Memory)


@dataclass
class Loop(ABC, Generic[S, M]):
    """One seed that acts and learns."""

    algorithm: Algorithm[Any]
    modules: dict[str, nn.Module]
    spec: Spec
    online: S
    env_steps: int
    seed: int
    folder: Path
    update: Update
    worlds: Worlds
    replay: M
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
    extremes: Extremes = field(
        default_factory=Extremes
    )  # of the rewards of the log and of what was lived
    acting: bool = False  # whether worlds may be a step ahead of what is remembered

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
                    yield Trained(self.seed, self.now.step, self._told(rate), rate)
                    self.logged_at, self.returns, self.lengths = self.env_step, [], []
                    mark, marked = time.perf_counter(), self.env_step
                if self._due(online.eval_every, self.tried_at) or self.floor.alarmed:
                    yield from self._tried()
                    mark, marked = time.perf_counter(), self.env_step
                    if self.floor.fell is not None:
                        break
                ended = self.env_step >= self.env_steps
                if ended or self._due(online.save_every, self.saved_at):
                    yield self._save()
                if ended:
                    return
                self._live()
            yield from self._rolled_back()
        except NumericsError as error:
            yield self._save()
            yield Diverged(self.seed, self.now.step, error.cause)
        except (KeyboardInterrupt, SystemExit, GeneratorExit, OffrlError):
            self._stopped()
            raise

    def _due(self, every: int, last: int) -> bool:
        """Whether what happens every so often, and at the end, happens now; `last` it did."""
        passes = self.env_step // every > last // every or self.env_step >= self.env_steps
        return passes and self.env_step != last

    def _stopped(self) -> None:
        """Save where a run is stopped; what was due and is not reported yet follows on resume."""
        whole = not self.acting or self.worlds.before is not None
        if self.env_step > self.saved_at >= 0 and whole:
            self._save()

    @property
    def complete(self) -> bool:
        """Whether all steps are taken and all of the last one is reported."""
        return self.env_steps <= self.env_step == self.logged_at == self.tried_at

    @abstractmethod
    def _learn(self) -> None:
        """Take the gradient steps that are due at this env_step."""

    def _acting(self, distribution: Any) -> Any:
        """The distribution that acts where the policy's own is `distribution`."""
        return distribution

    def _live(self) -> None:
        """Take one step in every world and remember it."""
        action, log_prob = self._acted(self._noise())
        scores = self._scores(action) if self.worlds.recording else None
        self.acting = True
        self._remember(self.worlds.step(action.numpy(), scores), log_prob)
        self.env_step += len(action)
        self.acting = False

    def _noise(self) -> Tensor:
        """Draws of this step: uniform [K] where actions are discrete, else normal [K, A]."""
        worlds = len(self.worlds.worlds)
        tick = self.env_step // worlds
        generator = torch.Generator().manual_seed(mix(self.seed, tick, _ACTING))
        if self.spec.discrete:
            return torch.rand(worlds, generator=generator)
        return torch.randn(worlds, self.spec.action_dim, generator=generator)

    def _acted(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """An action of each world [K, ...], and its log-probability [K]."""
        with torch.no_grad():
            acting = self._acting(self._policy()(torch.as_tensor(self.worlds.obs)))
            action = acting.sample(noise)
            return action, acting.log_prob(action)

    def _scores(self, action: Tensor) -> np.ndarray:
        """[K] log-probabilities of actions as they are executed, in float64; NaN without any."""
        dtype = self.spec.action_space.dtype
        if not self.spec.discrete and dtype != np.float32:
            if dtype is None or dtype.kind != "f":  # rounded, so that no density is left
                return np.full(len(action), math.nan)
            action = torch.as_tensor(action.numpy().astype(dtype).astype(np.float32))
        with torch.no_grad():
            own = self._policy()(torch.as_tensor(self.worlds.obs))
            return self._acting(in_double(own)).log_prob(action).numpy()

    def _policy(self) -> nn.Module:
        """The policy network with the parameters of `now`, on the CPU as the environments are."""
        network = self.modules["policy"]
        tensors = self.now.state["params"]["policy"]
        for name, parameter in network.named_parameters():
            parameter.data = tensors[name].cpu()  # itself, where it is there
        for name, buffer in network.named_buffers():
            buffer.data = self.now.state["buffers"]["policy"][name].cpu()
        return network

    def _remember(self, step: Lived, log_prob: Tensor) -> None:
        self.returns += step.returns
        self.floor.lived(step.returns, self.env_step)
        self.lengths += step.lengths
        self.extremes = self.extremes.seen(step.reward, step.terminated)
        self.replay.add(
            {
                "obs": torch.as_tensor(step.obs),
                "action": torch.as_tensor(step.action),
                "reward": torch.as_tensor(step.reward),
                "next_obs": torch.as_tensor(step.next_obs),
                "terminated": torch.as_tensor(step.terminated),
                "truncated": torch.as_tensor(step.truncated),
                "behavior_log_prob": log_prob,
            }
        )

    def _told(self, rate: float) -> dict[str, float]:
        values = {name: float(value) for name, value in self.now.metrics.items()}
        values |= {"env_step": self.env_step, "online/env_steps_per_second": rate}
        if any(name.startswith("critic/") for name in values):
            span = self.extremes.possible(self.algorithm.config.discount)
            values |= {POSSIBLE_LOW: span.low, POSSIBLE_HIGH: span.high}
        if self.returns:
            values["online/return_mean"] = float(np.mean(self.returns))
            values["online/length_mean"] = float(np.mean(self.lengths))
            values["online/episodes"] = float(len(self.returns))
        return values

    def _tried(self) -> Generator[Event]:
        found = self.evaluate(copy.deepcopy(self._policy()))
        yield Evaluated(self.seed, self.now.step, {**found, "env_step": self.env_step})
        self.floor.judge(self.now, self.env_step, float(found["return_mean"]))
        self.tried_at = self.env_step

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
        return self._write(*self._held())

    def _held(self) -> tuple[int, dict[str, State], dict[str, Any]]:
        """Step, tensors and page of a checkpoint of this moment."""
        page = checkpoints.page_of(self.modules, self.spec)
        page["env_step"] = self.env_step
        page |= {"returns": [*self.returns], "lengths": [*self.lengths]}
        page |= {"logged_at": self.logged_at, "tried_at": self.tried_at}
        page["metrics"] = {name: float(value) for name, value in self.now.metrics.items()}
        page |= self.floor.page()
        page["extremes"] = list(self.extremes)
        page["seconds"] = time.perf_counter() - self.began
        trees = {
            "state": self.now.state,
            "replay": self.replay.tensors(),
            "worlds": self.worlds.tensors(),
            "floor": self.floor.tensors(),
        }
        return self.now.step, trees, page

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `_held` gave of the memory; KeyError where something is missing."""
        self.replay.restore(checkpoints.under("replay", tensors))

    def _write(self, step: int, trees: dict[str, State], page: dict[str, Any]) -> Saved:
        if self.worlds.recording:
            self.worlds.recording.flush()
        path = checkpoints.save(self.folder, step, trees, page)
        self.saved_at = page["env_step"]
        return Saved(self.seed, step, path)
