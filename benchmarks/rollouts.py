"""Episodes per second of Pendulum on one core: offrl's rollouts beside a plain loop.

Both act with the same 2x256 policy in the same episodes: the plain loop steps one environment and
asks for one action at a time. The two take turns, and the medians are compared.
"""

import statistics
import time
from collections.abc import Callable

import gymnasium
import torch

from benchmarks.one_core import stay_on_one_core
from offrl.data.spec import Spec
from offrl.evaluation.rollouts import env_seed, rollout
from offrl.nn import policy_head
from offrl.policy import Policy

ENV = "Pendulum-v1"
EPISODES = 64


def measure(rounds: int = 7) -> dict[str, float]:
    """Return the median episodes per second of both, and their ratio; print the three."""
    stay_on_one_core()
    policy = _policy()
    plain: list[float] = []
    batched: list[float] = []
    for _ in range(rounds):
        plain.append(_rate(lambda: _one_at_a_time(policy)))
        batched.append(_rate(lambda: _side_by_side(policy)))
    found = {
        "plain_episodes_per_second": statistics.median(plain),
        "offrl_episodes_per_second": statistics.median(batched),
        "ratio": statistics.median(batched) / statistics.median(plain),
    }
    for name, value in found.items():
        print(f"{name:28} {value:8.2f}")
    return found


def _policy() -> Policy:
    env = gymnasium.make(ENV)
    spec = Spec(env.observation_space, env.action_space)
    torch.manual_seed(0)
    return Policy(spec, policy_head("gaussian", spec.obs_dim, spec.action_dim, 256, 2))


def _one_at_a_time(policy: Policy) -> None:
    env = gymnasium.make(ENV)
    for episode in range(EPISODES):
        obs, _ = env.reset(seed=env_seed(0, episode))
        over = False
        while not over:
            action = policy.act(obs[None])[0]
            obs, _, terminated, truncated, _ = env.step(action)
            over = terminated or truncated


def _side_by_side(policy: Policy) -> None:
    rollout(policy.act, policy.spec, lambda: gymnasium.make(ENV), episodes=EPISODES, seed=0)


def _rate(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return EPISODES / (time.perf_counter() - started)


if __name__ == "__main__":
    measure()
