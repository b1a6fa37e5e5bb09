"""d3rlpy's side: `python -m benchmarks.contender_d3rlpy ALGO WIDTH`, in its own environment.

It has no compiled form on a CPU: `compile_graph` asks for a CUDA device. A batch is drawn and one
update made per step, as `fit` does, without its progress bar and logger.
"""

import inspect
import sys

import d3rlpy

from benchmarks.one_core import stay_on_one_core
from benchmarks.serve import serve
from benchmarks.workload import BATCH, EPISODES, LENGTH, OBS_DIM, logs

CONFIGS = {
    "bc": d3rlpy.algos.BCConfig,
    "td3-bc": d3rlpy.algos.TD3PlusBCConfig,
    "iql": d3rlpy.algos.IQLConfig,
    "cql": d3rlpy.algos.CQLConfig,
    "dqn": d3rlpy.algos.DoubleDQNConfig,
}


def main(name: str, width: int) -> None:
    """Serve updates of an algorithm, d3rlpy's defaults, with two hidden layers of `width`."""
    columns = logs(discrete=name == "dqn")
    # It keeps T observations of an episode of T actions, so the last of each is left out.
    obs = columns.obs.reshape(EPISODES, LENGTH + 1, OBS_DIM)[:, :-1].reshape(-1, OBS_DIM)
    dataset = d3rlpy.dataset.MDPDataset(
        observations=obs,
        actions=columns.action.reshape(len(columns.reward), -1),
        rewards=columns.reward.astype("float32"),
        terminals=columns.terminated.astype("float32"),
        timeouts=columns.truncated.astype("float32"),
    )
    encoder = d3rlpy.models.VectorEncoderFactory([width, width])
    config = CONFIGS[name]
    encoders = [
        key for key in inspect.signature(config).parameters if key.endswith("encoder_factory")
    ]
    algo = config(batch_size=BATCH, **dict.fromkeys(encoders, encoder)).create(device="cpu:0")
    algo.build_with_dataset(dataset)

    def advance(n: int) -> None:
        for _ in range(n):
            algo.update(dataset.sample_transition_batch(BATCH))

    stay_on_one_core()
    advance(50)
    serve(advance)


main(sys.argv[1], int(sys.argv[2]))
