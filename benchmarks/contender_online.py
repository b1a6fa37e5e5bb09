"""offrl's side of acting: `python -m benchmarks.contender_online ALGO FORM WIDTH THREADS`."""

import sys
import tempfile

from benchmarks.one_core import stay_on_cores
from benchmarks.online import BATCH, CHUNK, ENV, LR, NOISE, WARMUP
from benchmarks.serve import serve
from offrl.events import Trained
from offrl.online.plan import resolve
from offrl.online.training import train

NEVER = 10**9


def main(algo: str, form: str, width: int, threads: int, out: str) -> None:
    """Serve environment steps of a run, an update after each; forms as in `benchmarks.online`."""
    plan = resolve(
        algo,
        ENV,
        NEVER,
        out=out,
        compile="off" if form == "eager" else "on",
        precision="bf16" if form == "compiled-bf16" else "fp32",
        threads=threads,
        hyperparameters={"hidden_size": width, "batch_size": BATCH, "lr": LR},
        online={
            "warmup": WARMUP,
            "noise": NOISE,
            "replay_size": 100_000,
            "log_every": CHUNK,
            "eval_every": NEVER,
            "eval_episodes": 1,
            "save_every": NEVER,
        },
    )
    stay_on_cores(threads)
    rows = (event for event in train(plan) if isinstance(event, Trained))

    def advance(n: int) -> None:
        for _ in range(n // CHUNK):
            next(rows)

    advance(CHUNK + WARMUP + CHUNK)  # a row of step 0, the warm-up, and what is compiled
    serve(advance, threads)


with tempfile.TemporaryDirectory() as folder:
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), f"{folder}/run")
