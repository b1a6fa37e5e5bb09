"""One trial, wherever it is performed; as a program, trials one after the other.

`python -m offrl.sweeps.worker` takes a request a line on its standard input and answers each with
a line. When its input closes it saves where it stands and ends.
"""

import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import closing, suppress
from typing import Any

from offrl.data.durable import write_file
from offrl.errors import NumericsError, OffrlError
from offrl.evaluation.evaluate import evaluate
from offrl.events import Diverged, Finished
from offrl.plan import resolve
from offrl.run import FORMAT
from offrl.sweeps.trials import outcome_path
from offrl.training import train
from offrl.workers import stop_with_parent


def perform(request: Mapping[str, Any]) -> dict[str, Any]:
    """Train what `Trial.request` describes, or go on with it, evaluate it, and say what came of it.

    The outcome is in a file beside the run too. What goes wrong is an outcome and raises nothing.
    """
    began = time.perf_counter()
    try:
        found = _trained(request)
        outcome = outcome_of(request, "finished", **found)
        write_file(outcome_path(request["out"]), json.dumps(outcome, indent=2).encode())
        return outcome
    except OffrlError as error:
        failed = outcome_of(request, "failed", error=f"{error.cause} {error.remedy}".strip())
    except OSError as error:
        said = f"{error.filename or request['out']}: {error.strerror or error}."
        failed = outcome_of(request, "failed", error=said)
    except Exception as error:  # an outcome of this trial, whatever it is; the others go on
        said = f"{type(error).__name__}: {error}"
        failed = outcome_of(request, "failed", error=said, traceback=traceback.format_exc())
    return keep(request, {**failed, "seconds": time.perf_counter() - began})


def outcome_of(request: Mapping[str, Any], status: str, **found: Any) -> dict[str, Any]:
    """What the file of a trial holds."""
    return {"format": FORMAT, "status": status, "evaluation": request["evaluation"], **found}


def keep(request: Mapping[str, Any], outcome: dict[str, Any]) -> dict[str, Any]:
    """Write the outcome of a trial that failed, where the disk allows it, and return it."""
    with suppress(OSError):
        path = outcome_path(request["out"])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(outcome, indent=2).encode())
    return outcome


def _trained(request: Mapping[str, Any]) -> dict[str, Any]:
    settings = {**request["settings"], "seeds": tuple(request["settings"]["seeds"])}
    plan = resolve(
        request["algo"],
        request["dataset"],
        out=request["out"],
        resume=True,
        hyperparameters=request["hyperparameters"],
        **settings,
    )
    seconds = 0.0
    with closing(train(plan)) as events:
        for event in events:
            if isinstance(event, Diverged):
                raise NumericsError(
                    f"Training has diverged: {event.message}",
                    "The last good checkpoint is kept.",
                )
            if isinstance(event, Finished):
                seconds = event.seconds
    judging = request["evaluation"]
    if not judging["episodes"]:
        return {"seconds": seconds}
    found = evaluate(
        plan.dir, judging["env"], episodes=judging["episodes"], seed=judging["seed"]
    ).to_dict()
    names = ("return_mean", "return_std", "n_episodes", "score", "length_mean", "env", "checkpoint")
    return {"seconds": seconds, **{name: found[name] for name in names}}


def main() -> int:
    """Answer requests until the input closes; the exit status."""
    requests: queue.Queue[bytes | None] = queue.Queue()
    working = threading.Event()

    def take(line: bytes | None) -> None:
        if line is not None:  # it counts from here: its input may close before it is begun
            working.set()
        requests.put(line)

    try:
        stop_with_parent(take, busy=working.is_set)
        answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # whatever prints must not be read as an answer
        while (line := requests.get()) is not None:
            outcome = perform(json.loads(line))
            working.clear()
            print(json.dumps(outcome), file=answers, flush=True)
    except (BrokenPipeError, KeyboardInterrupt):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
