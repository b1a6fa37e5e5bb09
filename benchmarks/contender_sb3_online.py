"""Stable-Baselines3's side: `python -m benchmarks.contender_sb3_online ALGO WIDTH THREADS`.

Runs in an environment of its own, since offrl does not need that library.
"""

import sys

import gymnasium
import numpy as np
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.noise import NormalActionNoise

from benchmarks.one_core import stay_on_cores
from benchmarks.online import BATCH, CHUNK, ENV, LR, NOISE, WARMUP
from benchmarks.serve import serve


def main(algo: str, width: int, threads: int) -> None:
    """Serve environment steps of `learn`, an update after each."""
    env = gymnasium.make(ENV)
    mean = np.zeros(env.action_space.shape)
    noise = NormalActionNoise(mean, mean + NOISE)
    settings = {"action_noise": noise, "policy_delay": 2} if algo == "td3" else {}
    stay_on_cores(threads)
    model = {"td3": TD3, "sac": SAC}[algo](
        "MlpPolicy",
        env,
        learning_rate=LR,
        buffer_size=100_000,
        learning_starts=WARMUP,
        batch_size=BATCH,
        train_freq=1,
        gradient_steps=1,
        policy_kwargs={"net_arch": [width, width]},
        device="cpu",
        seed=0,
        **settings,
    )

    def advance(n: int) -> None:
        model.learn(n, reset_num_timesteps=False)

    advance(WARMUP + CHUNK)
    serve(advance, threads)


main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
