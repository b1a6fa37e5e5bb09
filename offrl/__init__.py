"""Offline reinforcement learning, from logs to a judged policy.

The public names, each imported when it is first used, so that `import offrl` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from offrl import ope as ope
    from offrl.algorithm import Algorithm
    from offrl.batch import Batch
    from offrl.checkpoint import TrainedRun, load_policy, load_run
    from offrl.collect.recorder import record
    from offrl.data.checks import check
    from offrl.data.dataset import Dataset, load
    from offrl.data.episodes import Episode
    from offrl.data.formats import import_file
    from offrl.data.formats.export import export_file
    from offrl.data.spec import Spec
    from offrl.data.transitions import Transitions
    from offrl.data.writer import Writer
    from offrl.errors import OffrlError
    from offrl.evaluation.compare import compare
    from offrl.evaluation.evaluate import Evaluation, evaluate
    from offrl.evaluation.results import results
    from offrl.grid import fit_grid
    from offrl.learner import Learner
    from offrl.online.training import finetune, fit_online
    from offrl.ope.judging import judge
    from offrl.policy import Policy
    from offrl.report.making import write_card, write_report
    from offrl.selection import select
    from offrl.sweeps.run import sweep
    from offrl.training import fit

    __version__: str

# No public function may share a submodule's name: importing the submodule would replace it.
_HOME = {
    "Algorithm": "algorithm",
    "Batch": "batch",
    "Dataset": "data.dataset",
    "Episode": "data.episodes",
    "Evaluation": "evaluation.evaluate",
    "Learner": "learner",
    "OffrlError": "errors",
    "Policy": "policy",
    "Spec": "data.spec",
    "TrainedRun": "checkpoint",
    "Transitions": "data.transitions",
    "Writer": "data.writer",
    "check": "data.checks",
    "compare": "evaluation.compare",
    "evaluate": "evaluation.evaluate",
    "export_file": "data.formats.export",
    "fit": "training",
    "finetune": "online.training",
    "fit_grid": "grid",
    "fit_online": "online.training",
    "import_file": "data.formats",
    "judge": "ope.judging",
    "load": "data.dataset",
    "load_policy": "checkpoint",
    "load_run": "checkpoint",
    "record": "collect.recorder",
    "results": "evaluation.results",
    "select": "selection",
    "sweep": "sweeps.run",
    "write_card": "report.making",
    "write_report": "report.making",
}

__all__ = [
    "Algorithm",
    "Batch",
    "Dataset",
    "Episode",
    "Evaluation",
    "Learner",
    "OffrlError",
    "Policy",
    "Spec",
    "TrainedRun",
    "Transitions",
    "Writer",
    "__version__",
    "check",
    "compare",
    "evaluate",
    "export_file",
    "finetune",
    "fit",
    "fit_grid",
    "fit_online",
    "import_file",
    "judge",
    "load",
    "load_policy",
    "load_run",
    "record",
    "results",
    "select",
    "sweep",
    "write_card",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("offrl")
    elif name in _HOME:
        value = getattr(import_module(f"offrl.{_HOME[name]}"), name)
    elif name == "ope":  # offrl.ope.estimate, without another import
        value = import_module("offrl.ope")
    else:
        raise AttributeError(f"module 'offrl' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
