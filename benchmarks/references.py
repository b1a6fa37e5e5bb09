"""Measure offrl's own reference returns: a random and an expert policy over 1000 episodes each.

Prints the rows as `offrl/evaluation/references.toml` holds them, those of the controllers that are
named or all. Episode i depends on (seed, i).

python -m benchmarks.references [umaze-waypoints ...]
"""

import sys
from importlib.metadata import version

import numpy as np

from offrl.collect.behaviors import Behavior, build
from offrl.collect.controllers import CONTROLLERS
from offrl.data.recipe import BehaviorSpec
from offrl.environments import make_env
from offrl.evaluation.rollouts import env_seed

EPISODES, SEED = 1000, 0
DATASETS = {
    "pendulum-swing-up": "offrl/pendulum/*",
    "cartpole-balance": "offrl/cartpole/*",
    "mountain-car-pump": "offrl/mountaincar-continuous/*",
    "umaze-waypoints": "offrl/pointmaze/*",
}
SIMULATORS = {"PointMaze_UMaze-v3": ("gymnasium-robotics", "mujoco")}


def main() -> None:
    """Print one row for each built-in controller that is asked for."""
    for expert in sys.argv[1:] or DATASETS:
        dataset = DATASETS[expert]
        env_id = CONTROLLERS[expert].env_id
        random, trained = _returns("random", env_id), _returns(expert, env_id)
        env = make_env(env_id)
        used = ("offrl", "gymnasium", "numpy", *SIMULATORS.get(env_id, ()))
        made = ", ".join(f"{name} {version(name)}" for name in used)
        limit = env.spec.max_episode_steps if env.spec is not None else None
        print(
            "[[reference]]",
            f'task = "{env_id}"',
            f"random = {random.mean():.6f}",
            f"expert = {trained.mean():.6f}",
            f"max_steps = {limit}",
            f'datasets = ["{dataset}"]',
            f'envs = ["{env_id}"]',
            'source = "offrl, benchmarks/references.py"',
            f'policy = "{expert}"',
            f"n = {EPISODES}",
            f"seed = {SEED}",
            f"random_std = {random.std(ddof=1):.6f}",
            f"expert_std = {trained.std(ddof=1):.6f}",
            f'versions = "{made}"',
            "",
            sep="\n",
        )


def _returns(policy: str, env_id: str) -> np.ndarray:
    env = make_env(env_id)
    behavior = build(BehaviorSpec(policy), env.observation_space, env.action_space)
    return np.array([_episode(env_id, behavior, i) for i in range(EPISODES)])


def _episode(env_id: str, behavior: Behavior, episode: int) -> float:
    env = make_env(env_id)
    rng = np.random.default_rng(np.random.SeedSequence(SEED, spawn_key=(episode,)))
    obs, _ = env.reset(seed=env_seed(SEED, episode))
    behavior.reset(rng)
    total, over = 0.0, False
    while not over:
        obs, reward, terminated, truncated, _ = env.step(behavior.act(obs, rng)[0])
        total += float(reward)
        over = terminated or truncated
    env.close()
    return total


if __name__ == "__main__":
    main()
