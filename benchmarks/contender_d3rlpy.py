"""d3rlpy's side: `python -m benchmarks.contender_d3rlpy WIDTH`, in its own environment.

Its BC has no compiled form on a CPU: `compile_graph` asks for a CUDA device. A batch is drawn and
one update made per step, as `fit` does, without its progress bar and logger.
"""

import sys

import d3rlpy

from benchmarks.one_core import stay_on_one_core
from benchmarks.serve import serve
from benchmarks.workload import BATCH, EPISODES, LENGTH, OBS_DIM, logs


def main(width: int) -> None:
    """Serve updates of deterministic BC, d3rlpy's default, with two hidden layers of `width`."""
    columns = logs()
    # It keeps T observations of an episode of T actions, so the last of each is left out.
    obs = columns.obs.reshape(EPISODES, LENGTH + 1, OBS_DIM)[:, :-1].reshape(-1, OBS_DIM)
    dataset = d3rlpy.dataset.MDPDataset(
        observations=obs,
        actions=columns.action,
        rewards=columns.reward.astype("float32"),
        terminals=columns.terminated.astype("float32"),
        timeouts=columns.truncated.astype("float32"),
    )
    encoder = d3rlpy.models.VectorEncoderFactory([width, width])
    algo = d3rlpy.algos.BCConfig(batch_size=BATCH, encoder_factory=encoder).create(device="cpu:0")
    algo.build_with_dataset(dataset)

    def advance(n: int) -> None:
        for _ in range(n):
            algo.update(dataset.sample_transition_batch(BATCH))

    stay_on_one_core()
    advance(200)
    serve(advance)


main(int(sys.argv[1]))
