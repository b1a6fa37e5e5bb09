"""d3rlpy's side of the comparison of results, run in its own environment.

python -m benchmarks.learner_d3rlpy NAME COLUMNS.npz STEPS SEED WIDTH

Trains on transitions that it is handed row by row: its own readers of Minari and of episode arrays
pair rows otherwise. Then, for each batch of float32 observations [ROWS, obs_dim] on standard input,
writes its greedy actions to standard output.
"""

import os
import sys

import d3rlpy
import numpy as np
import torch
from d3rlpy.dataset import TransitionMiniBatch

BATCH, ROWS = 256, 32  # rows of a batch of observations, as offrl's evaluation sends them


def create(name: str, width: int, columns: dict[str, np.ndarray]):
    """An algorithm with the settings that offrl's has too, and its own defaults for the rest."""
    encoder = d3rlpy.models.VectorEncoderFactory([width, width])
    mean, std = columns["obs"].mean(0), columns["obs"].std(0)
    scaler = d3rlpy.preprocessing.StandardObservationScaler(mean=mean, std=std)
    shared = {"batch_size": BATCH, "observation_scaler": scaler}
    if name in ("dqn", "discrete-cql"):
        kind = d3rlpy.algos.DoubleDQNConfig if name == "dqn" else d3rlpy.algos.DiscreteCQLConfig
        config = kind(
            **shared, learning_rate=3e-4, target_update_interval=200, encoder_factory=encoder
        )
    else:
        actions = d3rlpy.preprocessing.MinMaxActionScaler(
            minimum=columns["low"], maximum=columns["high"]
        )
        shared |= {"action_scaler": actions, "actor_encoder_factory": encoder}
        shared["critic_encoder_factory"] = encoder
        if name == "iql":
            shared["value_encoder_factory"] = encoder
        if name == "cql":
            shared |= {"conservative_weight": 5.0, "alpha_learning_rate": 0.0}  # no Lagrangian
        kinds = {
            "td3-bc": d3rlpy.algos.TD3PlusBCConfig,
            "iql": d3rlpy.algos.IQLConfig,
            "cql": d3rlpy.algos.CQLConfig,
        }
        config = kinds[name](**shared)
    algo = config.create(device="cpu:0")
    n_actions = int(columns["n_actions"])
    algo.create_impl((columns["obs"].shape[1],), n_actions)
    return algo


def batch_of(columns: dict[str, np.ndarray], rows: np.ndarray) -> TransitionMiniBatch:
    """The rows as d3rlpy takes them; nothing that is compared here reads the next action."""
    n = len(rows)
    action = columns["action"][rows]
    if action.ndim == 1:
        action = action[:, None]
    action = action.astype(np.float32)
    return TransitionMiniBatch(
        observations=columns["obs"][rows],
        actions=action,
        rewards=columns["reward"][rows, None],
        next_observations=columns["next_obs"][rows],
        next_actions=action,
        terminals=columns["terminated"][rows, None],
        intervals=np.ones((n, 1), np.float32),
        transitions=[],
    )


def main(name: str, path: str, steps: int, seed: int, width: int) -> None:
    """Train, say `trained`, then answer observations with actions."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what it prints must not be read as actions
    torch.set_num_threads(1)
    d3rlpy.seed(seed)
    with np.load(path) as file:
        columns = dict(file)
    algo = create(name, width, columns)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        algo.update(batch_of(columns, rng.integers(0, len(columns["obs"]), BATCH)))
    out.write(b"trained\n")
    out.flush()
    n_obs = columns["obs"].shape[1]
    while data := sys.stdin.buffer.read(ROWS * n_obs * 4):
        obs = np.frombuffer(data, np.float32).reshape(ROWS, n_obs)
        action = algo.predict(obs)
        discrete = columns["action"].ndim == 1
        out.write(np.ascontiguousarray(action, np.int64 if discrete else np.float32).tobytes())
        out.flush()


main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
