"""Options that several commands have, each declared once."""

from typing import Annotated

import typer

from offrl_cli.values import natural, one_of, positive, seconds

SEED = "One seed."
DEVICE = "auto, cpu, cuda, cuda:1, mps ..."
COMPILE = "Compile the update: auto does for long runs, where a C++ compiler is found."
PRECISION = "Precision of the hidden layers."
THREADS = "Threads of the processor; bits depend on it."
STEP_TIMEOUT = "End an environment that takes longer for a step, in a process of its own."
TRACK = "Send the metrics to a tracking service too [default: nowhere]."

Seed = Annotated[int | None, typer.Option(metavar="S", parser=natural, help=SEED)]
Device = Annotated[str | None, typer.Option(metavar="NAME", help=DEVICE)]
Compile = Annotated[
    str | None,
    typer.Option(metavar="auto|on|off", parser=one_of("auto", "on", "off"), help=COMPILE),
]
Precision = Annotated[
    str | None, typer.Option(metavar="fp32|bf16", parser=one_of("fp32", "bf16"), help=PRECISION)
]
Threads = Annotated[int | None, typer.Option(metavar="N", parser=positive, help=THREADS)]
StepTimeout = Annotated[
    float | None, typer.Option(metavar="SECONDS", parser=seconds, help=STEP_TIMEOUT)
]
Track = Annotated[str | None, typer.Option(metavar="wandb|mlflow|trackio", help=TRACK)]
