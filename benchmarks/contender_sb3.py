"""Stable-Baselines3's side: `python -m benchmarks.contender_sb3 ENV ZIP EPISODES`.

Runs in an environment of its own, since offrl does not need that library.
A plain loop of `predict` and `env.step` that keeps nothing, after a warm-up; prints the steps per
second of processor time.
"""

import sys
import time
import warnings
from pathlib import Path

import gymnasium
import torch
from sb3_contrib import TQC, TRPO
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

KINDS = {"ppo": PPO, "a2c": A2C, "trpo": TRPO, "sac": SAC, "tqc": TQC, "dqn": DQN}


def main(env_id: str, path: Path, episodes: int) -> None:
    """Time the loop."""
    warnings.simplefilter("ignore")
    # Agents of before 2023 name the package by its old name.
    sys.modules |= {"gym": gymnasium, "gym.spaces": gymnasium.spaces}
    sys.modules["gym.spaces.box"] = gymnasium.spaces.box
    torch.set_num_threads(1)
    env = gymnasium.make(env_id)
    names = ("learning_rate", "lr_schedule", "clip_range", "exploration_schedule")
    given = dict.fromkeys(names, 0.0) | {
        "observation_space": env.observation_space,
        "action_space": env.action_space,
        "buffer_size": 1,
    }
    model = KINDS[path.parent.name].load(path, custom_objects=given, device="cpu")
    statistics = path.with_name(f"{path.stem}.vecnormalize.pkl")
    normalize = None
    if statistics.exists():
        normalize = VecNormalize.load(str(statistics), DummyVecEnv([lambda: env]))

    def play(number: int) -> int:
        steps, ended = 0, False
        obs, _ = env.reset(seed=number)
        while not ended:
            seen = obs if normalize is None else normalize.normalize_obs(obs)
            action, _ = model.predict(seen, deterministic=True)
            obs, _, terminated, truncated, _ = env.step(action)
            ended, steps = terminated or truncated, steps + 1
        return steps

    play(0)
    started = time.process_time()
    total = sum(play(number) for number in range(episodes))
    print(total / (time.process_time() - started))


main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
