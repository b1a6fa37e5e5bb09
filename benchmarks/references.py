"""Measure offrl's own reference returns: a random and, where there is one, an expert policy.

    python benchmarks/references.py                       classic control, 1000 episodes each
    python benchmarks/references.py --agents DIR          MuJoCo v5, 50 episodes each

Prints the rows as `offrl/evaluation/references.toml` holds them. Episode i depends on (seed, i).
`--agents` is the folder of agents in OFFRL_REALDATA: rl-trained-agents/zips.
"""

import argparse
from importlib.metadata import version
from pathlib import Path

import numpy as np

from offrl.collect.behaviors import build
from offrl.collect.controllers import CONTROLLERS
from offrl.data.recipe import BehaviorSpec
from offrl.environments import make_env
from offrl.evaluation.rollouts import env_seed

SEED = 0
CLASSIC, MUJOCO = 1000, 50  # episodes
DATASETS = {
    "pendulum-swing-up": ["offrl/pendulum/*"],
    "cartpole-balance": ["offrl/cartpole/*"],
    "mountain-car-pump": ["offrl/mountaincar-continuous/*"],
    "mountain-car-swing": [],
    "acrobot-swing": [],
}
AGENTS = {  # of MuJoCo v5, trained in v3 by rl-baselines3-zoo, whose spaces are the same
    "HalfCheetah-v5": "sac/HalfCheetah-v3.zip",
    "Hopper-v5": "tqc/Hopper-v3.zip",
    "Walker2d-v5": None,
    "Ant-v5": None,
    "Swimmer-v5": None,
    "Humanoid-v5": None,
    "InvertedPendulum-v5": None,
    "InvertedDoublePendulum-v5": None,
    "Reacher-v5": None,
    "Pusher-v5": None,
}


def main() -> None:
    """Print one row for each built-in controller, or for each MuJoCo environment."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--agents", type=Path)
    agents = parser.parse_args().agents
    made = f"offrl {version('offrl')}, gymnasium {version('gymnasium')}, numpy {version('numpy')}"
    if agents is None:
        for expert, datasets in DATASETS.items():
            env_id = CONTROLLERS[expert].env_id
            names = ", ".join(f'"{name}"' for name in datasets)
            random, trained = (_returns(one, env_id, CLASSIC) for one in ("random", expert))
            print("[[reference]]", f'task = "{env_id}"', sep="\n")
            print(f"random = {random.mean():.6f}", f"expert = {trained.mean():.6f}", sep="\n")
            print(f"max_steps = {_limit(env_id)}", f"datasets = [{names}]", sep="\n")
            print(f'envs = ["{env_id}"]', 'source = "offrl, benchmarks/references.py"', sep="\n")
            print(f'policy = "{expert}"', f"n = {CLASSIC}", f"seed = {SEED}", sep="\n")
            print(f"random_std = {random.std(ddof=1):.6f}")
            print(f"expert_std = {trained.std(ddof=1):.6f}", f'versions = "{made}"\n', sep="\n")
        return
    made += f", mujoco {version('mujoco')}"
    for env_id, agent in AGENTS.items():
        random = _returns("random", env_id, MUJOCO)
        print("[[measured]]", f'env = "{env_id}"', f"random = {random.mean():.6f}", sep="\n")
        print(f"random_std = {random.std(ddof=1):.6f}", flush=True)
        if agent is not None:
            trained = _returns(f"sb3:{agents / agent}", env_id, MUJOCO)
            print(
                f"expert = {trained.mean():.6f}",
                f"expert_std = {trained.std(ddof=1):.6f}",
                sep="\n",
            )
            print(f'policy = "rl-baselines3-zoo {agent}"')
        print(f"n = {MUJOCO}", f"seed = {SEED}", f"max_steps = {_limit(env_id)}", sep="\n")
        print('source = "offrl, benchmarks/references.py"', f'versions = "{made}"\n', sep="\n")


def _limit(env_id: str) -> int | None:
    env = make_env(env_id)
    env.close()
    return env.spec.max_episode_steps if env.spec is not None else None


def _returns(policy: str, env_id: str, episodes: int) -> np.ndarray:
    env = make_env(env_id)
    behavior = build(BehaviorSpec(policy), env.observation_space, env.action_space)
    found = np.zeros(episodes)
    for episode in range(episodes):
        rng = np.random.default_rng(np.random.SeedSequence(SEED, spawn_key=(episode,)))
        obs, _ = env.reset(seed=env_seed(SEED, episode))
        behavior.reset(rng)
        over = False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(behavior.act(obs, rng)[0])
            found[episode] += float(reward)
            over = terminated or truncated
    env.close()
    return found


if __name__ == "__main__":
    main()
