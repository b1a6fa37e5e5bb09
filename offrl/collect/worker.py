"""A collecting process: plays the episodes whose numbers it is given, and hands them to its parent.

Run by `pool` as a program of its own. Standard input brings one JSON line that says what to play,
then one episode number a line; standard output takes frames. When standard input closes, because
the parent is done or was killed, it ends at once: what it has not handed over is nobody's.
"""

import json
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO


def numbers_from(source: BinaryIO) -> Iterator[int]:
    """Yield the numbers that arrive; the process ends when no more can come."""
    arrived: queue.SimpleQueue[int] = queue.SimpleQueue()

    def listen() -> None:
        for line in source:
            arrived.put(int(line))
        os._exit(0)  # in the middle of a step, if need be

    threading.Thread(target=listen, daemon=True).start()
    while True:
        yield arrived.get()


def work(request: dict[str, Any], numbers: Iterator[int], out: BinaryIO) -> int:
    """Play the episodes `numbers` of a request; the exit status."""
    from offrl.collect.actors import actors_of
    from offrl.collect.episodes import play_numbers
    from offrl.data.frames import write_episode, write_message
    from offrl.data.recipe import BehaviorSpec
    from offrl.errors import OffrlError
    from offrl.guard import makers

    logging.getLogger("offrl").setLevel(logging.ERROR)  # the parent has said it already
    number = None
    try:
        with makers(request["step_timeout"]) as made:
            env = made.by_id(request["env"], trust=request["trust_env"])
            specs = [BehaviorSpec(**fields) for fields in request["behaviors"]]
            actors = actors_of(specs, env, trust=request["trust"])

            def noted() -> Iterator[int]:
                nonlocal number
                for arrived in numbers:
                    number = arrived
                    yield number

            for episode in play_numbers(env, actors, noted(), seed=request["seed"]):
                write_episode(out, episode)
    except OffrlError as error:
        told = {"error": type(error).__name__, "cause": error.cause, "remedy": error.remedy}
        write_message(out, told | {"episode": number})
        return error.exit_code
    except BrokenPipeError:
        return 1
    return 0


def main() -> int:
    """Serve one parent and return the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    source = os.fdopen(os.dup(0), "rb")
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not be read as a frame
    request = json.loads(source.readline() or "null")
    if request is None:
        return 1
    sys.path[:] = request["path"]  # the parent's: what it can import, this one can
    return work(request, numbers_from(source), out)


if __name__ == "__main__":
    sys.exit(main())
