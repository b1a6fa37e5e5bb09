"""offrl's side of the comparison: `python -m benchmarks.contender_offrl ALGO WIDTH FORM`."""

import sys

from benchmarks.one_core import stay_on_one_core
from benchmarks.serve import serve
from benchmarks.workload import BATCH, logs
from offrl import algos, learner
from offrl.algorithm import configure, start
from offrl.batch import Table
from offrl.data.dataset import Dataset
from offrl.sampler import Sampler

# A pass of AWR in the proportions of its defaults, short enough that every measurement holds
# whole ones: value steps, policy steps, and the recomputation of returns and advantages.
PASS = {"value_steps": 200, "policy_steps": 800, "value_refits": 1}
SETTINGS = {"bc-deterministic": {"head": "deterministic"}, "awr": PASS}


def main(contender: str, width: int, form: str) -> None:
    """Serve updates of one algorithm at one width; form: eager, compiled, or compiled-bf16."""
    kind = algos.get("bc" if contender.startswith("bc") else contender)
    settings = {**SETTINGS.get(contender, {}), "batch_size": BATCH, "hidden_size": width}
    transitions = Dataset.from_arrays(*logs(discrete="box" not in kind.spaces)).transitions
    algorithm = kind(configure(kind.Config, settings), transitions.spec)
    table = Table.of(transitions)
    precision = "bf16" if form.endswith("bf16") else "fp32"
    modules, state = start(algorithm, table, seed=0, precision=precision)
    update = learner.make_update(algorithm, modules, compiled=form.startswith("compiled"))
    sampler = Sampler(
        table, seed=0, batch_size=BATCH, rows=algorithm.rows(table), draws=algorithm.draws()
    )
    progress = learner.Progress(0, state, state, {})

    def advance(n: int) -> None:
        nonlocal progress
        stop = progress.step + n
        for reached in learner.steps(algorithm, modules, sampler, progress, stop, update):
            progress = reached

    stay_on_one_core()
    advance(sum(PASS.values()) - 1 if contender == "awr" else 100)  # every stage, compiled, warm
    serve(advance)


main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
